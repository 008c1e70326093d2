//! The plain ops at their edges, and against a float reference where the definition approximates a real function.

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use quern_exact::{
    arith::{bit_length, clamp16, clamp32, rdiv, rs},
    bounds,
    encoder::Norm,
    format::{Q8Matrix, TableI32, VectorI32},
    reference::{
        Operand, embed, exp2_negative, gelu_erf, layer_norm, linear, normalise, pool, residual, rms_norm, to_operand, unit_length,
    },
    sample::Generator,
};

const LIMIT: i32 = i32::MAX;

#[test]
fn roundings_go_to_the_nearest_and_halves_go_up() {
    let cases =
        [(5, 1, 3), (-5, 1, -2), (-6, 2, -1), (-7, 2, -2), (6, 2, 2), (0, 5, 0), (7, 0, 7), (-7, 0, -7), (-1, 62, 0), (1 << 61, 62, 1)];
    for (x, n, expected) in cases {
        assert_eq!(rs(x, n), expected, "rs({x}, {n})");
    }
    let cases = [(5, 2, 3), (-5, 2, -2), (7, 3, 2), (-7, 3, -2), (-8, 3, -3), (1, 2, 1), (-1, 2, 0), (0, 7, 0)];
    for (a, b, expected) in cases {
        assert_eq!(rdiv(a, b), expected, "rdiv({a}, {b})");
    }
    assert_eq!((clamp32(i64::MIN), clamp32(i64::MAX), clamp16(-32_768), clamp16(1 << 40)), (-LIMIT, LIMIT, -32_767, 32_767));
    assert_eq!([0, 1, 2, 3, 4, u64::MAX].map(bit_length), [0, 1, 2, 2, 3, 64]);
}

proptest! {
    #[test]
    fn rdiv_is_within_half_of_the_quotient(a in any::<i64>(), b in 1..i64::MAX) {
        let (a, b) = (i128::from(a), i128::from(b));
        let q = rdiv(a, b);
        // q - 1/2 <= a/b < q + 1/2
        prop_assert!((2 * q - 1) * b <= 2 * a && 2 * a < (2 * q + 1) * b);
    }

    #[test]
    fn rs_is_rdiv_by_a_power_of_two(x in -(1i64 << 61)..1 << 61, n in 0..=61u32) {
        prop_assert_eq!(i128::from(rs(x, n)), rdiv(i128::from(x), 1 << n));
    }

    #[test]
    fn reciprocal_satisfies_the_two_inequalities_of_a_checker(x in proptest::collection::vec(any::<i32>(), 1..64), epsilon in 0..=bounds::EPSILON) {
        let wide: Vec<i64> = x.iter().map(|&x| i64::from(clamp32(i64::from(x)))).collect();
        let count = u32::try_from(x.len()).expect("short");
        let n = normalise(&wide, epsilon, count);
        let (r, v, target) = (u128::from(n.reciprocal.unsigned_abs()), u128::from(n.square), u128::from(count) << 88);
        prop_assert!(r * r * v <= target && target < (r + 1) * (r + 1) * v);
        prop_assert!(n.elements.iter().all(|c| c.abs() <= 1 << 24));
    }
}

#[test]
fn operand_takes_the_least_shift_and_names_the_first_largest_element() {
    let case = |x: &[i32]| to_operand(x);
    assert_eq!(case(&[0, 0]), Operand { elements: vec![0, 0], shift: 0, witness: 0 });
    assert_eq!(case(&[3, -32_767, 32_767]), Operand { elements: vec![3, -32_767, 32_767], shift: 0, witness: 1 });
    assert_eq!(case(&[-32_768, 1, 3]), Operand { elements: vec![-16_384, 1, 2], shift: 1, witness: 0 });
    // 65,535 needs one bit and rounds up to 32,768, which is clamped.
    assert_eq!(case(&[65_535, -65_535]), Operand { elements: vec![32_767, -32_767], shift: 1, witness: 0 });
    assert_eq!(case(&[1, LIMIT, -LIMIT]), Operand { elements: vec![0, 32_767, -32_767], shift: 16, witness: 1 });
    assert_eq!(case(&[]), Operand { elements: vec![], shift: 0, witness: 0 });
}

