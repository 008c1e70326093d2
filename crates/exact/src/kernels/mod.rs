//! Fast twins of [`reference`](crate::reference), equal to the bit on every input: by AMX, AVX-512 with VNNI, AVX2, NEON (with or without its dot
//! product), or as the compiler makes them. Which one runs is chosen at run time ([`Isa`]) and never shows in a result; neither does the number
//! of threads ([`Pool`]).
//!
//! Sums here wrap instead of checking: the bounds beside each plain twin prove that nothing does. `unsafe` is calling a function that was
//! compiled for instructions whose presence a value of [`Isa`] proves, loads and stores whose bounds the lines before establish, memory
//! for weights ([`Pages`]), and pieces of a result that the threads of a pool write side by side; each block says why it is sound.

mod activation;
mod add;
mod attention;
mod cached;
mod choice;
mod engine;
mod gate;
mod isa;
mod keccak;
mod linear;
mod norm;
mod operand;
mod pages;
mod pool;
pub mod probe;
mod rms;
mod rope;
mod rows;
mod slots;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod unroll;
#[cfg(target_arch = "x86_64")]
mod wide;

pub use activation::gelu_erf;
pub use add::add;
pub use attention::bidirectional;
pub use cached::{AttentionScratch, KvCache, NewPositions, Reach, Sequence, attend};
pub use choice::{ChoiceScratch, choose};
pub(crate) use engine::Engine;
pub use gate::gate;
pub use isa::Isa;
pub use linear::{Packed, PackedError, PackedRow, linear, linear_into};
pub use norm::layer_norm;
pub use operand::{Operands, to_operands};
pub use pages::{OutOfMemory, Pages};
pub use pool::Pool;
pub use rms::rms_norm;
pub use rope::rotate;
pub use rows::{each, each_pair, each_piece};
