//! tests/vectors/exact/ops.json: every op on ordinary and extreme operands, computed by the plain definition and compared with the file.
//! `QUERN_BLESS=1 cargo test -p quern-exact --test golden` writes the file; its schema is in tests/vectors/README.md.

use std::path::PathBuf;

use quern_exact::{
    arith::{rdiv, rs},
    bounds,
    encoder::Norm,
    format::{Q8Matrix, TableI32, VectorI32},
    reference::{
        self, Attention, embed, exp2_negative, gelu_erf, layer_norm, linear, normalise, residual, rms_norm, to_operand, unit_length,
    },
    sample::{self, Generator},
};
use serde_json::{Value, json};

const LIMIT: i32 = i32::MAX;

fn activations(generator: &mut Generator, len: usize, limit: i32) -> Vec<i32> {
    (0..len).map(|_| i32::try_from(generator.within(-i64::from(limit), i64::from(limit))).expect("within int32")).collect()
}

/// Vectors that an implementation trips over, then ordinary ones.
fn operands(generator: &mut Generator, len: usize) -> Vec<Vec<i32>> {
    let mut alternating = vec![LIMIT; len];
    alternating.iter_mut().skip(1).step_by(2).for_each(|x| *x = -LIMIT);
    let mut spike = vec![0; len];
    spike[len / 2] = -LIMIT;
    let ends = [0, 1, -1, 32_767, -32_767, 32_768, 65_535, LIMIT, -LIMIT].map(|x| vec![x; len]);
    let random = [100, 16_384, 500_000, LIMIT].map(|limit| activations(generator, len, limit));
    [ends.to_vec(), vec![alternating, spike], random.to_vec()].concat()
}

fn roundings() -> Value {
    let xs = [0i64, 1, -1, 2, -2, 3, -3, 5, -5, 1 << 52, -(1 << 52), (1 << 61) - 1, -(1 << 61)];
    let shifts = xs.iter().flat_map(|&x| [0, 1, 2, 17, 28, 61].map(|n| json!({ "x": x.to_string(), "n": n, "y": rs(x, n).to_string() })));
    let quotients = xs.iter().flat_map(|&a| {
        let of = |b: i64| json!({ "a": a.to_string(), "b": b.to_string(), "y": rdiv(i128::from(a), i128::from(b)).to_string() });
        [1, 2, 3, 384, 1 << 39].map(of)
    });
    json!({ "rs": shifts.collect::<Value>(), "rdiv": quotients.collect::<Value>() })
}

fn operand(generator: &mut Generator) -> Value {
    let case = |x: Vec<i32>| {
        let operand = to_operand(&x);
        json!({ "x": x, "q": operand.elements, "shift": operand.shift, "witness": operand.witness })
    };
    operands(generator, 7).into_iter().map(case).collect()
}

fn product(generator: &mut Generator) -> Value {
    let extreme =
        |w: i8, shift: u8, bias: i32| Q8Matrix::new(1, 130, vec![w; 130], vec![u16::MAX; 2], vec![shift], Some(vec![bias])).expect("legal");
    let mut matrices = vec![extreme(127, 17, LIMIT), extreme(-127, 62, i32::MIN), extreme(0, 17, -7)];
    matrices.push(sample::matrix(generator, 3, 130, true).expect("legal"));
    let cases = matrices.iter().flat_map(|matrix| {
        let operands = operands(generator, 130);
        let results: Value = operands.iter().map(|x| json!({ "x": x, "y": linear(matrix, &to_operand(x)) })).collect();
        let bias = matrix.bias().expect("with bias");
        [json!({
            "rows": matrix.rows(), "columns": 130, "weights": matrix.weights(), "mantissas": matrix.mantissas(), "shifts": matrix.shifts(), "bias": bias,
            "results": results,
        })]
    });
    cases.collect()
}

fn embedding(generator: &mut Generator) -> Value {
    let words = sample::matrix(generator, 3, 130, false).expect("legal");
    let case = |row: usize, limit: i32, generator: &mut Generator| {
        let word = words.row(row).expect("three rows");
        let (position, kind) = (activations(generator, 130, limit), activations(generator, 130, limit));
        json!({
            "shift": word.shift, "mantissas": word.mantissas, "weights": word.weights, "position": position, "token_type": kind,
            "y": embed(word, &position, Some(&kind)), "y_without_token_type": embed(word, &position, None),
        })
    };
    [(0, 100), (1, 20_000), (2, LIMIT)].map(|(row, limit)| case(row, limit, generator)).into_iter().collect()
}

