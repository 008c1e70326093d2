//! Attention to a cache, on every instruction set of this machine, equals the plain definition over each query's own range of positions.

use std::{num::NonZeroUsize, ops::Range};

use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, any, prop_assert_eq, prop_oneof, proptest},
};
use quern_exact::{
    arith::clamp32,
    bounds,
    format::TableI32,
    kernels::{AttentionScratch, Isa, KvCache, Pool, Reach, Sequence, attend},
    reference::{self, Attention},
};

fn activation() -> impl Strategy<Value = i32> {
    prop_oneof![
        4 => -60_000..60_000i32,
        2 => any::<i32>().prop_map(|x| clamp32(i64::from(x))),
        1 => prop_oneof![Just(0), Just(i32::MAX), Just(-i32::MAX), Just(32_767), Just(-32_768)],
    ]
}

fn table(width: usize, data: &[i32]) -> TableI32 {
    TableI32::new(data.len() / width, width, data.to_vec()).expect("sizes fit")
}

/// One query row at a time, each over its own range of keys and values.
fn plain(attention: &Attention<'_>, ranges: &[Range<usize>], q: &[i32], k: &[i32], v: &[i32]) -> Vec<i32> {
    let (q_width, kv_width) = (attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim);
    let rows = q.chunks_exact(q_width).zip(ranges);
    rows.flat_map(|(q, range)| {
        let part = |rows: &[i32]| table(kv_width, &rows[range.start * kv_width..range.end * kv_width]);
        attention.bidirectional(&table(q_width, q), &part(k), &part(v)).data().to_vec()
    })
    .collect()
}

fn pool(isa: Isa, threads: usize) -> Pool {
    Pool::new(isa, NonZeroUsize::new(threads).expect("not zero"))
}

#[derive(Debug, Clone)]
struct Case {
    per_kv_head: usize,
    head_dim: usize,
    /// Positions in the cache before the queries, and queries.
    before: usize,
    queries: usize,
    window: usize,
    rows: (Vec<i32>, Vec<i32>, Vec<i32>),
}

fn case() -> impl Strategy<Value = Case> {
    let head_dim = prop_oneof![1..9usize, Just(16), Just(32), Just(33), Just(64), Just(80)];
    let before = prop_oneof![0..40usize, 240..300usize];
    (1..5usize, head_dim, before, 1..20usize, prop_oneof![Just(0usize), 1..300usize]).prop_flat_map(
        |(per_kv_head, head_dim, before, queries, window)| {
            let kv = (before + queries) * 2 * head_dim;
            (vec(activation(), queries * 2 * per_kv_head * head_dim), vec(activation(), kv), vec(activation(), kv))
                .prop_map(move |rows| Case { per_kv_head, head_dim, before, queries, window, rows })
        },
    )
}

/// Whole tiles of queries: rows of every size of number, rows that are all the same (every weight is 2^24), and a first key that outweighs
/// the others.
fn wide_case() -> impl Strategy<Value = Case> {
    let head_dim = prop_oneof![1..=256usize, Just(32), Just(63), Just(64), Just(65), Just(128), Just(256)];
    let before = prop_oneof![0..100usize, 200..300usize, 980..1100usize];
    let per_kv_head = prop_oneof![1..8usize, Just(1), Just(3)];
    let shape = (per_kv_head, head_dim, before, 1..70usize, prop_oneof![Just(0usize), 1..400usize], 0..5u8);
    shape.prop_flat_map(|(per_kv_head, head_dim, before, queries, window, kind)| {
        // Few rows where they are long and have many heads, for the plain definition's sake.
        let queries = queries.min(1 + 20_000_000 / ((before + 70) * head_dim * 2 * per_kv_head));
        let kv = (before + queries) * 2 * head_dim;
        let number = move || match kind {
            0 => activation().boxed(),
            1 => (-30_000..30_000i32).boxed(),
            2 => prop_oneof![Just(i32::MAX), Just(-i32::MAX), Just(0), Just(-32_768)].boxed(),
            _ => (-60_000..60_000i32).boxed(),
        };
        (vec(number(), queries * 2 * per_kv_head * head_dim), vec(number(), kv), vec(number(), kv)).prop_map(
            move |(mut q, mut k, mut v)| {
                match kind {
                    3 => {
                        let first = k[..2 * head_dim].to_vec();
                        k.chunks_exact_mut(2 * head_dim).for_each(|row| row.copy_from_slice(&first));
                        v.iter_mut().for_each(|x| *x = if *x < 0 { -i32::MAX } else { i32::MAX });
                    }
                    4 => {
                        k[..2 * head_dim].fill(200_000);
                        q.iter_mut().for_each(|x| *x = x.abs());
                    }
                    _ => {}
                }
                Case { per_kv_head, head_dim, before, queries, window, rows: (q, k, v) }
            },
        )
    })
}

