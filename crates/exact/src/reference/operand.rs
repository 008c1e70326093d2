use crate::arith::{bit_length, clamp16, rs};

/// An int16 vector with the shift that was taken out of it, ready for a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operand {
    /// -32767 to 32767; the activation is about `elements · 2^shift`.
    pub elements: Vec<i16>,
    /// s: 0 to 16.
    pub shift: u32,
    /// Lowest index of the largest magnitude: the one element that proves the shift. 0 for an empty vector.
    pub witness: usize,
}

/// int32 to int16 by one shift: `s = max(0, bit_length(max |x|) - 15)`, `q = clamp16(rs(x, s))` (EXACT.md, section 4.1).
///
/// |x| <= 2^31 - 1 has at most 31 bits, so s <= 16. Rounding may carry to 32768, which the clamp takes to 32767.
#[must_use]
pub fn to_operand(x: &[i32]) -> Operand {
    let mut witness = 0;
    let mut largest = 0;
    for (at, &x) in x.iter().enumerate() {
        if x.unsigned_abs() > largest {
            (witness, largest) = (at, x.unsigned_abs());
        }
    }
    let shift = bit_length(u64::from(largest)).saturating_sub(15);
    let elements = x.iter().map(|&x| clamp16(rs(i64::from(x), shift))).collect();
    Operand { elements, shift, witness }
}
