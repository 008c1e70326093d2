use std::collections::TryReserveError;

use super::DecoderError;
use crate::{header::Header, kernels::KvCache};

/// Keys and values of one sequence in all layers. Its memory is asked for at once, for a fixed number of positions; nothing is
/// allocated per id.
#[derive(Debug)]
pub struct Cache {
    pub(super) layers: Vec<KvCache>,
    pub(super) ids: Vec<u32>,
    capacity: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Cache {
    /// Room for `positions` of a decoder with this header, at least 1 and at most its context.
    ///
    /// # Errors
    /// [`DecoderError::OutOfMemory`].
    pub fn new(header: &Header, positions: usize) -> Result<Self, DecoderError> {
        let capacity = positions.clamp(1, header.context as usize);
        let (kv_heads, head_dim) = (header.kv_heads as usize, header.head_dim as usize);
        let bytes = Self::bytes(header, capacity);
        let refused = DecoderError::OutOfMemory { positions: capacity, bytes };
        promised(bytes).map_err(|_| refused.clone())?;
        let layers = (0..header.layers).map(|_| KvCache::try_new(kv_heads, head_dim, capacity));
        let layers = layers.collect::<Result<_, _>>().map_err(|_| refused.clone())?;
        let mut ids = Vec::new();
        ids.try_reserve_exact(capacity).map_err(|_| refused)?;
        Ok(Self { layers, ids, capacity, kv_heads, head_dim })
    }

    /// Bytes that a cache of so many positions takes.
    #[must_use]
    pub const fn bytes(header: &Header, positions: usize) -> usize {
        KvCache::bytes(header.kv_heads as usize, header.head_dim as usize, positions) * header.layers as usize
    }

    /// The ids of its positions.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Positions in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it has no positions.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Positions it has room for.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.ids.truncate(len);
        for layer in &mut self.layers {
            layer.truncate(self.ids.len());
        }
    }

    /// Another cache with the same positions in it: samples of one item share the computation of the item.
    ///
    /// # Errors
    /// [`DecoderError::OutOfMemory`], or the header is of another shape than the cache.
    pub fn fork(&self, header: &Header) -> Result<Self, DecoderError> {
        if !self.fits(header) || self.capacity > header.context as usize {
            return Err(DecoderError::ForeignCache);
        }
        let mut copy = Self::new(header, self.capacity)?;
        for (to, from) in copy.layers.iter_mut().zip(&self.layers) {
            to.copy_from(from);
        }
        copy.ids.extend_from_slice(&self.ids);
        Ok(copy)
    }

    /// Whether it is of a decoder of this shape.
    pub(super) fn fits(&self, header: &Header) -> bool {
        self.layers.len() == header.layers as usize
            && self.kv_heads == header.kv_heads as usize
            && self.head_dim == header.head_dim as usize
    }
}

/// Whether the system would lend so many bytes at once. Layer by layer it lends what it does not have, and kills whoever uses it.
fn promised(bytes: usize) -> Result<(), TryReserveError> {
    let mut all = Vec::<u8>::new();
    all.try_reserve_exact(bytes)?;
    // Or the compiler leaves out what nobody uses.
    std::hint::black_box(&all);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::promised;

    #[test]
    fn memory_that_no_machine_has_is_refused_and_a_page_is_not() {
        assert!(promised(1 << 60).is_err());
        assert_eq!(promised(4096), Ok(()));
    }
}
