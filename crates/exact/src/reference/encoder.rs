use super::{Attention, embed, gelu_erf, layer_norm, linear, pool, residual, to_operand, unit_length};
use crate::{
    encoder::{Encoder, LayerWeights, Norm, Output},
    format::{Q8Matrix, TableI32},
    header::{Header, POOLING_FIRST},
};

/// The whole function from ids to a vector, by the plain ops. [`Encoder::forward`] must equal it to the bit.
#[must_use]
pub fn forward(encoder: &Encoder, ids: &[u32]) -> Output {
    let (header, weights) = (encoder.header(), encoder.weights());
    if let Some(reason) = header.refuse(ids) {
        return Output::not_computed(reason, header);
    }
    let norm = |rows: &TableI32, norm: &Norm| map_rows(rows, |row| layer_norm(row, header.epsilon, norm));
    let token_type = weights.token_types.as_ref().and_then(|types| types.row(0));
    let positions = ids.iter().zip(weights.positions.iter_rows());
    let embedded = positions.flat_map(|(&id, position)| {
        let word = weights.words.row(id as usize).unwrap_or_else(|| unreachable!("ids were checked"));
        embed(word, position, token_type)
    });
    let mut x = norm(&table(weights.positions.width(), embedded.collect()), &weights.embedding_norm);
    for (layer, value_shifts) in weights.layers.iter().zip(weights.value_shifts.iter_rows()) {
        let mixed = project(&layer.output, &attend(header, layer, value_shifts, &x));
        x = norm(&add(&x, &mixed), &layer.attention_norm);
        let inner = map_rows(&project(&layer.up, &x), |row| row.iter().map(|&x| gelu_erf(x)).collect());
        x = norm(&add(&x, &project(&layer.down, &inner)), &layer.ffn_norm);
    }
    let vector = if header.pooling == POOLING_FIRST {
        unit_length(&x.row(0).unwrap_or_default().iter().map(|&x| i64::from(x)).collect::<Vec<_>>())
    } else {
        unit_length(&pool(&x))
    };
    Output::computed(vector, x)
}

fn attend(header: &Header, layer: &LayerWeights, value_shifts: &[i32], x: &TableI32) -> TableI32 {
    let attention = Attention {
        heads: header.heads as usize,
        kv_heads: header.kv_heads as usize,
        head_dim: header.head_dim as usize,
        score_scale: header.score_scale,
        value_shifts,
    };
    attention.bidirectional(&project(&layer.query, x), &project(&layer.key, x), &project(&layer.value, x))
}

fn project(matrix: &Q8Matrix, rows: &TableI32) -> TableI32 {
    map_rows(rows, |row| linear(matrix, &to_operand(row)))
}

fn add(a: &TableI32, b: &TableI32) -> TableI32 {
    table(a.width(), a.iter_rows().zip(b.iter_rows()).flat_map(|(a, b)| residual(a, b)).collect())
}

fn map_rows(rows: &TableI32, f: impl Fn(&[i32]) -> Vec<i32>) -> TableI32 {
    let data: Vec<i32> = rows.iter_rows().flat_map(f).collect();
    table(data.len() / rows.rows().max(1), data)
}

fn table(width: usize, data: Vec<i32>) -> TableI32 {
    TableI32::new(data.len() / width.max(1), width, data).unwrap_or_else(|error| unreachable!("{error}"))
}
