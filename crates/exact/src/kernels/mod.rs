//! Fast twins of [`reference`](crate::reference), equal to the bit on every input. Portable code that the compiler vectorises, and
//! AVX2 where the machine has it; which one runs never shows in a result.
//!
//! Sums here wrap instead of checking: the bounds beside each plain twin prove that nothing does. `unsafe` is only the call of a
//! function that was compiled for AVX2, after asking the machine, and loads whose bounds were checked on the lines before.

mod activation;
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
mod unroll;

pub use activation::gelu_erf;
pub use attention::bidirectional;
pub use cached::{KvCache, Reach, Sequence, attend};
pub use choice::choose;
pub(crate) use engine::Engine;
pub use gate::gate;
pub use isa::Isa;
pub use linear::{Packed, PackedError, PackedRow, linear, linear_into};
pub use norm::layer_norm;
pub use operand::{Operands, to_operands};
pub use pages::Pages;
pub use pool::Pool;
pub use rms::rms_norm;
pub use rope::rotate;
pub use rows::each_piece;