fn norm(generator: &mut Generator) -> Value {
    let parameters = [vec![1 << 14; 7], vec![i32::MIN; 7], activations(generator, 7, 40_000), vec![LIMIT; 7]];
    let epsilons = [0, 1, 2_748_779, bounds::EPSILON];
    let mut cases = Vec::new();
    for x in operands(generator, 7) {
        for (gain, epsilon) in parameters.iter().zip(epsilons) {
            let norm = Norm { gain: VectorI32::from(gain.clone()), bias: VectorI32::from(activations(generator, 7, LIMIT)) };
            let n = normalise(&x.iter().map(|&x| i64::from(x)).collect::<Vec<_>>(), epsilon, 7);
            cases.push(json!({
                "x": x, "epsilon": epsilon.to_string(), "gain": gain, "bias": norm.bias.as_slice(),
                "layer_norm": layer_norm(&x, epsilon, &norm), "rms_norm": rms_norm(&x, epsilon, gain),
                "rms_shift": n.shift, "rms_square": n.square.to_string(), "rms_reciprocal": n.reciprocal.to_string(),
            }));
        }
    }
    cases.into()
}

fn functions(generator: &mut Generator) -> Value {
    let mut zs = vec![0, 1, 255, 256, 65_535, 65_536, (25 << 16) - 1, 25 << 16, (25 << 16) + 1, 30 << 16, 31 << 16, 1 << 40];
    zs.extend((0..50).map(|_| generator.within(0, 26 << 16)));
    let mut xs = vec![0, 1, -1, 255, 256, -256, 131_071, 131_072, -131_072, LIMIT, -LIMIT];
    xs.extend(activations(generator, 50, 140_000));
    let pairs = [(LIMIT, 1), (-LIMIT, -1), (LIMIT, -LIMIT), (5, -7)];
    json!({
        "exp2_negative": zs.iter().map(|&z| json!([z, exp2_negative(z)])).collect::<Value>(),
        "gelu_erf": xs.iter().map(|&x| json!([x, gelu_erf(x)])).collect::<Value>(),
        "residual": pairs.map(|(a, b)| json!([a, b, residual(&[a], &[b])[0]])),
    })
}

fn attention(generator: &mut Generator) -> Value {
    let mut case = |positions: usize, limit: i32, score_scale: u32, value_shifts: [i32; 2]| {
        let (heads, kv_heads, head_dim) = (4, 2, 5);
        let mut table =
            |width: usize| TableI32::new(positions, width, activations(generator, positions * width, limit)).expect("sizes fit");
        let (q, k, v) = (table(heads * head_dim), table(kv_heads * head_dim), table(kv_heads * head_dim));
        let attention = Attention { heads, kv_heads, head_dim, score_scale, value_shifts: &value_shifts };
        json!({
            "positions": positions, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "score_scale": score_scale, "value_shifts": value_shifts,
            "q": q.data(), "k": k.data(), "v": v.data(), "y": attention.bidirectional(&q, &k, &v).data(),
        })
    };
    json!([
        case(1, 30_000, 1 << 20, [0, 0]),
        case(9, 30_000, 10_824_538, [0, 1]),
        case(9, 10_000, 1, [0, 3]),
        case(5, LIMIT, bounds::SCORE_SCALE, [16, 0]),
    ])
}

fn unit(generator: &mut Generator) -> Value {
    let mut sums: Vec<Vec<i64>> = operands(generator, 7).iter().map(|x| x.iter().map(|&x| i64::from(x)).collect()).collect();
    sums.push((0..7).map(|_| generator.within(-(1 << 46), 1 << 46)).collect());
    sums.iter().map(|x| json!({ "x": x, "y": unit_length(x) })).collect()
}

/// The sample encoder of seed 11, whose hashes are in commit.json: the output and every row of N.
fn encoder() -> Value {
    let encoder = sample::encoder(&sample::small_header(), 11).expect("a valid header");
    let case = |ids: Vec<u32>| {
        let output = reference::forward(&encoder, &ids);
        json!({ "ids": ids, "reason": output.reason.code(), "vector": output.vector, "norm_rows": output.norm_rows.data() })
    };
    [vec![1, 2, 3], vec![99], vec![], vec![0; 25], vec![5, 100]].map(case).into_iter().collect()
}

fn all() -> Value {
    let mut generator = Generator::new(2);
    json!({
        "roundings": roundings(), "operand": operand(&mut generator), "product": product(&mut generator), "embedding": embedding(&mut generator),
        "norm": norm(&mut generator), "functions": functions(&mut generator), "attention": attention(&mut generator), "unit_length": unit(&mut generator),
        "encoder": encoder(),
    })
}

#[test]
fn golden_vectors_equal_their_file() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/exact/ops.json");
    let computed = all();
    if std::env::var_os("QUERN_BLESS").is_some() {
        let text = serde_json::to_string(&computed).expect("JSON") + "\n";
        std::fs::write(&path, text).expect("the source tree is writable");
    }
    let stored = std::fs::read_to_string(&path).expect("tests/vectors/exact/ops.json exists");
    let stored: Value = serde_json::from_str(&stored).expect("JSON");
    for (part, value) in computed.as_object().expect("an object") {
        assert!(stored.get(part) == Some(value), "{part} in tests/vectors/exact/ops.json differs from what this code computes");
    }
    assert_eq!(stored.as_object().map(serde_json::Map::len), computed.as_object().map(serde_json::Map::len), "a part more or less");
}
