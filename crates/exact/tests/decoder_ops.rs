//! The plain ops of decoders at their edges and against float references, and their kernels against them.

use std::num::NonZeroUsize;

use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, any, prop_assert_eq, prop_oneof, proptest},
};
use quern_exact::{
    arith::clamp32,
    bounds,
    format::{Q8Matrix, TableI32},
    header::{ACTIVATION_GELU_ERF, ACTIVATION_GELU_TANH, ACTIVATION_SILU},
    kernels::{self, AttentionScratch, ChoiceScratch, Isa, KvCache, Pool, Reach, Sequence},
    reference::{
        self, Attention, Draw, choose, embed_word, gated, gelu_tanh, head_epsilon, lg, noise, rms_norm, rotate, sampling_block, silu,
    },
    sample::Generator,
};

const LIMIT: i32 = i32::MAX;
const ONE: f64 = 16_384.0;

#[test]
fn silu_agrees_with_a_float_reference_and_is_exact_at_its_ends() {
    assert_eq!([0, LIMIT, -LIMIT, 30 << 14, -(30 << 14)].map(silu), [0, LIMIT, 0, 30 << 14, 0]);
    for x in (-20 << 14)..=(20 << 14) {
        let real = f64::from(x) / ONE;
        let expected = real / (1.0 + (-real).exp()) * ONE;
        assert!((f64::from(silu(x)) - expected).abs() <= 0.55, "{x}: {} against {expected}", silu(x));
    }
}

#[test]
fn gelu_by_tanh_agrees_with_a_float_reference_and_is_exact_at_its_ends() {
    assert_eq!([0, LIMIT, -LIMIT, 1 << 17, -(1 << 17)].map(gelu_tanh), [0, LIMIT, 0, 1 << 17, 0]);
    for x in (-8 << 14)..=(8 << 14) {
        let real = f64::from(x) / ONE;
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (real + 0.044715 * real.powi(3));
        let expected = real * 0.5 * (1.0 + inner.tanh()) * ONE;
        assert!((f64::from(gelu_tanh(x)) - expected).abs() <= 0.75, "{x}: {} against {expected}", gelu_tanh(x));
    }
}

#[test]
fn gated_product_saturates_symmetrically() {
    let cases =
        [(LIMIT, LIMIT, LIMIT), (-LIMIT, LIMIT, -LIMIT), (-LIMIT, -LIMIT, LIMIT), (0, LIMIT, 0), (1 << 14, -7, -7), (1, 1 << 13, 1)];
    for (g, u, expected) in cases {
        assert_eq!(gated(g, u), expected, "{g} · {u}");
    }
}

#[test]
fn rotation_turns_pairs_and_leaves_the_rest() {
    let (one, half) = (1 << 30, 1 << 29);
    let mut head = [100, 200, 300, 400, 500];
    rotate(&mut head, &[0, one], &[one, 0]);
    // The first pair by a right angle, the second by none; the last dim has no pair.
    assert_eq!(head, [-300, 200, 100, 400, 500]);
    let mut head = [3, 1];
    rotate(&mut head, &[half], &[0]);
    // 1.5 and 0.5: halves go up.
    assert_eq!(head, [2, 1]);
    // The greatest sum there is: 2^63 - 2^32, and it saturates.
    for (x, cos, sin) in [([LIMIT, -LIMIT], i32::MIN, i32::MIN), ([LIMIT, LIMIT], i32::MIN, i32::MAX), ([-LIMIT; 2], i32::MIN, i32::MIN)] {
        let mut head = x;
        rotate(&mut head, &[cos], &[sin]);
        let wide = x.map(i128::from);
        let exact = [wide[0] * i128::from(cos) - wide[1] * i128::from(sin), wide[1] * i128::from(cos) + wide[0] * i128::from(sin)];
        let limit = i128::from(LIMIT);
        assert_eq!(head.map(i128::from), exact.map(|sum| ((sum + (1 << 29)) >> 30).clamp(-limit, limit)));
    }
}

