//! The definition: one plain function per op of EXACT.md, section 4, in the order of the text. Slow, and meant to be read. Kernels are
//! tested against it to the bit; so is the verifier on chain.

mod activation;
mod attention;
mod embedding;
mod encoder;
mod linear;
mod norm;
mod operand;
mod pool;

pub use activation::gelu_erf;
pub use attention::{Attention, exp2_negative};
pub use embedding::embed;
pub use encoder::forward;
pub use linear::linear;
pub use norm::{Normalised, layer_norm, normalise, rms_norm};
pub use operand::{Operand, to_operand};
pub use pool::{pool, unit_length};

use crate::arith::clamp32;

/// Residual add: `clamp32(a + b)`, element by element (EXACT.md, section 4.9).
#[must_use]
pub fn residual(a: &[i32], b: &[i32]) -> Vec<i32> {
    assert_eq!(a.len(), b.len(), "a residual add takes two vectors of one length");
    a.iter().zip(b).map(|(&a, &b)| clamp32(i64::from(a) + i64::from(b))).collect()
}
