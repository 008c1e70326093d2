use super::{AttentionScratch, Isa, KvCache, Pool, Reach, Sequence, attend};
use crate::reference::Attention;

/// Attention of an item to itself, over all positions; twin of [`Attention::bidirectional`](crate::reference::Attention::bidirectional).
/// Rows as there, row-major. Returns rows of heads · head dim.
///
/// # Panics
/// If the shapes do not fit the parameters.
#[must_use]
pub fn bidirectional(isa: Isa, attention: &Attention<'_>, q: &[i32], k: &[i32], v: &[i32]) -> Vec<i32> {
    let positions = k.len() / (attention.kv_heads * attention.head_dim);
    let mut cache = KvCache::new(attention.kv_heads, attention.head_dim, positions);
    cache.append(isa, k, v, attention.value_shifts);
    let mut out = vec![0; q.len()];
    let rows = 0..q.len() / (attention.heads * attention.head_dim);
    let sequence = Sequence { cache: &cache, rows, first: 0 };
    attend(&Pool::single(isa), attention, Reach::All, &[sequence], q, &mut out, &mut AttentionScratch::default());
    out
}
