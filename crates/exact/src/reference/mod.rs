//! The definition: one plain function per op of EXACT.md, section 4, in the order of the text. Slow, and meant to be read. Kernels are
//! tested against it to the bit; so is the verifier on chain.

mod activation;
mod attention;
mod choice;
mod decoder;
mod embedding;
mod encoder;
mod linear;
mod norm;
mod operand;
mod pool;
mod rope;

pub use activation::{gated, gelu_erf, gelu_tanh, silu};
pub use attention::{Attention, exp2_negative};
pub use choice::{Draw, choose, lg, noise, sampling_block};
pub use decoder::{generate, logits, norm_rows};
pub use embedding::{embed, embed_word};
pub use encoder::forward;
pub use linear::linear;
pub use norm::{Normalised, head_epsilon, layer_norm, normalise, rms_norm};
pub use operand::{Operand, to_operand};
pub use pool::{pool, unit_length};
pub use rope::rotate;

use crate::arith::clamp32;

/// Residual add: `clamp32(a + b)`, element by element (EXACT.md, section 4.9).
#[must_use]
pub fn residual(a: &[i32], b: &[i32]) -> Vec<i32> {
    assert_eq!(a.len(), b.len(), "a residual add takes two vectors of one length");
    a.iter().zip(b).map(|(&a, &b)| clamp32(i64::from(a) + i64::from(b))).collect()
}
