//! Rows of a step that go through the layers together.

use std::ops::Range;

use super::{PackedWeights, Run, Workspace, compute::Compute, packed::PackedLayer};
use crate::kernels::{AttentionScratch, NewPositions, Operands, Sequence};

/// Rows of a step and what is computed of them.
#[derive(Debug, Default)]
pub(super) struct Lane {
    segments: Vec<Segment>,
    ids: Vec<u32>,
    positions: Vec<u32>,
    operands: Operands,
    x: Vec<i32>,
    normed: Vec<i32>,
    q: Vec<i32>,
    k: Vec<i32>,
    v: Vec<i32>,
    mixed: Vec<i32>,
    projected: Vec<i32>,
    gate: Vec<i32>,
    up: Vec<i32>,
    attention: AttentionScratch,
    /// Elements of `normed` that were taken.
    taken: usize,
}

/// Rows of one run that follow each other.
#[derive(Debug)]
struct Segment {
    run: usize,
    /// Position of the first.
    first: usize,
    /// Rows of the lane.
    rows: Range<usize>,
}

impl Lane {
    /// Without rows.
    pub(super) fn clear(&mut self) {
        self.segments.clear();
        self.ids.clear();
        self.positions.clear();
        self.taken = 0;
    }

    /// Adds rows of a run, the first of them at a position.
    pub(super) fn push(&mut self, run: usize, first: usize, ids: &[u32]) {
        let start = self.ids.len();
        self.ids.extend_from_slice(ids);
        // At most the context, 2^15.
        self.positions.extend((u32::try_from(first).unwrap_or(u32::MAX)..).take(ids.len()));
        self.segments.push(Segment { run, first, rows: start..self.ids.len() });
    }

    /// What its rows attend to in a layer.
    pub(super) fn sequences<'a>(&self, runs: &'a [Run<'_>], layer: usize) -> impl Iterator<Item = Sequence<'a>> {
        let sequence = move |segment: &Segment| Sequence {
            cache: &runs[segment.run].cache.layers[layer],
            rows: segment.rows.clone(),
            first: segment.first,
        };
        self.segments.iter().map(sequence)
    }

    /// X of the rows' ids.
    pub(super) fn embed(&mut self, compute: &Compute<'_>, weights: &PackedWeights) {
        self.x.resize(self.ids.len() * weights.words.cols(), 0);
        compute.embed(&weights.words, &self.ids, &mut self.x);
    }

    /// The first part of a layer: queries, which stay, and keys and values into the cache.
    pub(super) fn project(
        &mut self,
        compute: &Compute<'_>,
        weights: &PackedWeights,
        layer: &PackedLayer,
        value_shifts: &[i32],
        rooms: &mut Vec<NewPositions<'_>>,
    ) {
        let header = compute.header;
        self.normed.clone_from(&self.x);
        compute.norm(&mut self.normed, header.epsilon, layer.attention_gain.as_slice());
        let qkv = [(&layer.query, &mut self.q), (&layer.key, &mut self.k), (&layer.value, &mut self.v)];
        compute.products(&mut self.operands, &self.normed, qkv);
        let (norms, rotary) = (layer.head_norms.as_ref(), weights.rotary.as_ref());
        compute.turn(&mut self.q, header.heads, norms.map(|norms| &norms.query), rotary, &self.positions);
        compute.turn(&mut self.k, header.kv_heads, norms.map(|norms| &norms.key), rotary, &self.positions);
        let width = (header.kv_heads * header.head_dim) as usize;
        for (room, segment) in rooms.drain(..).zip(&self.segments) {
            let rows = segment.rows.start * width..segment.rows.end * width;
            room.write(compute.pool.isa(), &self.k[rows.clone()], &self.v[rows], value_shifts);
        }
    }

    /// The rest of a layer: X behind it.
    pub(super) fn mix(&mut self, compute: &Compute<'_>, layer: &PackedLayer, value_shifts: &[i32], sequences: &[Sequence<'_>]) {
        self.mixed.resize(self.q.len(), 0);
        compute.attend(sequences, value_shifts, &self.q, &mut self.mixed, &mut self.attention);
        compute.products(&mut self.operands, &self.mixed, [(&layer.output, &mut self.projected)]);
        compute.add(&mut self.x, &self.projected);
        for x in self.x.chunks_mut(Workspace::FFN_ROWS * compute.header.dim as usize) {
            self.normed.clear();
            self.normed.extend_from_slice(x);
            compute.norm(&mut self.normed, compute.header.epsilon, layer.ffn_gain.as_slice());
            compute.products(&mut self.operands, &self.normed, [(&layer.gate, &mut self.gate), (&layer.up, &mut self.up)]);
            compute.gate(&mut self.gate, &self.up);
            compute.products(&mut self.operands, &self.gate, [(&layer.down, &mut self.projected)]);
            compute.add(x, &self.projected);
        }
    }

    /// N of its rows.
    pub(super) fn finish(&mut self, compute: &Compute<'_>, weights: &PackedWeights) {
        self.normed.clone_from(&self.x);
        compute.norm(&mut self.normed, compute.header.epsilon, weights.final_gain.as_slice());
    }

    /// The next elements of N.
    pub(super) fn take_normed(&mut self, elements: usize) -> &[i32] {
        let first = self.taken;
        self.taken += elements;
        &self.normed[first..self.taken]
    }
}
