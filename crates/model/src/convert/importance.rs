//! How much each input channel of a product weighs: the squares of what stands there for the tokens that are in every item.
//!
//! Trained encoders have a few channels whose activations at the special tokens are ten times all others. An error in the weights of such
//! a channel costs as much fidelity as a hundred others, and choosing mantissas with it in mind takes a quarter to a third off 1 - cosine
//! on short texts. Exact integers on a fixed input: whoever has the checkpoint and its tokenizer computes the same.

use quern_exact::{
    encoder::{EncoderWeights, LayerWeights, Norm},
    format::{Q8Matrix, TableI32},
    header::Header,
    reference::{Attention, embed, gelu_erf, layer_norm, linear, residual, to_operand},
};

/// Most ids that are looked at, so that a sum of squares of int32 stays below 2^66.
pub(crate) const MAX_IDS: usize = 16;

/// Of each layer, the weight of each input channel of its products: the sum over positions of the squared activation.
pub(crate) struct LayerImportance {
    /// Input of query, key and value.
    pub(crate) attention: Vec<u128>,
    /// Input of the output product.
    pub(crate) mixed: Vec<u128>,
    /// Input of the first product of the ffn.
    pub(crate) ffn: Vec<u128>,
    /// Input of the second product of the ffn.
    pub(crate) inner: Vec<u128>,
}

type Rows = Vec<Vec<i32>>;

/// Runs the encoder of docs/EXACT.md, section 5, on these ids and keeps what goes into each product. `None` where there is nothing to
/// look at: no ids, more than [`MAX_IDS`] or the context, or one outside of the vocabulary. Also the final norm rows.
pub(crate) fn importance(header: &Header, weights: &EncoderWeights, ids: &[u32]) -> Option<(Vec<LayerImportance>, Rows)> {
    if header.refuse(ids).is_some() || ids.len() > MAX_IDS {
        return None;
    }
    let token_type = weights.token_types.as_ref().and_then(|types| types.row(0));
    let positions = ids.iter().zip(weights.positions.iter_rows());
    let embedded = positions.filter_map(|(id, position)| Some(embed(weights.words.row(*id as usize)?, position, token_type)));
    let mut x = normed(header, embedded.collect(), &weights.embedding_norm);
    let mut layers = Vec::with_capacity(weights.layers.len());
    for (layer, value_shifts) in weights.layers.iter().zip(weights.value_shifts.iter_rows()) {
        let attention = squares(&x);
        let mixed = attend(header, layer, value_shifts, &x)?;
        x = normed(header, add(&x, &project(&layer.output, &mixed)), &layer.attention_norm);
        let ffn = squares(&x);
        let inner: Rows = project(&layer.up, &x).iter().map(|row| row.iter().map(|x| gelu_erf(*x)).collect()).collect();
        x = normed(header, add(&x, &project(&layer.down, &inner)), &layer.ffn_norm);
        layers.push(LayerImportance { attention, mixed: squares(&mixed), ffn, inner: squares(&inner) });
    }
    Some((layers, x))
}

fn squares(rows: &Rows) -> Vec<u128> {
    let width = rows.first().map_or(0, Vec::len);
    (0..width).map(|k| rows.iter().map(|row| u128::from(row[k].unsigned_abs()).pow(2)).sum()).collect()
}

fn normed(header: &Header, rows: Rows, norm: &Norm) -> Rows {
    rows.iter().map(|row| layer_norm(row, header.epsilon, norm)).collect()
}

fn project(matrix: &Q8Matrix, rows: &Rows) -> Rows {
    rows.iter().map(|row| linear(matrix, &to_operand(row))).collect()
}

fn add(a: &Rows, b: &Rows) -> Rows {
    a.iter().zip(b).map(|(a, b)| residual(a, b)).collect()
}

fn attend(header: &Header, layer: &LayerWeights, value_shifts: &[i32], x: &Rows) -> Option<Rows> {
    let attention = Attention {
        heads: header.heads as usize,
        kv_heads: header.kv_heads as usize,
        head_dim: header.head_dim as usize,
        score_scale: header.score_scale,
        value_shifts,
    };
    let table = |matrix: &Q8Matrix| TableI32::new(x.len(), matrix.rows(), project(matrix, x).concat()).ok();
    let mixed = attention.bidirectional(&table(&layer.query)?, &table(&layer.key)?, &table(&layer.value)?);
    Some(mixed.iter_rows().map(<[i32]>::to_vec).collect())
}
