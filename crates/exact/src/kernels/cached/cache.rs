use std::ops::Range;

use super::{LANES, Pairs};
use crate::{
    bounds,
    kernels::{
        Isa, OutOfMemory, Pages,
        isa::multiversion,
        operand::{quantise, shift_or_clamp},
    },
};

/// Keys and values of one layer of one sequence, position by position, in the layout that the kernels read.
///
/// Its memory is asked for and touched at once, so nothing is allocated per token: `4 · kv_heads · head_dim + kv_heads` bytes per position,
/// head dim rounded up to 16. From 2 MiB on it lies in huge pages, where the system has them.
#[derive(Debug)]
pub struct KvCache {
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// Rounded up to whole blocks of positions.
    capacity: usize,
    len: usize,
    /// Keys `[kv head][block of 16 positions][pair of dims][lane][2]`, then values `[kv head][block of 16 dims][pair of positions][lane][2]`.
    pairs: Pages,
    /// `[kv head][position]`.
    key_shifts: Vec<u8>,
}

impl KvCache {
    /// Room for `capacity` positions, at most 2^15.
    ///
    /// # Panics
    /// If a size is 0 or beyond its bound (EXACT.md, section 2), or there is not enough memory.
    #[must_use]
    pub fn new(kv_heads: usize, head_dim: usize, capacity: usize) -> Self {
        Self::try_new(kv_heads, head_dim, capacity).unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// As [`KvCache::new`], but memory that the system refuses is an error.
    ///
    /// # Errors
    /// The memory is not to be had.
    ///
    /// # Panics
    /// If a size is 0 or beyond its bound.
    pub fn try_new(kv_heads: usize, head_dim: usize, capacity: usize) -> Result<Self, OutOfMemory> {
        assert!(kv_heads > 0 && (1..=bounds::HEAD_DIM as usize).contains(&head_dim), "{kv_heads} kv heads of {head_dim} dims");
        assert!((1..=bounds::CONTEXT as usize).contains(&capacity), "a cache of {capacity} positions; it takes 1 to {}", bounds::CONTEXT);
        let capacity = capacity.next_multiple_of(LANES);
        let lines = kv_heads * (capacity / LANES * head_dim.div_ceil(2) + capacity / 2 * head_dim.div_ceil(LANES));
        let pairs = Pages::try_new(lines * size_of::<Pairs>())?;
        let mut key_shifts = Vec::new();
        key_shifts.try_reserve_exact(kv_heads * capacity).map_err(|_| OutOfMemory { bytes: kv_heads * capacity })?;
        key_shifts.resize(kv_heads * capacity, 0);
        Ok(Self { kv_heads, head_dim, capacity, len: 0, pairs, key_shifts })
    }

    /// Takes over the positions of another cache of the same shape, in place of its own.
    ///
    /// # Panics
    /// If heads, dims or capacity differ.
    pub fn copy_from(&mut self, other: &Self) {
        assert_eq!(
            (self.kv_heads, self.head_dim, self.capacity),
            (other.kv_heads, other.head_dim, other.capacity),
            "a cache is copied to one of its shape"
        );
        let copy = |to: &mut [Pairs], from: &[Pairs], per_part: usize, live: usize| {
            for (to, from) in to.chunks_exact_mut(per_part).zip(from.chunks_exact(per_part)) {
                to[..live].copy_from_slice(&from[..live]);
            }
        };
        let blocks = other.len.div_ceil(LANES);
        let first_value = other.first_value();
        let (keys, values) = self.pairs.lines_mut().split_at_mut(first_value);
        let (other_keys, other_values) = other.pairs.lines().split_at(first_value);
        copy(keys, other_keys, other.capacity / LANES * other.dim_pairs(), blocks * other.dim_pairs());
        copy(values, other_values, other.value_stride(), blocks * LANES / 2);
        for (to, from) in self.key_shifts.chunks_exact_mut(self.capacity).zip(other.key_shifts.chunks_exact(self.capacity)) {
            to[..other.len].copy_from_slice(&from[..other.len]);
        }
        self.len = other.len;
    }

    /// Bytes that a cache of this size asks for.
    #[must_use]
    pub const fn bytes(kv_heads: usize, head_dim: usize, capacity: usize) -> usize {
        let capacity = capacity.next_multiple_of(LANES);
        kv_heads * capacity * (2 * head_dim.next_multiple_of(2) + 2 * head_dim.next_multiple_of(LANES) + 1)
    }

    /// Positions in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no positions.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions it has room for, rounded up.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Appends positions: rows of kv heads · head dim in Q14, keys after rope. Keys become operands of their own per head, values int16 by
    /// the static shift of their head (EXACT.md, section 4.5).
    ///
    /// # Panics
    /// If the rows do not fit the cache, or are more than it has room for.
    pub fn append(&mut self, isa: Isa, k: &[i32], v: &[i32], value_shifts: &[i32]) {
        let width = self.kv_heads * self.head_dim;
        assert!(k.len() == v.len() && k.len().is_multiple_of(width), "rows of {width} keys and as many values");
        assert_eq!(value_shifts.len(), self.kv_heads, "a static shift for each kv head");
        let rows = k.len() / width;
        assert!(self.len + rows <= self.capacity, "{} positions and {rows} more in a cache of {}", self.len, self.capacity);
        append(isa, self, k, v, value_shifts);
        self.len += rows;
    }

    /// One key: its operand's elements in order, and its shift. `None` past the end.
    #[must_use]
    pub fn key(&self, kv_head: usize, position: usize) -> Option<(Vec<i16>, u32)> {
        if kv_head >= self.kv_heads || position >= self.len {
            return None;
        }
        let at = |dim| self.key_at(kv_head, position, dim);
        let elements = (0..self.head_dim).map(|dim| self.pairs.lines()[at(dim).0][at(dim).1]).collect();
        Some((elements, u32::from(self.key_shifts[kv_head * self.capacity + position])))
    }

    /// One value, its elements in order. `None` past the end.
    #[must_use]
    pub fn value(&self, kv_head: usize, position: usize) -> Option<Vec<i16>> {
        if kv_head >= self.kv_heads || position >= self.len {
            return None;
        }
        let at = |dim| self.value_at(kv_head, position, dim);
        Some((0..self.head_dim).map(|dim| self.pairs.lines()[at(dim).0][at(dim).1]).collect())
    }

    pub(super) const fn dim_pairs(&self) -> usize {
        self.head_dim.div_ceil(2)
    }

    pub(super) const fn dim_blocks(&self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    /// Where values begin.
    const fn first_value(&self) -> usize {
        self.kv_heads * (self.capacity / LANES) * self.dim_pairs()
    }

    const fn key_at(&self, head: usize, position: usize, dim: usize) -> (usize, usize) {
        let block = head * (self.capacity / LANES) + position / LANES;
        (block * self.dim_pairs() + dim / 2, position % LANES * 2 + dim % 2)
    }

    const fn value_at(&self, head: usize, position: usize, dim: usize) -> (usize, usize) {
        let block = head * self.dim_blocks() + dim / LANES;
        (self.first_value() + block * self.value_stride() + position / 2, dim % LANES * 2 + position % 2)
    }

    /// The keys of one head in whole blocks of positions.
    pub(super) fn key_blocks(&self, head: usize, blocks: Range<usize>) -> &[Pairs] {
        let (first, pairs) = (head * (self.capacity / LANES), self.dim_pairs());
        &self.pairs.lines()[(first + blocks.start) * pairs..(first + blocks.end) * pairs]
    }

    /// The shifts of one head's keys.
    pub(super) fn key_shifts(&self, head: usize, positions: Range<usize>) -> &[u8] {
        &self.key_shifts[head * self.capacity..][positions]
    }

    /// The values of one head: blocks of dims, each of [`KvCache::value_stride`] pairs of positions.
    pub(super) fn head_values(&self, head: usize) -> &[Pairs] {
        let len = self.dim_blocks() * self.value_stride();
        &self.pairs.lines()[self.first_value() + head * len..][..len]
    }

    pub(super) const fn value_stride(&self) -> usize {
        self.capacity / 2
    }
}

multiversion! { fn append(cache: &mut KvCache, k: &[i32], v: &[i32], value_shifts: &[i32]) -> () = append_body }

#[inline(always)]
fn append_body(cache: &mut KvCache, k: &[i32], v: &[i32], value_shifts: &[i32]) {
    let (dims, heads) = (cache.head_dim, cache.kv_heads);
    let mut operand = [0i16; bounds::HEAD_DIM as usize];
    let operand = &mut operand[..dims];
    for (row, (k, v)) in k.chunks_exact(heads * dims).zip(v.chunks_exact(heads * dims)).enumerate() {
        let position = cache.len + row;
        for (head, (k, v)) in k.chunks_exact(dims).zip(v.chunks_exact(dims)).enumerate() {
            let shift = quantise(k, operand);
            cache.key_shifts[head * cache.capacity + position] = shift.to_le_bytes()[0];
            let (first, lane) = cache.key_at(head, position, 0);
            for (keys, both) in cache.pairs.lines_mut()[first..].iter_mut().zip(operand.chunks(2)) {
                keys[lane..lane + both.len()].copy_from_slice(both);
            }
            shift_or_clamp(v, value_shifts[head].unsigned_abs(), operand);
            for (block, values) in operand.chunks(LANES).enumerate() {
                let (at, lane) = cache.value_at(head, position, block * LANES);
                for (slot, &value) in cache.pairs.lines_mut()[at][lane..].iter_mut().step_by(2).zip(values) {
                    *slot = value;
                }
            }
        }
    }
}