#[test]
fn product_reaches_the_bound_of_a_group_and_saturates_at_32_bits() {
    let matrix =
        |w: i8, shift: u8, bias: i32| Q8Matrix::new(1, 128, vec![w; 128], vec![u16::MAX], vec![shift], Some(vec![bias])).expect("legal");
    // A group of the greatest factors lies just below 2^29.
    let group = 128 * 127 * 32_767i64;
    assert!(((1 << 28)..1 << 29).contains(&group));
    let x = Operand { elements: vec![32_767; 128], shift: 0, witness: 0 };
    assert_eq!(linear(&matrix(127, 17, 0), &x), [clamp32(rs(group * 65_535, 17))]);
    assert_eq!(linear(&matrix(127, 17, LIMIT), &x), [LIMIT]);
    assert_eq!(linear(&matrix(-127, 17, -LIMIT), &x), [-LIMIT]);
    assert_eq!(linear(&matrix(-127, 62, i32::MIN), &x), [-LIMIT]);
    let coarse = Operand { shift: 16, ..x };
    assert_eq!(linear(&matrix(127, 17, 0), &coarse), [LIMIT]);
}

#[test]
fn embedding_adds_in_wide_integers_and_clamps_once() {
    let word = Q8Matrix::new(1, 2, vec![127, -127], vec![65_535], vec![17], None).expect("legal");
    let word = word.row(0).expect("one row");
    let element = rs((127 * 65_535) << 14, 17);
    assert_eq!(element, 1_040_368);
    assert_eq!(embed(word, &[0, 0], None), [1_040_368, -1_040_368]);
    // Clamping before the last addend would give another number.
    assert_eq!(embed(word, &[LIMIT, -LIMIT], Some(&[-2_000_000, 2_000_000])), [LIMIT - 959_632, -LIMIT + 959_632]);
    assert_eq!(embed(word, &[LIMIT, i32::MIN], Some(&[LIMIT, i32::MIN])), [LIMIT, -LIMIT]);
}

#[test]
fn residual_add_saturates_symmetrically() {
    assert_eq!(residual(&[LIMIT, -LIMIT, 5, LIMIT], &[1, -1, -7, -LIMIT]), [LIMIT, -LIMIT, -2, 0]);
}

fn norm_of(dim: usize, gain: i32, bias: i32) -> Norm {
    Norm { gain: VectorI32::from(vec![gain; dim]), bias: VectorI32::from(vec![bias; dim]) }
}

#[test]
fn norm_of_equal_elements_is_the_bias() {
    for x in [0, 1, -1, LIMIT, -LIMIT] {
        assert_eq!(layer_norm(&[x; 7], 0, &norm_of(7, 1 << 14, 42)), [42; 7]);
    }
    assert_eq!(rms_norm(&[0; 5], 0, &[1 << 14; 5]), [0; 5]);
}

/// Widths at their ends: the greatest dim, alternating ends of int32, the greatest E, the greatest gain.
#[test]
fn norm_at_every_limit_stays_within_its_bound() {
    let dim = bounds::DIM as usize;
    let ends: Vec<i32> = (0..dim).map(|at| if at % 2 == 0 { LIMIT } else { -LIMIT }).collect();
    let wide: Vec<i64> = ends.iter().map(|&x| i64::from(x)).collect();
    let n = normalise(&wide, bounds::EPSILON, bounds::DIM);
    assert_eq!((n.shift, n.elements[0]), (7, 1 << 24));
    assert_eq!(n.square, (1 << 62) + (bounds::EPSILON >> 14));
    let y = layer_norm(&ends, 0, &norm_of(dim, i32::MAX, i32::MAX));
    assert_eq!((y[0], y[1]), (LIMIT, clamp32(i64::from(LIMIT) - i64::from(LIMIT))));
    assert_eq!(layer_norm(&ends, 0, &norm_of(dim, i32::MIN, 0))[..2], [-LIMIT, LIMIT]);
    // One element holds everything: c · r reaches sqrt(d) · 2^44, the greatest there is.
    let mut spike = vec![0; dim];
    spike[0] = LIMIT;
    let y = rms_norm(&spike, 0, &vec![1 << 14; dim]);
    assert_eq!((y[0], y[1]), (128 << 14, 0));
    // And that times the greatest gain: 2^23 · 2^31.
    assert_eq!(rms_norm(&spike, 0, &vec![i32::MIN; dim])[0], -LIMIT);
    // h = 0 leaves the whole of E beside the squares.
    assert_eq!(normalise(&[0], bounds::EPSILON, 1).square, bounds::EPSILON);
    assert_eq!(normalise(&[0], 0, bounds::DIM).reciprocal, 1 << 51);
}

