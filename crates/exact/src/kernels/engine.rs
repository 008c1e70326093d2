//! The forward pass by kernels: the same ops in the same order as [`reference::forward`](crate::reference::forward).

use super::{AttentionScratch, Isa, KvCache, Operands, Packed, Pool, Reach, Sequence, add, attend, gelu_erf, layer_norm, linear_into};
use crate::{
    encoder::{EncoderWeights, LayerWeights, Output},
    format::{Q8Matrix, TableI32},
    header::{Header, POOLING_FIRST},
    reference::{self, Attention},
};

/// The matrices of an encoder, packed for this machine.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    isa: Isa,
    layers: Vec<PackedLayer>,
}

#[derive(Debug, Clone)]
struct PackedLayer {
    query: Packed,
    key: Packed,
    value: Packed,
    output: Packed,
    up: Packed,
    down: Packed,
}

impl Engine {
    pub(crate) fn new(isa: Isa, weights: &EncoderWeights) -> Self {
        fn matrices(layer: &LayerWeights) -> [&Q8Matrix; 6] {
            [&layer.query, &layer.key, &layer.value, &layer.output, &layer.up, &layer.down]
        }
        let matrices: Vec<_> = weights.layers.iter().flat_map(matrices).collect();
        let packed = Packed::all(&matrices);
        let layer = |[query, key, value, output, up, down]: &[Packed; 6]| PackedLayer {
            query: query.clone(),
            key: key.clone(),
            value: value.clone(),
            output: output.clone(),
            up: up.clone(),
            down: down.clone(),
        };
        Self { isa, layers: packed.as_chunks().0.iter().map(layer).collect() }
    }

    /// The outputs of items whose ids have passed [`Header::refuse`], computed together: their rows are one matrix, so that a product reads
    /// its weights once for all of them.
    pub(crate) fn forward(&self, header: &Header, weights: &EncoderWeights, items: &[&[u32]]) -> Vec<Output> {
        let pool = Pool::single(self.isa);
        let [dim, heads, kv_heads, head_dim] = [header.dim, header.heads, header.kv_heads, header.head_dim].map(|size| size as usize);
        let mut x: Vec<i32> = items.iter().flat_map(|ids| embed(weights, ids)).collect();
        let rows = x.len() / dim;
        layer_norm(self.isa, &mut x, header.epsilon, &weights.embedding_norm);
        let mut caches: Vec<_> = items.iter().map(|ids| KvCache::new(kv_heads, head_dim, ids.len())).collect();
        let (mut operands, mut scratch) = (Operands::new(self.isa), AttentionScratch::default());
        let [mut q, mut mixed] = [(); 2].map(|()| vec![0; rows * heads * head_dim]);
        let [mut k, mut v] = [(); 2].map(|()| vec![0; rows * kv_heads * head_dim]);
        let (mut y, mut inner) = (vec![0; rows * dim], vec![0; rows * header.ffn as usize]);
        for ((layer, packed), value_shifts) in weights.layers.iter().zip(&self.layers).zip(weights.value_shifts.iter_rows()) {
            let attention = Attention { heads, kv_heads, head_dim, score_scale: header.score_scale, value_shifts };
            operands.fill(&pool, &x, dim);
            linear_into(&pool, &mut [(&packed.query, &mut q), (&packed.key, &mut k), (&packed.value, &mut v)], &operands);
            let sequences = self.fill(&mut caches, items, &attention, &k, &v);
            attend(&pool, &attention, Reach::All, &sequences, &q, &mut mixed, &mut scratch);
            operands.fill(&pool, &mixed, heads * head_dim);
            linear_into(&pool, &mut [(&packed.output, &mut y)], &operands);
            add(self.isa, &mut x, &y);
            layer_norm(self.isa, &mut x, header.epsilon, &layer.attention_norm);
            operands.fill(&pool, &x, dim);
            linear_into(&pool, &mut [(&packed.up, &mut inner)], &operands);
            gelu_erf(self.isa, &mut inner);
            operands.fill(&pool, &inner, header.ffn as usize);
            linear_into(&pool, &mut [(&packed.down, &mut y)], &operands);
            add(self.isa, &mut x, &y);
            layer_norm(self.isa, &mut x, header.epsilon, &layer.ffn_norm);
        }
        let mut rest = &x[..];
        let output = |ids: &&[u32]| {
            let (rows, others) = rest.split_at(ids.len() * dim);
            rest = others;
            finish(header, TableI32::new(ids.len(), dim, rows.to_vec()).unwrap_or_else(|error| unreachable!("{error}")))
        };
        items.iter().map(output).collect()
    }

    /// Each item's keys and values into its cache, and which rows of the batch read it.
    fn fill<'a>(&self, caches: &'a mut [KvCache], items: &[&[u32]], attention: &Attention<'_>, k: &[i32], v: &[i32]) -> Vec<Sequence<'a>> {
        let width = attention.kv_heads * attention.head_dim;
        let mut end = 0;
        let sequence = |(cache, ids): (&'a mut KvCache, &&[u32])| {
            let rows = end..end + ids.len();
            end = rows.end;
            cache.truncate(0);
            let elements = rows.start * width..rows.end * width;
            cache.append(self.isa, &k[elements.clone()], &v[elements], attention.value_shifts);
            Sequence { cache, rows, first: 0 }
        };
        caches.iter_mut().zip(items).map(sequence).collect()
    }
}

fn finish(header: &Header, rows: TableI32) -> Output {
    let vector = if header.pooling == POOLING_FIRST {
        reference::unit_length(&rows.row(0).unwrap_or_default().iter().map(|&x| i64::from(x)).collect::<Vec<_>>())
    } else {
        reference::unit_length(&reference::pool(&rows))
    };
    Output::computed(vector, rows)
}

fn embed(weights: &EncoderWeights, ids: &[u32]) -> Vec<i32> {
    let token_type = weights.token_types.as_ref().and_then(|types| types.row(0));
    let positions = ids.iter().zip(weights.positions.iter_rows());
    let rows = positions.filter_map(|(&id, position)| Some(reference::embed(weights.words.row(id as usize)?, position, token_type)));
    rows.flatten().collect()
}