#[test]
fn words_are_scaled_once() {
    let words = Q8Matrix::new(1, 130, vec![127; 130], vec![u16::MAX, 1], vec![17], None).expect("legal");
    let word = words.row(0).expect("a row");
    let plain = embed_word(word, 0);
    assert_eq!((plain[0], plain[129], &plain), (1_040_368, 16, &embed_word(word, 1 << 14)));
    assert_eq!(embed_word(word, bounds::EMBEDDING_SCALE)[0], 127 * 65_535 * 128);
    assert_eq!(embed_word(word, 1)[0], 63);
}

#[test]
fn epsilon_of_a_head_is_its_share_and_stays_in_bounds() {
    assert_eq!([head_epsilon(1000, 64, 128), head_epsilon(3, 1, 2), head_epsilon(0, 256, 1)], [500, 2, 0]);
    assert_eq!(head_epsilon(bounds::EPSILON, 256, 1), bounds::EPSILON);
    // E = 2^62 - 1 beside the squares of the greatest head is below 2^63.
    let y = rms_norm(&[LIMIT; 256], head_epsilon(bounds::EPSILON, 256, 256), &[1 << 14; 256]);
    assert!(y.iter().all(|&y| (0..=1 << 14).contains(&y)));
}

#[test]
fn causal_attention_is_bidirectional_attention_over_what_each_position_sees() {
    let mut generator = Generator::new(1);
    let mut table = |width: usize| {
        let data = (0..9 * width).map(|_| i32::try_from(generator.within(-40_000, 40_000)).expect("small")).collect();
        TableI32::new(9, width, data).expect("sizes fit")
    };
    let (q, k, v) = (table(8), table(4), table(4));
    let attention = Attention { heads: 4, kv_heads: 2, head_dim: 2, score_scale: 10_000_000, value_shifts: &[0, 1] };
    for window in [0usize, 1, 2, 5, 9, 100] {
        let causal = attention.causal(window, &q, &k, &v);
        for p in 0..9usize {
            let first = if window == 0 { 0 } else { (p + 1).saturating_sub(window) };
            let part = |rows: &TableI32, first: usize| {
                let width = rows.width();
                TableI32::new(p + 1 - first, width, rows.data()[first * width..(p + 1) * width].to_vec()).expect("sizes fit")
            };
            let one = attention.bidirectional(&part(&q, p), &part(&k, first), &part(&v, first));
            assert_eq!(causal.row(p), one.row(0), "position {p}, window {window}");
        }
    }
}

#[test]
fn lg_is_exact_at_powers_of_two_monotonic_and_close_between() {
    for exponent in 0..64 {
        assert_eq!(lg(1 << exponent), i64::from(exponent) << 30);
    }
    assert_eq!(lg(0), 0);
    assert!(lg(u64::MAX) <= 64 << 30);
    let mut generator = Generator::new(3);
    let numbers = (1..100_000u64).chain((0..100_000).map(|at| generator.next_u64() >> (at % 60)).filter(|&n| n > 0));
    for n in numbers {
        let error = lg(n) as f64 / 2f64.powi(30) - (n as f64).log2();
        assert!(error.abs() < 3e-6, "lg({n}) is off by {error}");
        assert!(lg(n) <= lg(n + 1), "lg falls at {n}");
    }
}

/// -log2(-log2((u + 1/2) / 2^32)), good at both ends.
fn real_noise(u: u32) -> f64 {
    let p = (f64::from(u) + 0.5) / 2f64.powi(32);
    let inner = if p < 0.5 { -p.ln() } else { -(-(1.0 - p)).ln_1p() };
    -(inner / std::f64::consts::LN_2).log2()
}

#[test]
fn noise_is_gumbels_to_a_few_millionths_everywhere() {
    let mut generator = Generator::new(4);
    let ends = (0..10_000u32).flat_map(|u| [u, u32::MAX - u, (1 << 31) - 1 - u, (1 << 31) + u]);
    let random = (0..200_000).map(|at| u32::try_from((generator.next_u64() & 0xffff_ffff) >> (at % 20)).expect("32 bits"));
    for u in ends.chain(random.flat_map(|u| [u, !u])) {
        let error = noise(u) as f64 / 2f64.powi(24) - real_noise(u);
        assert!(error.abs() < 6e-6, "noise({u}) is off by {error}");
        // A table's joint may step back by what both sides are off.
        assert!(u == u32::MAX || noise(u + 1) >= noise(u) - 100, "noise falls at {u}");
    }
    assert!(noise(0) > -6 << 24 && noise(u32::MAX) < 33 << 24);
}