/// The constants of the norm against floats: rms 0.01 (small models' embeddings) to 10,000 (massive activations).
#[test]
fn norm_agrees_with_a_float_reference_from_rms_hundredth_to_ten_thousand() {
    for (rms, dim) in [(0.01, 384), (0.01, 16_384), (1.0, 384), (100.0, 768), (10_000.0, 384), (10_000.0, 16_384)] {
        for (gain, epsilon) in [(1.0f64, 1e-12f64), (0.7, 1e-5), (3.5, 1e-6)] {
            let mut generator = Generator::new(9);
            // Sum of four uniform numbers has variance 4/3 of its half range.
            let x: Vec<i32> = (0..dim)
                .map(|_| {
                    let sum: i64 = (0..4).map(|_| generator.within(-1_000_000, 1_000_000)).sum();
                    (sum as f64 / 1e6 * (0.75f64).sqrt() * rms * 16_384.0).round() as i32
                })
                .collect();
            let e = (epsilon * dim as f64 * 2f64.powi(28)).round() as u64;
            let y = layer_norm(&x, e, &norm_of(dim, (gain * 16_384.0) as i32, 100));
            let real: Vec<f64> = x.iter().map(|&x| f64::from(x) / 16_384.0).collect();
            let mean = real.iter().sum::<f64>() / dim as f64;
            let variance = real.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / dim as f64;
            let gain = f64::from((gain * 16_384.0) as i32) / 16_384.0;
            for (&y, &x) in y.iter().zip(&real) {
                let expected = (x - mean) / (variance + epsilon).sqrt() * gain + 100.0 / 16_384.0;
                let error = (f64::from(y) / 16_384.0 - expected).abs();
                // The mean is rounded to 2^-15 of a unit, divided by the deviation; results are rounded to 2^-15.
                let bound = gain * (2f64.powi(-15) / (variance + epsilon).sqrt() + 2f64.powi(-16)) + 2f64.powi(-15);
                assert!(error <= bound * 1.05, "rms {rms}, dim {dim}: {error} > {bound}");
            }
        }
    }
}

#[test]
fn exp2_is_exact_at_whole_numbers_monotonic_and_close_between() {
    for whole in 0..=24 {
        assert_eq!(exp2_negative(whole << 16), 1 << (24 - whole));
    }
    assert_eq!((exp2_negative(25 << 16), exp2_negative((25 << 16) + 1)), (1, 0));
    assert_eq!((exp2_negative(31 << 16), exp2_negative(i64::MAX)), (0, 0));
    let mut before = exp2_negative(0);
    for z in 1..=(26 << 16) {
        let e = exp2_negative(z);
        assert!(e <= before, "2^-z falls at {z}");
        before = e;
        let real = 2f64.powf(24.0 - z as f64 / 65_536.0);
        assert!((e as f64 - real).abs() <= 0.5 + real * 1e-6, "{z}: {e} against {real}");
    }
}

/// erf by its series; good to 1e-13 for |x| <= 6.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    sum * (-x * x).exp() * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn gelu_agrees_with_a_float_reference_and_is_exact_at_its_ends() {
    assert_eq!([0, LIMIT, -LIMIT, 1 << 17, -(1 << 17)].map(gelu_erf), [0, LIMIT, 0, 1 << 17, 0]);
    for x in (-8 << 14)..=(8 << 14) {
        let real = f64::from(x) / 16_384.0;
        let expected = real * 0.5 * (1.0 + erf(real / std::f64::consts::SQRT_2)) * 16_384.0;
        assert!((f64::from(gelu_erf(x)) - expected).abs() <= 0.75, "{x}: {} against {expected}", gelu_erf(x));
    }
}

#[test]
fn unit_length_has_length_one_and_zero_stays_zero() {
    assert_eq!(unit_length(&[0, 0, 0]), [0, 0, 0]);
    assert_eq!(unit_length(&[5]), [32_767]);
    assert_eq!(unit_length(&[-(1 << 46)]), [-32_767]);
    assert_eq!(unit_length(&[3, -4]), [19_661, -26_214]);
    let mut generator = Generator::new(10);
    let x: Vec<i64> = (0..384).map(|_| generator.within(-(1 << 46), 1 << 46)).collect();
    let square: i64 = unit_length(&x).iter().map(|&y| i64::from(y) * i64::from(y)).sum();
    assert!((square - (1 << 30)).abs() < 1 << 21, "length {square} in Q30");
}

#[test]
fn pool_adds_the_greatest_context_without_loss() {
    let positions = bounds::CONTEXT as usize;
    let rows = TableI32::new(positions, 2, [LIMIT, -LIMIT].repeat(positions)).expect("sizes fit");
    assert_eq!(pool(&rows), [i64::from(LIMIT) << 15, -(i64::from(LIMIT) << 15)]);
}
