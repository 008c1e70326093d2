//! Every kernel, on every instruction set of this machine, equals the plain definition to the bit.

use std::num::NonZeroUsize;

use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest},
};
use quern_exact::{
    arith::{MAX_I16, clamp32},
    bounds,
    encoder::{Encoder, Norm},
    format::{Q8Matrix, TableI32, VectorI32},
    header::{Header, POOLING_FIRST, flag},
    kernels::{self, Isa, Packed},
    reference::{self, Attention},
    sample::{self, Generator},
};

const LIMIT: i32 = i32::MAX;

/// Activations: ordinary ones, outliers, and the ends of the range.
fn activation() -> impl Strategy<Value = i32> {
    prop_oneof![
        4 => -60_000..60_000i32,
        2 => any::<i32>().prop_map(|x| clamp32(i64::from(x))),
        1 => Just(0),
        1 => prop_oneof![Just(LIMIT), Just(-LIMIT), Just(32_767), Just(-32_767), Just(32_768), Just(-32_768), Just(65_535)],
    ]
}

/// Any int32, often near an end.
fn any_element() -> impl Strategy<Value = i32> {
    prop_oneof![any::<i32>(), activation(), (0..3i32).prop_map(|x| LIMIT - x), (0..3i32).prop_map(|x| i32::MIN + x), -2..2i32]
}

/// A vector of activations, sometimes of one value all over.
fn activations(len: usize) -> impl Strategy<Value = Vec<i32>> {
    prop_oneof![4 => vec(activation(), len), 1 => activation().prop_map(move |x| vec![x; len])]
}

/// A matrix with every legal mantissa and shift, sometimes at one end all over.
fn matrix(rows: usize, cols: usize) -> impl Strategy<Value = Q8Matrix> {
    let groups = rows * cols.div_ceil(bounds::GROUP);
    let weights = prop_oneof![4 => vec(-127..=127i8, rows * cols), 1 => prop_oneof![Just(127i8), Just(-127), Just(0)].prop_map(move |w| vec![w; rows * cols])];
    let mantissas = prop_oneof![vec(1..=u16::MAX, groups), Just(vec![u16::MAX; groups]), Just(vec![1; groups])];
    let shifts = vec(prop_oneof![bounds::ROW_SHIFT_MIN..=bounds::ROW_SHIFT_MAX, Just(bounds::ROW_SHIFT_MIN)], rows);
    let bias = prop::option::of(vec(any::<i32>(), rows));
    (weights, mantissas, shifts, bias).prop_map(move |(weights, mantissas, shifts, bias)| {
        Q8Matrix::new(rows, cols, weights, mantissas, shifts, bias).expect("legal parts")
    })
}

fn plain_linear(matrix: &Q8Matrix, rows: &[i32]) -> Vec<i32> {
    rows.chunks_exact(matrix.cols()).flat_map(|row| reference::linear(matrix, &reference::to_operand(row))).collect()
}

