use std::{marker::PhantomData, ops::Range};

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
        self.grow(k.len() / (self.kv_heads * self.head_dim)).write(isa, k, v, value_shifts);
    }

    /// Appends positions that are written through what this returns, in parts by several threads. Until they are, they hold whatever was there.
    ///
    /// # Panics
    /// If the cache has no room for so many.
    pub fn grow(&mut self, positions: usize) -> NewPositions<'_> {
        assert!(self.len + positions <= self.capacity, "{} positions and {positions} more in a cache of {}", self.len, self.capacity);
        let start = self.len;
        self.len += positions;
        NewPositions {
            shape: self.shape(),
            pairs: self.pairs.lines_mut().as_mut_ptr().cast(),
            key_shifts: self.key_shifts.as_mut_ptr(),
            positions: start..start + positions,
            cache: PhantomData,
        }
    }

    /// One key: its operand's elements in order, and its shift. `None` past the end.
    #[must_use]
    pub fn key(&self, kv_head: usize, position: usize) -> Option<(Vec<i16>, u32)> {
        if kv_head >= self.kv_heads || position >= self.len {
            return None;
        }
        let elements = self.pairs.lines().as_flattened();
        let elements = (0..self.head_dim).map(|dim| elements[self.shape().key_at(kv_head, position, dim)]).collect();
        Some((elements, u32::from(self.key_shifts[kv_head * self.capacity + position])))
    }

    /// One value, its elements in order. `None` past the end.
    #[must_use]
    pub fn value(&self, kv_head: usize, position: usize) -> Option<Vec<i16>> {
        if kv_head >= self.kv_heads || position >= self.len {
            return None;
        }
        let elements = self.pairs.lines().as_flattened();
        Some((0..self.head_dim).map(|dim| elements[self.shape().value_at(kv_head, position, dim)]).collect())
    }

    const fn shape(&self) -> Shape {
        Shape { kv_heads: self.kv_heads, head_dim: self.head_dim, capacity: self.capacity }
    }

    pub(super) const fn dim_pairs(&self) -> usize {
        self.shape().dim_pairs()
    }

    pub(super) const fn dim_blocks(&self) -> usize {
        self.shape().dim_blocks()
    }

    /// Where values begin.
    const fn first_value(&self) -> usize {
        self.shape().first_value()
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

/// Where elements lie in a cache.
#[derive(Debug, Clone, Copy)]
struct Shape {
    kv_heads: usize,
    head_dim: usize,
    capacity: usize,
}

impl Shape {
    const fn dim_pairs(self) -> usize {
        self.head_dim.div_ceil(2)
    }

    const fn dim_blocks(self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    /// Lines of keys, before those of values.
    const fn first_value(self) -> usize {
        self.kv_heads * (self.capacity / LANES) * self.dim_pairs()
    }

    /// Pairs of dims follow each other at a distance of a line, the dims of a pair at one element.
    const fn key_at(self, head: usize, position: usize, dim: usize) -> usize {
        let block = head * (self.capacity / LANES) + position / LANES;
        (block * self.dim_pairs() + dim / 2) * 2 * LANES + position % LANES * 2 + dim % 2
    }

    /// Dims of a block of 16 follow each other at a distance of two elements.
    const fn value_at(self, head: usize, position: usize, dim: usize) -> usize {
        let block = head * self.dim_blocks() + dim / LANES;
        (self.first_value() + block * (self.capacity / 2) + position / 2) * 2 * LANES + dim % LANES * 2 + position % 2
    }
}

/// Positions that were appended to a cache and are written later, by whoever holds this. It may be split among threads: each then writes what
/// no other does.
#[derive(Debug)]
pub struct NewPositions<'a> {
    shape: Shape,
    /// Elements of the cache's `pairs`.
    pairs: *mut i16,
    key_shifts: *mut u8,
    positions: Range<usize>,
    cache: PhantomData<&'a mut KvCache>,
}

// SAFETY: it stands for a `&mut` to the elements of its positions, which are integers.
unsafe impl Send for NewPositions<'_> {}
// SAFETY: a shared one gives access to nothing.
unsafe impl Sync for NewPositions<'_> {}

impl NewPositions<'_> {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Splits off the first `count`.
    ///
    /// # Panics
    /// If there are not so many.
    #[must_use]
    pub fn take(&mut self, count: usize) -> Self {
        assert!(count <= self.positions.len(), "{count} of {} positions", self.positions.len());
        let first = self.positions.start..self.positions.start + count;
        self.positions.start = first.end;
        Self { positions: first, ..*self }
    }

    /// Writes them all: see [`KvCache::append`].
    ///
    /// # Panics
    /// If the rows are not as many as the positions.
    pub fn write(self, isa: Isa, k: &[i32], v: &[i32], value_shifts: &[i32]) {
        let Shape { kv_heads, head_dim, .. } = self.shape;
        let width = kv_heads * head_dim;
        assert!(k.len() == v.len() && k.len() == width * self.positions.len(), "a row of {width} keys and of values for each position");
        assert_eq!(value_shifts.len(), kv_heads, "a static shift for each kv head");
        write(isa, &self, k, v, value_shifts);
    }
}

multiversion! { fn write(to: &NewPositions<'_>, k: &[i32], v: &[i32], value_shifts: &[i32]) -> () = write_body }

#[inline(always)]
fn write_body(to: &NewPositions<'_>, k: &[i32], v: &[i32], value_shifts: &[i32]) {
    let (shape, Shape { kv_heads, head_dim, capacity }) = (to.shape, to.shape);
    let mut operand = [0i16; bounds::HEAD_DIM as usize];
    let operand = &mut operand[..head_dim];
    let rows = k.chunks_exact(kv_heads * head_dim).zip(v.chunks_exact(kv_heads * head_dim));
    for (position, (k, v)) in to.positions.clone().zip(rows) {
        for (head, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
            let shift = quantise(k, operand);
            // SAFETY: a head and a position below the capacity, a shift for each; the position is ours to write.
            unsafe { to.key_shifts.add(head * capacity + position).write(shift.to_le_bytes()[0]) };
            let first = shape.key_at(head, position, 0);
            for (pair, both) in operand.chunks(2).enumerate() {
                for (at, &element) in both.iter().enumerate() {
                    // SAFETY: `key_at` of a head, position and dim of the cache is below its number of elements, and the same for no other.
                    unsafe { to.pairs.add(first + pair * 2 * LANES + at).write(element) };
                }
            }
            shift_or_clamp(v, value_shifts[head].unsigned_abs(), operand);
            for (block, values) in operand.chunks(LANES).enumerate() {
                let first = shape.value_at(head, position, block * LANES);
                for (dim, &element) in values.iter().enumerate() {
                    // SAFETY: as for keys, with `value_at`.
                    unsafe { to.pairs.add(first + 2 * dim).write(element) };
                }
            }
        }
    }
}
