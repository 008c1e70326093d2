use super::{Attention, embed_word, gated, gelu_erf, gelu_tanh, head_epsilon, linear, residual, rms_norm, rotate, silu, to_operand};
use crate::{
    decoder::{Generated, LayerWeights, Model, OutputKey, Rotary, Rule},
    format::{Q8Matrix, TableI32, VectorI32},
    header::{ACTIVATION_GELU_ERF, ACTIVATION_GELU_TANH, Header},
};

/// The whole function of a decoder, by the plain ops: the ids of one output, and N (EXACT.md, section 5). Computes every position anew
/// for every id.
#[must_use]
pub fn generate(model: &Model, item: &[u32], rule: &Rule, key: OutputKey) -> Generated {
    let width = model.header().dim as usize;
    if let Some(reason) = model.header().refuse(item) {
        return Generated { reason, ids: Vec::new(), norm_rows: table(width, Vec::new()) };
    }
    let mut sequence = item.to_vec();
    loop {
        let norm_rows = norm_rows(model, &sequence);
        let last = norm_rows.row(sequence.len() - 1).unwrap_or_default();
        // At most the context, 2^15.
        let position = u32::try_from(sequence.len() - 1).unwrap_or(u32::MAX);
        let id = rule.choose(key, position, &logits(model, last));
        sequence.push(id);
        let ids = &sequence[item.len()..];
        if let Some(reason) = rule.end(model.header(), item.len(), ids.len(), id) {
            return Generated { reason, ids: ids.to_vec(), norm_rows };
        }
    }
}

/// N of a sequence: the rows of the final norm, one per id. No rows where the model computes nothing of these ids ([`Header::refuse`]).
#[must_use]
pub fn norm_rows(model: &Model, ids: &[u32]) -> TableI32 {
    let (header, weights) = (model.header(), model.weights());
    let width = header.dim as usize;
    if header.refuse(ids).is_some() {
        return table(width, Vec::new());
    }
    let norm = |rows: &TableI32, gain: &VectorI32| map_rows(rows, |row| rms_norm(row, header.epsilon, gain.as_slice()));
    let embed = |&id: &u32| weights.words.row(id as usize).map_or_else(Vec::new, |word| embed_word(word, header.embedding_scale));
    let mut x = table(width, ids.iter().flat_map(embed).collect());
    for (layer, value_shifts) in weights.layers.iter().zip(weights.value_shifts.iter_rows()) {
        let mixed = attend(header, layer, weights.rotary.as_ref(), value_shifts, &norm(&x, &layer.attention_gain));
        x = add(&x, &project(&layer.output, &mixed));
        let inner = gate(header, layer, &norm(&x, &layer.ffn_gain));
        x = add(&x, &project(&layer.down, &inner));
    }
    norm(&x, &weights.final_gain)
}

/// The logits of one row of N, Q14: one per id.
#[must_use]
pub fn logits(model: &Model, norm_row: &[i32]) -> Vec<i32> {
    linear(model.weights().logits(), &to_operand(norm_row))
}

fn attend(header: &Header, layer: &LayerWeights, rotary: Option<&Rotary>, value_shifts: &[i32], rows: &TableI32) -> TableI32 {
    let head_dim = header.head_dim as usize;
    let epsilon = head_epsilon(header.epsilon, header.head_dim, header.dim);
    let turn = |rows: &TableI32, gain: Option<&VectorI32>| {
        let heads = rows.iter_rows().enumerate().flat_map(|(position, row)| {
            row.chunks_exact(head_dim).flat_map(move |head| {
                let mut head = gain.map_or_else(|| head.to_vec(), |gain| rms_norm(head, epsilon, gain.as_slice()));
                if let Some((cos, sin)) = rotary.and_then(|rotary| rotary.cos.row(position).zip(rotary.sin.row(position))) {
                    rotate(&mut head, cos, sin);
                }
                head
            })
        });
        table(rows.width(), heads.collect())
    };
    let attention = Attention {
        heads: header.heads as usize,
        kv_heads: header.kv_heads as usize,
        head_dim,
        score_scale: header.score_scale,
        value_shifts,
    };
    let norms = layer.head_norms.as_ref();
    let q = turn(&project(&layer.query, rows), norms.map(|norms| &norms.query));
    let k = turn(&project(&layer.key, rows), norms.map(|norms| &norms.key));
    attention.causal(header.window as usize, &q, &k, &project(&layer.value, rows))
}

fn gate(header: &Header, layer: &LayerWeights, rows: &TableI32) -> TableI32 {
    let activation = match header.activation {
        ACTIVATION_GELU_ERF => gelu_erf,
        ACTIVATION_GELU_TANH => gelu_tanh,
        _ => silu,
    };
    let (gate, up) = (project(&layer.gate, rows), project(&layer.up, rows));
    table(up.width(), gate.data().iter().zip(up.data()).map(|(&g, &u)| gated(activation(g), u)).collect())
}

fn project(matrix: &Q8Matrix, rows: &TableI32) -> TableI32 {
    table(matrix.rows(), rows.iter_rows().flat_map(|row| linear(matrix, &to_operand(row))).collect())
}

fn add(a: &TableI32, b: &TableI32) -> TableI32 {
    table(a.width(), residual(a.data(), b.data()))
}

fn map_rows(rows: &TableI32, f: impl Fn(&[i32]) -> Vec<i32>) -> TableI32 {
    table(rows.width(), rows.iter_rows().flat_map(f).collect())
}

fn table(width: usize, data: Vec<i32>) -> TableI32 {
    TableI32::new(data.len() / width.max(1), width, data).unwrap_or_else(|error| unreachable!("{error}"))
}
