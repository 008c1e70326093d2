//! Chunked hashes: the hash of a vector is the hash of the list of hashes of its 256-element chunks (PROTOCOL.md, section 1).

use alloy_primitives::B256;

use crate::preimage::{Preimage, Tag};

/// Elements of a full chunk.
pub const CHUNK: usize = 256;
/// Elements of a block of lane order.
const LANES: usize = 32;

/// What the elements of a vector or tensor are: the `type` byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ElementType {
    /// Token ids.
    U32 = 1,
    /// Activations in Q14, norm parameters.
    I32 = 2,
    /// int16 in natural order.
    I16 = 3,
    /// int16 in lane order, for the operands of products.
    I16Lanes = 4,
}

impl ElementType {
    /// The byte that is hashed.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// A vector to be hashed, with its element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elements<'a> {
    /// Token ids.
    U32(&'a [u32]),
    /// int32.
    I32(&'a [i32]),
    /// int16, hashed in natural order.
    I16(&'a [i16]),
    /// int16, hashed in lane order.
    I16Lanes(&'a [i16]),
}

impl Elements<'_> {
    /// The element type.
    #[must_use]
    pub const fn element_type(&self) -> ElementType {
        match self {
            Self::U32(_) => ElementType::U32,
            Self::I32(_) => ElementType::I32,
            Self::I16(_) => ElementType::I16,
            Self::I16Lanes(_) => ElementType::I16Lanes,
        }
    }

    /// Number of elements.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::U32(elements) => elements.len(),
            Self::I32(elements) => elements.len(),
            Self::I16(elements) | Self::I16Lanes(elements) => elements.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The hash of each chunk in order; what an opening of a vector shows.
    #[must_use]
    pub fn chunk_hashes(&self) -> Vec<B256> {
        match self {
            Self::U32(elements) => {
                elements.chunks(CHUNK).map(|chunk| chunk_hash::<4>(ElementType::U32, chunk.iter().map(|x| x.to_be_bytes()))).collect()
            }
            Self::I32(elements) => {
                elements.chunks(CHUNK).map(|chunk| chunk_hash::<4>(ElementType::I32, chunk.iter().map(|x| x.to_be_bytes()))).collect()
            }
            Self::I16(elements) => {
                elements.chunks(CHUNK).map(|chunk| chunk_hash::<2>(ElementType::I16, chunk.iter().map(|x| x.to_be_bytes()))).collect()
            }
            Self::I16Lanes(elements) => elements.chunks(CHUNK).map(lane_chunk_hash).collect(),
        }
    }

    /// The vector hash.
    ///
    /// # Panics
    /// If there are more than 2^32 - 1 elements. Nothing in a model or a job comes near: dims end at 2^15, contexts too.
    #[must_use]
    pub fn hash(&self) -> B256 {
        let length = u32::try_from(self.len()).unwrap_or_else(|_| panic!("a vector of {} elements has no hash", self.len()));
        hash_of_chunks(self.element_type(), length, &self.chunk_hashes())
    }
}

/// The vector hash from the hashes of its chunks.
#[must_use]
pub fn hash_of_chunks(element_type: ElementType, length: u32, chunks: &[B256]) -> B256 {
    Preimage::new(Tag::Vector).u8(element_type.code()).u32(length).hashes(chunks).finish()
}

fn chunk_hash<const WIDTH: usize>(element_type: ElementType, elements: impl Iterator<Item = [u8; WIDTH]>) -> B256 {
    let mut bytes = [0; CHUNK * 4];
    let mut len = 0;
    for (slot, element) in bytes.chunks_exact_mut(WIDTH).zip(elements) {
        slot.copy_from_slice(&element);
        len += WIDTH;
    }
    Preimage::new(Tag::Chunk).u8(element_type.code()).bytes(&bytes[..len]).finish()
}

fn lane_chunk_hash(chunk: &[i16]) -> B256 {
    Preimage::new(Tag::Chunk).u8(ElementType::I16Lanes.code()).bytes(&lane_order(chunk)).finish()
}

/// Bytes of one chunk in lane order: zero-padded to blocks of 32 elements; of each block first the pairs a_28 a_29, a_24 a_25, …, a_0 a_1,
/// then a_30 a_31, a_26 a_27, …, a_2 a_3.
#[must_use]
pub fn lane_order(chunk: &[i16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(chunk.len().next_multiple_of(LANES) * 2);
    for block in chunk.chunks(LANES) {
        let element = |at: usize| block.get(at).copied().unwrap_or(0).to_be_bytes();
        for first in [0, 2] {
            for quad in (0..LANES / 4).rev() {
                let at = 4 * quad + first;
                bytes.extend(element(at));
                bytes.extend(element(at + 1));
            }
        }
    }
    bytes
}