/// More positions than 32 bits can sum over, weights that are all 2^24 and values at their limits, then a sink; the longest context.
#[test]
fn long_contexts_equal_plain() {
    let value_shifts = [0];
    for (head_dim, positions, queries) in [(16, 8_300, 40), (8, 32_768, 33), (3, 32_768, 7)] {
        let attention = Attention { heads: 1, kv_heads: 1, head_dim, score_scale: 6_000_000, value_shifts: &value_shifts };
        let mut state = 1u32;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            i32::try_from(state >> 16).expect("16 bits") - 32_768
        };
        let q: Vec<i32> = (0..queries * head_dim).map(|_| number()).collect();
        let v: Vec<i32> = (0..positions * head_dim).map(|_| if number() < 20_000 { -i32::MAX } else { i32::MAX }).collect();
        let mixed: Vec<i32> = (0..positions * head_dim).map(|_| number()).collect();
        let mut sink = mixed.clone();
        sink[..head_dim].copy_from_slice(&q[..head_dim].iter().map(|x| 8 * x).collect::<Vec<_>>());
        for k in [vec![9_000; positions * head_dim], mixed, sink] {
            for window in [0, 20_000] {
                let first = positions - queries;
                let ranges: Vec<_> =
                    (first + 1..=positions).map(|end| if window == 0 { 0..end } else { end.saturating_sub(window)..end }).collect();
                let expected = plain(&attention, &ranges, &q, &k, &v);
                for isa in Isa::available() {
                    let mut cache = KvCache::new(1, head_dim, positions);
                    cache.append(isa, &k, &v, &value_shifts);
                    let mut out = vec![0; q.len()];
                    let sequence = Sequence { cache: &cache, rows: 0..queries, first };
                    attend(
                        &pool(isa, 2),
                        &attention,
                        Reach::Causal { window },
                        &[sequence],
                        &q,
                        &mut out,
                        &mut AttentionScratch::default(),
                    );
                    assert_eq!(out, expected, "{isa:?}, {positions} positions, window {window}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn causal_attention_equals_plain_over_each_range(
        case in case(), value_shifts in vec(0..=bounds::VALUE_SHIFT_MAX, 2), score_scale in prop_oneof![1..=bounds::SCORE_SCALE, 1..100_000u32],
    ) {
        let Case { per_kv_head, head_dim, before, queries, window, rows: (q, k, v) } = case;
        let attention = Attention { heads: 2 * per_kv_head, kv_heads: 2, head_dim, score_scale, value_shifts: &value_shifts };
        let ranges: Vec<_> = (before + 1..=before + queries).map(|end| if window == 0 { 0..end } else { end.saturating_sub(window)..end }).collect();
        let expected = plain(&attention, &ranges, &q, &k, &v);
        for isa in Isa::available() {
            let pool = pool(isa, 2);
            let mut cache = KvCache::new(2, head_dim, before + queries);
            let split = before * 2 * head_dim;
            cache.append(isa, &k[..split], &v[..split], &value_shifts);
            cache.append(isa, &k[split..], &v[split..], &value_shifts);
            let mut out = vec![0; q.len()];
            attend(&pool, &attention, Reach::Causal { window }, &[Sequence { cache: &cache, rows: 0..queries, first: before }], &q, &mut out, &mut AttentionScratch::default());
            prop_assert_eq!(&out, &expected, "{:?}", isa);
            // One position at a time, the cache growing with it.
            let mut cache = KvCache::new(2, head_dim, before + queries);
            cache.append(isa, &k[..split], &v[..split], &value_shifts);
            let (width, mut scratch) = (2 * per_kv_head * head_dim, AttentionScratch::default());
            for row in 0..queries {
                let kv = split + row * 2 * head_dim..split + (row + 1) * 2 * head_dim;
                cache.append(isa, &k[kv.clone()], &v[kv], &value_shifts);
                let mut out = vec![0; width];
                let sequence = Sequence { cache: &cache, rows: 0..1, first: before + row };
                attend(&pool, &attention, Reach::Causal { window }, &[sequence], &q[row * width..(row + 1) * width], &mut out, &mut scratch);
                prop_assert_eq!(&out[..], &expected[row * width..(row + 1) * width], "{:?}, position {}", isa, before + row);
            }
        }
    }

    #[test]
    fn many_queries_equal_plain_over_each_range(
        case in wide_case(), value_shifts in vec(0..=bounds::VALUE_SHIFT_MAX, 2), score_scale in prop_oneof![1..=bounds::SCORE_SCALE, 1_000_000..4_000_000u32],
        causal in any::<bool>(), threads in 1..4usize,
    ) {
        let Case { per_kv_head, head_dim, before, queries, window, rows: (q, k, v) } = case;
        let attention = Attention { heads: 2 * per_kv_head, kv_heads: 2, head_dim, score_scale, value_shifts: &value_shifts };
        let all = before + queries;
        let range = |end: usize| if !causal { 0..all } else if window == 0 { 0..end } else { end.saturating_sub(window)..end };
        let ranges: Vec<_> = (before + 1..=all).map(range).collect();
        let expected = plain(&attention, &ranges, &q, &k, &v);
        let reach = if causal { Reach::Causal { window } } else { Reach::All };
        for isa in Isa::available() {
            // Room for more than there is: what lies behind is not read.
            let mut cache = KvCache::new(2, head_dim, all + 50);
            cache.append(isa, &k, &v, &value_shifts);
            let mut out = vec![0; q.len()];
            let sequence = Sequence { cache: &cache, rows: 0..queries, first: before };
            attend(&pool(isa, threads), &attention, reach, &[sequence], &q, &mut out, &mut AttentionScratch::default());
            prop_assert_eq!(&out, &expected, "{:?}", isa);
        }
    }

    #[test]
    fn sequences_of_a_batch_do_not_see_each_other(
        rows in vec(activation(), 40 * 8), (first, second) in (1..20usize, 1..20usize), value_shift in 0..=bounds::VALUE_SHIFT_MAX,
    ) {
        let value_shifts = [value_shift];
        let attention = Attention { heads: 1, kv_heads: 1, head_dim: 8, score_scale: 6_000_000, value_shifts: &value_shifts };
        let (a, b) = (&rows[..first * 8], &rows[first * 8..(first + second) * 8]);
        let expected = [plain(&attention, &vec![0..first; first], a, a, a), plain(&attention, &vec![0..second; second], b, b, b)].concat();
        for isa in Isa::available() {
            let caches = [a, b].map(|rows| {
                let mut cache = KvCache::new(1, 8, 20);
                cache.append(isa, rows, rows, &value_shifts);
                cache
            });
            let sequences = [
                Sequence { cache: &caches[1], rows: first..first + second, first: 0 },
                Sequence { cache: &caches[0], rows: 0..first, first: 0 },
            ];
            let mut out = vec![0; (first + second) * 8];
            attend(&pool(isa, 3), &attention, Reach::All, &sequences, &rows[..(first + second) * 8], &mut out, &mut AttentionScratch::default());
            prop_assert_eq!(&out, &expected);
        }
    }

    #[test]
    fn a_cache_gives_back_its_operands_and_forgets_what_is_cut(rows in vec(activation(), 2 * 2 * 21 * 5), value_shift in 0..=bounds::VALUE_SHIFT_MAX) {
        let (k, v) = rows.split_at(rows.len() / 2);
        for isa in Isa::available() {
            let mut cache = KvCache::new(2, 21, 5);
            cache.append(isa, k, v, &[value_shift; 2]);
            for (at, (k, v)) in k.chunks_exact(21).zip(v.chunks_exact(21)).enumerate() {
                let key = reference::to_operand(k);
                prop_assert_eq!(cache.key(at % 2, at / 2), Some((key.elements, key.shift)));
                let value: Vec<i16> = v.iter().map(|&v| quern_exact::arith::clamp16(quern_exact::arith::rs(i64::from(v), value_shift.unsigned_abs()))).collect();
                prop_assert_eq!(cache.value(at % 2, at / 2), Some(value));
            }
            prop_assert_eq!(cache.key(0, 5), None);
            prop_assert_eq!(cache.value(2, 0), None);
            cache.truncate(3);
            prop_assert_eq!((cache.len(), cache.key(1, 3)), (3, None));
            let mut fresh = KvCache::new(2, 21, 5);
            fresh.append(isa, &k[..3 * 42], &v[..3 * 42], &[value_shift; 2]);
            for cache in [&mut cache, &mut fresh] {
                cache.append(isa, &k[..42], &v[..42], &[value_shift; 2]);
            }
            prop_assert_eq!((cache.key(1, 3), cache.value(1, 3)), (fresh.key(1, 3), fresh.value(1, 3)));
        }
    }
}

/// Positions of a cut cache still hold old numbers; a query must read none of them, also where they share a block with live ones.
#[test]
fn what_was_cut_never_shows() {
    let value_shifts = [0];
    let attention = Attention { heads: 1, kv_heads: 1, head_dim: 4, score_scale: 1 << 20, value_shifts: &value_shifts };
    let (q, k, v) = (vec![9_000; 4], vec![5_000; 4 * 3], vec![100; 4 * 3]);
    for isa in Isa::available() {
        let mut cache = KvCache::new(1, 4, 40);
        cache.append(isa, &[i32::MAX; 4 * 40], &[i32::MAX; 4 * 40], &value_shifts);
        cache.truncate(0);
        assert!(cache.is_empty());
        cache.append(isa, &k, &v, &value_shifts);
        for reach in [Reach::All, Reach::Causal { window: 0 }, Reach::Causal { window: 2 }] {
            let mut out = vec![0; 4];
            attend(
                &Pool::single(isa),
                &attention,
                reach,
                &[Sequence { cache: &cache, rows: 0..1, first: 2 }],
                &q,
                &mut out,
                &mut AttentionScratch::default(),
            );
            assert_eq!(out, [100; 4], "{isa:?} {reach:?}");
        }
    }
}

#[test]
#[should_panic(expected = "3 positions and 14 more in a cache of 16")]
fn a_full_cache_refuses_more() {
    let mut cache = KvCache::new(1, 2, 10);
    cache.append(Isa::Portable, &[1; 6], &[1; 6], &[0]);
    cache.append(Isa::Portable, &[1; 28], &[1; 28], &[0]);
}

#[test]
#[should_panic(expected = "a row belongs to one sequence")]
fn two_sequences_cannot_name_one_row() {
    let value_shifts = [0];
    let attention = Attention { heads: 1, kv_heads: 1, head_dim: 2, score_scale: 1, value_shifts: &value_shifts };
    let mut cache = KvCache::new(1, 2, 1);
    cache.append(Isa::Portable, &[1; 2], &[1; 2], &value_shifts);
    let sequence = Sequence { cache: &cache, rows: 0..1, first: 0 };
    let sequences = [sequence.clone(), sequence];
    attend(&Pool::single(Isa::Portable), &attention, Reach::All, &sequences, &[1; 2], &mut [0; 2], &mut AttentionScratch::default());
}
