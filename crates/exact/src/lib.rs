//! The exact machine of Quern: profile `q8a16`, defined to the last bit by docs/EXACT.md. Integers only; no I/O, no async, no clock.
//!
//! | module | what |
//! |---|---|
//! | [`header`] | the 40 numbers that fix a model |
//! | [`bounds`] | the bounds from which every proof of width starts |
//! | [`format`] | quantised matrices, tables, vectors |
//! | [`layout`] | the tensors of a model, in the one order that is hashed |
//! | [`arith`] | the two roundings and the clamps |
//! | [`tables`] | the tables of the profile |
//! | [`reference`] | the definition of every op, one plain function each |
//! | [`kernels`] | the same, fast |
//! | [`encoder`] | the BERT encoder: weights and the function from ids to a vector |
//! | [`decoder`] | the Llama decoder: weights and the function from ids to ids |

#![deny(
    clippy::float_arithmetic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    unsafe_code
)]

pub mod arith;
pub mod bounds;
pub mod decoder;
pub mod encoder;
pub mod format;
pub mod header;
#[expect(unsafe_code, reason = "vector instructions; each block says why it is sound, and its plain twin is in reference")]
pub mod kernels;
pub mod layout;
pub mod reference;
#[cfg(feature = "test-support")]
pub mod sample;
pub mod tables;

const _: () = assert!(usize::BITS >= 64, "sizes are computed in usize; 32-bit targets are not proven");