fn fast_linear(isa: Isa, matrix: &Q8Matrix, rows: &[i32]) -> Vec<i32> {
    kernels::linear(isa, &Packed::new(matrix), &kernels::to_operands(isa, rows, matrix.cols()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn operands_of_kernels_equal_plain((cols, rows) in (1..150usize, 1..20usize).prop_flat_map(|(cols, count)| (Just(cols), activations(cols * count)))) {
        for isa in Isa::available() {
            let fast = kernels::to_operands(isa, &rows, cols);
            for (at, row) in rows.chunks_exact(cols).enumerate() {
                let plain = reference::to_operand(row);
                prop_assert_eq!(fast.row(at), plain.elements);
                prop_assert_eq!(fast.shift(at), plain.shift);
            }
        }
    }

    #[test]
    fn products_of_kernels_equal_plain_for_ragged_shapes(
        (matrix, rows) in (1..36usize, prop_oneof![1..40usize, 120..136usize, 250..300usize], 1..15usize)
            .prop_flat_map(|(rows, cols, positions)| (matrix(rows, cols), activations(cols * positions)))
    ) {
        let plain = plain_linear(&matrix, &rows);
        for isa in Isa::available() {
            prop_assert_eq!(&fast_linear(isa, &matrix, &rows), &plain);
        }
    }

    #[test]
    fn norms_of_kernels_equal_plain(
        rows in activations(2 * 48), gain in vec(any::<i32>(), 48), bias in vec(any::<i32>(), 48), epsilon in prop_oneof![Just(0), 0..=bounds::EPSILON, 0..1000u64],
    ) {
        let norm = Norm { gain: VectorI32::from(gain), bias: VectorI32::from(bias) };
        let plain: Vec<i32> = rows.chunks_exact(48).flat_map(|row| reference::layer_norm(row, epsilon, &norm)).collect();
        for isa in Isa::available() {
            let mut fast = rows.clone();
            kernels::layer_norm(isa, &mut fast, epsilon, &norm);
            prop_assert_eq!(&fast, &plain);
        }
    }

    #[test]
    fn adds_of_kernels_equal_plain((x, y) in (0..70usize).prop_flat_map(|len| (vec(any_element(), len), vec(any_element(), len)))) {
        let plain = reference::residual(&x, &y);
        for isa in Isa::available() {
            let mut fast = x.clone();
            kernels::add(isa, &mut fast, &y);
            prop_assert_eq!(&fast, &plain);
        }
    }

    #[test]
    fn gelu_of_kernels_equals_plain(elements in activations(75)) {
        let plain: Vec<i32> = elements.iter().map(|&x| reference::gelu_erf(x)).collect();
        for isa in Isa::available() {
            let mut fast = elements.clone();
            kernels::gelu_erf(isa, &mut fast);
            prop_assert_eq!(&fast, &plain);
        }
    }

    #[test]
    fn attention_of_kernels_equals_plain(
        (positions, head_dim, per_kv, rows) in (1..40usize, prop_oneof![1..9usize, Just(32), Just(33)], 1..3usize).prop_flat_map(|(positions, head_dim, per_kv)| {
            let width = positions * 2 * head_dim;
            (Just(positions), Just(head_dim), Just(per_kv), (activations(width * per_kv), activations(width), activations(width)))
        }),
        score_scale in prop_oneof![1..=bounds::SCORE_SCALE, Just(bounds::SCORE_SCALE), 1..1000u32],
        value_shifts in vec(0..=bounds::VALUE_SHIFT_MAX, 2),
    ) {
        let (q, k, v) = rows;
        let attention = Attention { heads: 2 * per_kv, kv_heads: 2, head_dim, score_scale, value_shifts: &value_shifts };
        let table = |data: &[i32], width: usize| TableI32::new(positions, width, data.to_vec()).expect("sizes fit");
        let plain = attention.bidirectional(&table(&q, 2 * per_kv * head_dim), &table(&k, 2 * head_dim), &table(&v, 2 * head_dim));
        for isa in Isa::available() {
            prop_assert_eq!(&kernels::bidirectional(isa, &attention, &q, &k, &v)[..], plain.data());
        }
    }
}

/// The widest product there is, at both ends: K = 32,768, every factor at its limit.
#[test]
fn product_at_the_greatest_k_and_every_limit_stays_within_its_bound() {
    let cols = bounds::PRODUCT_COLS as usize;
    for (weight, x) in [(127i8, LIMIT), (-127, LIMIT), (127, -LIMIT), (-127, -LIMIT)] {
        let matrix =
            Q8Matrix::new(2, cols, vec![weight; 2 * cols], vec![u16::MAX; 2 * cols / 128], vec![17, 62], Some(vec![LIMIT, -LIMIT]))
                .expect("legal");
        let rows = vec![x; cols];
        let plain = plain_linear(&matrix, &rows);
        // The exact sum, in 128 bits: its magnitude reaches more than 2^52 and must stay below 2^53.
        let sum = i128::from(weight) * i128::from(MAX_I16) * i128::from(x.signum()) * i128::from(u16::MAX) * (1i128 << 15);
        assert!((1 << 52..1 << 53).contains(&sum.abs()));
        let expected = |shift: u32, bias: i32| {
            let limit = i128::from(LIMIT);
            i32::try_from((((sum + (1 << (shift - 1))) >> shift) + i128::from(bias)).clamp(-limit, limit)).expect("clamped")
        };
        assert_eq!(plain, [expected(17 - 16, LIMIT), expected(62 - 16, -LIMIT)]);
        for isa in Isa::available() {
            assert_eq!(fast_linear(isa, &matrix, &rows), plain, "{isa:?}");
        }
    }
}

/// 256 dims, 32-bit ends, the greatest scale: the dot product times c comes within 2^49 of the end of int64.
#[test]
fn attention_at_every_limit_stays_within_its_bound() {
    let value_shifts = [bounds::VALUE_SHIFT_MAX];
    let attention = Attention { heads: 1, kv_heads: 1, head_dim: 256, score_scale: bounds::SCORE_SCALE, value_shifts: &value_shifts };
    for (q, k) in [(LIMIT, LIMIT), (LIMIT, -LIMIT), (-32_767, 32_767), (32_767, 32_767)] {
        let q = vec![q; 3 * 256];
        let mut keys = vec![k; 3 * 256];
        keys[256..512].fill(-k);
        let values = [vec![LIMIT; 256], vec![-LIMIT; 256], vec![LIMIT; 256]].concat();
        let table = |data: &[i32]| TableI32::new(3, 256, data.to_vec()).expect("sizes fit");
        let plain = attention.bidirectional(&table(&q), &table(&keys), &table(&values));
        // Positions 0 and 2 agree and position 1 is far off, or the reverse: no rounding is left.
        let sign = if q[0].signum() == k.signum() { 1 } else { -1 };
        assert!(plain.data().iter().all(|&y| y == sign * (32_767 << 16)));
        for isa in Isa::available() {
            assert_eq!(kernels::bidirectional(isa, &attention, &q, &keys, &values), plain.data(), "{isa:?}");
        }
    }
}

/// Every weight at 2^24 and every value at an end, up to the longest context: the sum of the weights reaches 2^39, the sum of the
/// products 2^54 and the numerator 2^71, and the 32-bit sums of the kernel's digits come within 2^16 of the end of int32.
#[test]
fn attention_of_equal_scores_reaches_the_bounds_of_its_sums() {
    for shift in [0, 7, bounds::VALUE_SHIFT_MAX] {
        let value_shifts = [shift];
        let attention = Attention { heads: 1, kv_heads: 1, head_dim: 3, score_scale: bounds::SCORE_SCALE, value_shifts: &value_shifts };
        for positions in [1, 15, 16, 17, 33, bounds::CONTEXT as usize] {
            for end in [LIMIT, -LIMIT] {
                let (query, zeros, values) = (vec![0; 3], vec![0; 3 * positions], vec![end; 3 * positions]);
                let expected = [end.signum() * (32_767 << shift); 3];
                let table = |data: &[i32]| TableI32::new(data.len() / 3, 3, data.to_vec()).expect("sizes fit");
                assert_eq!(attention.bidirectional(&table(&query), &table(&zeros), &table(&values)).data(), expected);
                for isa in Isa::available() {
                    let mixed = kernels::bidirectional(isa, &attention, &query, &zeros, &values);
                    assert_eq!(mixed, expected, "{isa:?}, {positions} positions, shift {shift}");
                }
            }
        }
    }
}

fn items(header: &Header, seed: u64) -> Vec<Vec<u32>> {
    let mut generator = Generator::new(seed);
    let id = |generator: &mut Generator| u32::try_from(generator.within(0, i64::from(header.vocabulary) - 1)).expect("an id");
    let lengths = [1, 2, 3, 7, 8, 16, 17, header.context as usize];
    let mut items: Vec<Vec<u32>> = lengths.iter().map(|&length| (0..length).map(|_| id(&mut generator)).collect()).collect();
    items.push(vec![]);
    items.push(vec![0; header.context as usize + 1]);
    items.push(vec![1, header.vocabulary, 2]);
    items.push(vec![u32::MAX]);
    items
}

fn variants() -> Vec<Header> {
    let small = sample::small_header();
    vec![
        small.clone(),
        Header { flags: flag::POST_NORM | flag::LEARNED_POSITIONS, token_types: 0, ..small.clone() },
        Header { pooling: POOLING_FIRST, epsilon: 1 << 40, ..small.clone() },
        Header {
            dim: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: 1,
            ffn: 1,
            layers: 1,
            context: 17,
            vocabulary: 1,
            score_scale: bounds::SCORE_SCALE,
            ..small.clone()
        },
        Header { dim: 130, heads: 5, kv_heads: 5, head_dim: 7, ffn: 129, layers: 1, ..small },
    ]
}

#[test]
fn encoder_by_kernels_equals_encoder_by_plain_ops() {
    for header in variants() {
        let weights = sample::weights(&header, 3).expect("a valid header");
        for isa in Isa::available() {
            let encoder = Encoder::with_isa(header.clone(), weights.clone(), isa).expect("weights that fit");
            for item in items(&header, 4) {
                assert_eq!(encoder.forward(&item), reference::forward(&encoder, &item), "{isa:?}, {} ids", item.len());
            }
        }
    }
}

#[test]
fn embedding_is_equal_for_every_thread_count_batch_split_and_item_order() {
    let header = sample::small_header();
    let encoder = sample::encoder(&header, 5).expect("a valid header");
    let items = [items(&header, 6), items(&header, 7), items(&header, 8)].concat();
    let alone: Vec<_> = items.iter().map(|item| encoder.forward(item)).collect();
    for threads in [1, 2, 3, 8, 64] {
        assert_eq!(encoder.embed_many(&items, NonZeroUsize::new(threads).expect("not zero")), alone, "{threads} threads");
    }
    let two = NonZeroUsize::new(2).expect("not zero");
    for split in [1, 5, items.len()] {
        let parts: Vec<_> = items.chunks(split).flat_map(|part| encoder.embed_many(part, two)).collect();
        assert_eq!(parts, alone, "batches of {split}");
    }
    let reversed: Vec<_> = items.iter().rev().cloned().collect();
    let mut outputs = encoder.embed_many(&reversed, two);
    outputs.reverse();
    assert_eq!(outputs, alone);
    assert!(encoder.embed_many::<Vec<u32>>(&[], two).is_empty());
}
