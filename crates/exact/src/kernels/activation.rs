//! GELU of many elements; twin of [`reference::gelu_erf`](crate::reference::gelu_erf).

use super::isa::multiversion;
use crate::{arith::clamp32, tables::NORMAL_CDF};

multiversion! {
    /// GELU (erf) of each element, in place.
    pub fn gelu_erf(elements: &mut [i32]) -> () = body
}

#[inline(always)]
fn body(elements: &mut [i32]) {
    for x in elements {
        let a = x.unsigned_abs().min((1 << 17) - 1);
        let (index, rest) = ((a >> 8) as usize, i64::from(a & 255));
        let (low, high) = (i64::from(NORMAL_CDF[index]), i64::from(NORMAL_CDF[index + 1]));
        let positive = low.wrapping_add(high.wrapping_sub(low).wrapping_mul(rest).wrapping_add(128) >> 8);
        let p = if *x < 0 { (1i64 << 30).wrapping_sub(positive) } else { positive };
        *x = clamp32(i64::from(*x).wrapping_mul(p).wrapping_add(1 << 29) >> 30);
    }
}
