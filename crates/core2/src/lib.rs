//! Every published version of `core2` is yanked, and `ipfs-api-backend-hyper` needs it deep down (multihash 0.17). On a machine
//! with `std` that crate was nothing but these two modules under another name.
pub use std::{error, io};