const GREEDY: Draw<'_> = Draw { temperature: 0, min_p: 0, seed: &[0; 32], item: 0, sample: 0, position: 0 };

#[test]
fn greedy_takes_the_greatest_logit_and_the_lowest_id_of_equals() {
    assert_eq!(choose(&[], &GREEDY), 0);
    assert_eq!(choose(&[-5], &GREEDY), 0);
    assert_eq!(choose(&[1, 7, -LIMIT, 7, LIMIT, 3, LIMIT], &GREEDY), 4);
    assert_eq!(choose(&[-LIMIT; 9], &GREEDY), 0);
    // min-p has no say.
    assert_eq!(choose(&[1, 2, 3], &Draw { min_p: u32::MAX, ..GREEDY }), 2);
}

#[test]
fn min_p_of_one_leaves_the_likeliest_and_of_zero_everything() {
    let seeds: Vec<[u8; 32]> = (0..200u8).map(|at| [at; 32]).collect();
    let draws = |temperature, min_p, logits: &[i32]| -> std::collections::BTreeSet<u32> {
        seeds.iter().map(|seed| choose(logits, &Draw { temperature, min_p, seed, ..GREEDY })).collect()
    };
    let logits = [LIMIT, -LIMIT, LIMIT, LIMIT - 1];
    // The whole range at the greatest temperature: 2^32 · 2^-16 = 65,536 units against 262,144 of distance.
    assert_eq!(draws(u32::MAX, 0, &logits).into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    for min_p in [1 << 16, (1 << 16) + 1, u32::MAX] {
        assert_eq!(draws(u32::MAX, min_p, &logits).into_iter().collect::<Vec<_>>(), [0, 2]);
    }
    assert_eq!(draws(1, 0, &[100, 0, 85, 100]).into_iter().collect::<Vec<_>>(), [0, 3]);
    // Half as likely, at temperature 1: ln 2 in Q14 is 11,356.5.
    let near = |distance: i32| draws(1 << 16, 1 << 15, &[1_000_000, 1_000_000 - distance]).len();
    assert_eq!((near(11_356), near(11_357)), (2, 1));
}

#[test]
fn sampling_follows_the_softmax() {
    let real = [0.0f64, 1.0, -1.0, 2.0, 0.5, -3.0, 1.5, 0.0, 0.7, -0.2];
    let logits: Vec<i32> = real.iter().map(|x| (x * ONE).round() as i32 - 3_000_000).collect();
    for (temperature, min_p) in [(65_536u32, 0u32), (32_768, 0), (131_072, 6554)] {
        let t = f64::from(temperature) / 65_536.0;
        let mut weights: Vec<f64> = real.iter().map(|x| ((x - 2.0) / t).exp()).collect();
        weights.iter_mut().filter(|weight| **weight < f64::from(min_p) / 65_536.0).for_each(|weight| *weight = 0.0);
        let total: f64 = weights.iter().sum();
        let count = 40_000u32;
        let mut seen = [0u32; 10];
        for at in 0..count {
            let draw = Draw { temperature, min_p, seed: &[9; 32], item: at % 7, sample: at % 11, position: at };
            seen[choose(&logits, &draw) as usize] += 1;
        }
        for (id, (&seen, weight)) in seen.iter().zip(&weights).enumerate() {
            let p = weight / total;
            let deviation = (f64::from(count) * p * (1.0 - p)).sqrt();
            let distance = (f64::from(seen) - f64::from(count) * p).abs();
            assert!(distance <= 4.5 * deviation, "temperature {t}: id {id} was drawn {seen} times, expected {}", f64::from(count) * p);
        }
    }
}

#[test]
fn every_part_of_the_key_changes_the_noise() {
    let draw = Draw { temperature: 1, min_p: 0, seed: &[1; 32], item: 2, sample: 3, position: 4 };
    let all = [
        sampling_block(&draw, 5),
        sampling_block(&draw, 6),
        sampling_block(&Draw { seed: &[2; 32], ..draw }, 5),
        sampling_block(&Draw { item: 3, ..draw }, 5),
        sampling_block(&Draw { sample: 2, ..draw }, 5),
        sampling_block(&Draw { position: 5, ..draw }, 5),
    ];
    let distinct: std::collections::BTreeSet<_> = all.iter().flatten().collect();
    assert_eq!(distinct.len(), 48);
}

fn activation() -> impl Strategy<Value = i32> {
    prop_oneof![
        4 => -300_000..300_000i32,
        2 => any::<i32>().prop_map(|x| clamp32(i64::from(x))),
        1 => prop_oneof![Just(0), Just(LIMIT), Just(-LIMIT), Just(1 << 24), Just(-(1 << 24)), Just((1 << 24) - 1)],
    ]
}

fn activations(len: usize) -> impl Strategy<Value = Vec<i32>> {
    prop_oneof![4 => vec(activation(), len), 1 => activation().prop_map(move |x| vec![x; len])]
}

/// The ends of int32 and of the ranges that ops cut, both signs.
fn edges() -> Vec<i32> {
    let ends = [0, 1, 255, 256, (1 << 14) - 1, 1 << 14, (1 << 17) - 1, 1 << 17, 295_245, 295_260, 300_000, (1 << 30) - 1, 1 << 30, LIMIT];
    ends.into_iter().flat_map(|x| [x, -x]).chain([i32::MIN]).collect()
}

#[test]
fn gates_of_kernels_equal_plain_at_all_edges_and_lengths() {
    let pairs = edges().into_iter().flat_map(|g| edges().into_iter().map(move |u| (g, u)));
    // Every magnitude near those whose exponential begins and ends.
    let dense = (-400_000..400_000).step_by(7).map(|g| (g, 1 << 14));
    let (gate, up): (Vec<i32>, Vec<i32>) = pairs.chain(dense).unzip();
    for (activation, op) in
        [(ACTIVATION_GELU_ERF, reference::gelu_erf as fn(i32) -> i32), (ACTIVATION_GELU_TANH, gelu_tanh), (ACTIVATION_SILU, silu)]
    {
        let plain: Vec<i32> = gate.iter().zip(&up).map(|(&g, &u)| gated(op(g), u)).collect();
        for isa in Isa::available() {
            let mut fast = gate.clone();
            kernels::gate(isa, activation, &mut fast, &up);
            assert_eq!(fast, plain, "{isa:?}, activation {activation}");
            for len in 0..50 {
                let mut fast = gate[..len].to_vec();
                kernels::gate(isa, activation, &mut fast, &up[..len]);
                assert_eq!(fast, plain[..len], "{isa:?}, activation {activation}, {len} elements");
            }
        }
    }
}

#[test]
fn rms_norms_of_kernels_equal_plain_at_all_edges_and_lengths() {
    let mixed = edges().into_iter().cycle();
    for len in 1..70 {
        let gain: Vec<i32> = mixed.clone().skip(3).take(len).collect();
        // Each edge alone, all over, and all of them; 0 all over is the zero vector.
        let row = |at: usize, edge: i32| (0..len).map(move |element| if element == at { edge } else { 0 });
        let alone = edges().into_iter().flat_map(|edge| row(len - 1, edge));
        let all_over = edges().into_iter().flat_map(|edge| vec![edge; len]);
        let rows: Vec<i32> = alone.chain(all_over).chain(mixed.clone().take(len)).collect();
        for epsilon in [0, 1 << 20, bounds::EPSILON] {
            let plain: Vec<i32> = rows.chunks_exact(len).flat_map(|row| rms_norm(row, epsilon, &gain)).collect();
            for isa in Isa::available() {
                let mut fast = rows.clone();
                kernels::rms_norm(isa, &mut fast, epsilon, &gain);
                assert_eq!(fast, plain, "{isa:?}, {len} elements, epsilon {epsilon}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn rms_norms_of_kernels_equal_plain(
        rows in activations(2 * 37), gain in vec(any::<i32>(), 37), epsilon in prop_oneof![Just(0), 0..=bounds::EPSILON, 0..1_000_000u64],
    ) {
        let plain: Vec<i32> = rows.chunks_exact(37).flat_map(|row| rms_norm(row, epsilon, &gain)).collect();
        for isa in Isa::available() {
            let mut fast = rows.clone();
            kernels::rms_norm(isa, &mut fast, epsilon, &gain);
            prop_assert_eq!(&fast, &plain);
        }
    }

    #[test]
    fn rotations_of_kernels_equal_plain(row in activations(3 * 21), (cos, sin) in (0..11usize).prop_flat_map(|r| (vec(any::<i32>(), r), vec(any::<i32>(), r)))) {
        let mut plain = row.clone();
        plain.chunks_exact_mut(21).for_each(|head| rotate(head, &cos, &sin));
        for isa in Isa::available() {
            let mut fast = row.clone();
            kernels::rotate(isa, &mut fast, 21, &cos, &sin);
            prop_assert_eq!(&fast, &plain);
        }
    }

    #[test]
    fn gates_of_kernels_equal_plain(gate in activations(53), up in activations(53)) {
        for activation in [ACTIVATION_GELU_ERF, ACTIVATION_GELU_TANH, ACTIVATION_SILU] {
            let op = |x| match activation {
                ACTIVATION_GELU_ERF => reference::gelu_erf(x),
                ACTIVATION_GELU_TANH => gelu_tanh(x),
                _ => silu(x),
            };
            let plain: Vec<i32> = gate.iter().zip(&up).map(|(&g, &u)| gated(op(g), u)).collect();
            for isa in Isa::available() {
                let mut fast = gate.clone();
                kernels::gate(isa, activation, &mut fast, &up);
                prop_assert_eq!(&fast, &plain);
            }
        }
    }

    /// Widths: whatever the logits and the parameters, nothing overflows, and the choice is eligible.
    #[test]
    fn choices_are_total(
        logits in prop_oneof![vec(activation(), 1..40), vec(prop_oneof![Just(LIMIT), Just(-LIMIT), Just(i32::MIN)], 1..40)],
        temperature in prop_oneof![any::<u32>(), 0..200_000u32, Just(u32::MAX)], min_p in prop_oneof![any::<u32>(), 0..=65_536u32], seed in any::<[u8; 32]>(),
    ) {
        let chosen = choose(&logits, &Draw { temperature, min_p, seed: &seed, item: u32::MAX, sample: u32::MAX, position: u32::MAX });
        let (logit, max) = (logits[chosen as usize], logits.iter().copied().max().expect("not empty"));
        if temperature == 0 || min_p >= 65_536 {
            prop_assert_eq!(logit, max);
        }
    }

    #[test]
    fn choices_of_kernels_equal_plain(
        (vocabulary, logits) in prop_oneof![1..200usize, 4000..4200usize, Just(12_345)].prop_flat_map(|vocabulary| {
            (Just(vocabulary), prop_oneof![vec(-60_000..60_000i32, 3 * vocabulary), vec(activation(), 3 * vocabulary), Just(vec![-LIMIT; 3 * vocabulary])])
        }),
        temperature in prop_oneof![Just(0), any::<u32>(), 1..200_000u32, Just(65_536)], min_p in prop_oneof![any::<u32>(), 0..=65_536u32, 0..2000u32, Just(0)],
        seed in any::<[u8; 32]>(), rows in 1..4usize,
    ) {
        let draw = |position| Draw { temperature, min_p, seed: &seed, item: 1, sample: 2, position };
        let draws: Vec<_> = (0..3).map(draw).take(rows).collect();
        let logits = &logits[..rows * vocabulary];
        let plain: Vec<u32> = logits.chunks_exact(vocabulary).zip(&draws).map(|(logits, draw)| choose(logits, draw)).collect();
        for isa in Isa::available() {
            for threads in [1, 3] {
                let pool = Pool::new(isa, NonZeroUsize::new(threads).expect("not zero"));
                let chosen: Vec<u32> = kernels::choose(&pool, vocabulary, logits, &draws, &mut ChoiceScratch::default()).collect();
                prop_assert_eq!(&chosen, &plain);
            }
        }
    }
}

/// A head whose first position holds 90 % and 99 % of the mass and has nothing to say, at 8,192 positions: what the others say must arrive.
/// Their scores spread by a factor e and their values by as much as their mean, so no few of them carry the rest.
#[test]
fn tail_behind_an_attention_sink_survives_at_8192_positions() {
    const POSITIONS: usize = 8192;
    const DIM: usize = 64;
    let mut generator = Generator::new(5);
    // The sum of four uniform numbers has variance 4/3 of one's half range squared.
    let mut normal = move || (0..4).map(|_| generator.within(-1 << 20, 1 << 20)).sum::<i64>() as f64 / 2f64.powi(20) * 0.75f64.sqrt();
    let fixed = |x: f64| (x * ONE).round() as i32;
    let query: Vec<f64> = (0..DIM).map(|_| normal()).collect();
    let mean: Vec<f64> = (0..DIM).map(|_| normal().signum()).collect();
    let keys: Vec<Vec<f64>> = (0..POSITIONS).map(|_| (0..DIM).map(|_| normal()).collect()).collect();
    let values: Vec<f64> = (0..POSITIONS * DIM).map(|at| if at < DIM { 0.0 } else { mean[at % DIM] + normal() }).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let tail: f64 = keys[1..].iter().map(|key| (dot(&query, key) / 8.0).exp()).sum();
    for mass in [0.9, 0.99] {
        // The sink's key lies along the query, as far out as its mass asks for.
        let sink = (tail * mass / (1.0 - mass)).ln() * 8.0 / dot(&query, &query);
        let mut k: Vec<i32> = keys.iter().flatten().map(|&x| fixed(x)).collect();
        for (k, q) in k.iter_mut().zip(&query) {
            *k = fixed(q * sink);
        }
        let (q, v): (Vec<i32>, Vec<i32>) = (query.iter().map(|&x| fixed(x)).collect(), values.iter().map(|&x| fixed(x)).collect());

        // In floats, from the same integers.
        let real = |x: &[i32]| x.iter().map(|&x| f64::from(x) / ONE).collect::<Vec<_>>();
        let weights: Vec<f64> = k.chunks_exact(DIM).map(|key| (dot(&real(&q), &real(key)) / 8.0).exp()).collect();
        let total: f64 = weights.iter().sum();
        assert!((weights[0] / total - mass).abs() < 1e-3, "the sink holds {}", weights[0] / total);
        let expected: Vec<f64> = (0..DIM)
            .map(|dim| {
                weights.iter().zip(v.chunks_exact(DIM)).map(|(weight, value)| weight * f64::from(value[dim])).sum::<f64>() / total / ONE
            })
            .collect();

        // log2(e) / 8 in Q24.
        let attention = Attention { heads: 1, kv_heads: 1, head_dim: DIM, score_scale: 3_025_551, value_shifts: &[1] };
        let table = |data: &[i32]| TableI32::new(data.len() / DIM, DIM, data.to_vec()).expect("sizes fit");
        let mixed = attention.bidirectional(&table(&q), &table(&k), &table(&v));
        let error: f64 = mixed.data().iter().zip(&expected).map(|(&y, x)| (f64::from(y) / ONE - x).powi(2)).sum::<f64>().sqrt();
        let length = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
        println!("a sink of {mass}: the output is off by {:.3} % of {:.4} per dim", 100.0 * error / length, length / 8.0);
        assert!(error <= 0.01 * length, "a sink of {mass}: the output is off by {error} of {length}");

        let pool = Pool::new(Isa::detect(), NonZeroUsize::MIN);
        let mut cache = KvCache::new(1, DIM, POSITIONS);
        cache.append(pool.isa(), &k, &v, &[1]);
        let mut fast = vec![0; DIM];
        let sequence = Sequence { cache: &cache, rows: 0..1, first: POSITIONS - 1 };
        kernels::attend(&pool, &attention, Reach::Causal { window: 0 }, &[sequence], &q, &mut fast, &mut AttentionScratch::default());
        assert_eq!(fast, mixed.data());
    }
}
