//! Commitments: every hash of docs/PROTOCOL.md, sections 1 to 3, in the formats that the contracts check. No I/O, no async, no clock.
//!
//! | module | what |
//! |---|---|
//! | [`vector`] | chunked hashes of vectors, and lane order |
//! | [`tensor`] | matrices of activations: 32-ary trees over row hashes |
//! | [`tree`] | binary trees over hashes |
//! | [`sum_tree`] | binary trees that carry counts, and the leaves of inputs and outputs |
//! | [`model`] | weight rows, matrices, weights, package root, model id |
//! | [`work`] | work root and work digest |
//! | [`blob`] | the bytes of inputs and outputs in the content store |
//!
//! tests/vectors/commit.json holds golden values that the Solidity twin is held to as well.

#![forbid(unsafe_code)]
#![deny(clippy::float_arithmetic, clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

pub mod blob;
mod error;
pub mod model;
mod preimage;
pub mod sum_tree;
pub mod tensor;
pub mod tree;
pub mod vector;
pub mod work;

pub use error::CommitError;
