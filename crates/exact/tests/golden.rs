//! tests/vectors/exact/ops.json: every op on ordinary and extreme operands, computed by the plain definition and compared with the file.
//! `QUERN_BLESS=1 cargo test -p quern-exact --test golden` writes the file; its schema is in tests/vectors/README.md.

use std::path::PathBuf;

use quern_exact::{
    arith::{rdiv, rs},
    bounds,
    decoder::{Model, OutputKey, Rule},
    encoder::Norm,
    format::{Q8Matrix, TableI32, VectorI32},
    header::{Header, NO_ID, flag},
    layout::TensorRef,
    reference::{
        self, Attention, Draw, choose, embed, embed_word, exp2_negative, gated, gelu_erf, gelu_tanh, head_epsilon, layer_norm, lg, linear,
        noise, normalise, residual, rms_norm, rotate, sampling_block, silu, to_operand, unit_length,
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

fn embedding_of_decoders(generator: &mut Generator) -> Value {
    let words = sample::matrix(generator, 3, 130, false).expect("legal");
    let cases = words.iter_rows().zip([0, 1 << 14, bounds::EMBEDDING_SCALE]).map(|(word, scale)| {
        json!({ "shift": word.shift, "mantissas": word.mantissas, "weights": word.weights, "scale": scale, "y": embed_word(word, scale) })
    });
    cases.collect()
}

fn rotations(generator: &mut Generator) -> Value {
    let ends = [i32::MIN, LIMIT, 0];
    let mut cases = Vec::new();
    for x in operands(generator, 7) {
        let (cos, sin) = (activations(generator, 3, 1 << 30), activations(generator, 3, 1 << 30));
        for (cos, sin) in [(cos, sin), (ends.to_vec(), ends.iter().rev().copied().collect())] {
            let mut y = x.clone();
            rotate(&mut y, &cos, &sin);
            cases.push(json!({ "x": x, "cos": cos, "sin": sin, "y": y }));
        }
    }
    cases.into()
}

fn functions_of_decoders(generator: &mut Generator) -> Value {
    let mut xs = vec![0, 1, -1, 255, 256, -256, 131_071, 131_072, -131_072, LIMIT, -LIMIT];
    xs.extend(activations(generator, 50, 300_000));
    let mut pairs = vec![(LIMIT, LIMIT), (LIMIT, -LIMIT), (-LIMIT, -LIMIT), (1, 1 << 13), (-1, 1 << 13), (5, -7)];
    pairs.extend(activations(generator, 20, 200_000).chunks(2).map(|pair| (pair[0], pair[1])));
    let mut ns = vec![1, 2, 3, 255, 256, 257, u64::from(u32::MAX), 1 << 32, u64::MAX >> 1, u64::MAX];
    ns.extend((0..50).map(|at| generator.next_u64() >> at));
    let mut us = vec![0, 1, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, u32::MAX - 1, u32::MAX];
    us.extend((0..50).map(|_| u32::try_from(generator.next_u64() >> 32).expect("32 bits")));
    let epsilons =
        [(1000u64, 64u32, 128u32), (3, 1, 2), (bounds::EPSILON, 256, 1), (bounds::EPSILON, 256, 16_384), (12_345_678_901, 80, 1024)];
    json!({
        "gelu_tanh": xs.iter().map(|&x| json!([x, gelu_tanh(x)])).collect::<Value>(),
        "silu": xs.iter().map(|&x| json!([x, silu(x)])).collect::<Value>(),
        "gated": pairs.iter().map(|&(g, u)| json!([g, u, gated(g, u)])).collect::<Value>(),
        "lg": ns.iter().map(|&n| json!([n.to_string(), lg(n)])).collect::<Value>(),
        "noise": us.iter().map(|&u| json!([u, noise(u)])).collect::<Value>(),
        "head_epsilon": epsilons.map(|(e, head_dim, dim)| json!([e.to_string(), head_dim, dim, head_epsilon(e, head_dim, dim).to_string()])),
    })
}

fn causal_attention(generator: &mut Generator) -> Value {
    let mut case = |window: usize, limit: i32, score_scale: u32, value_shifts: [i32; 2]| {
        let (positions, heads, kv_heads, head_dim) = (9, 4, 2, 5);
        let mut table =
            |width: usize| TableI32::new(positions, width, activations(generator, positions * width, limit)).expect("sizes fit");
        let (q, k, v) = (table(heads * head_dim), table(kv_heads * head_dim), table(kv_heads * head_dim));
        let attention = Attention { heads, kv_heads, head_dim, score_scale, value_shifts: &value_shifts };
        json!({
            "positions": positions, "window": window, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "score_scale": score_scale,
            "value_shifts": value_shifts, "q": q.data(), "k": k.data(), "v": v.data(), "y": attention.causal(window, &q, &k, &v).data(),
        })
    };
    json!([case(0, 30_000, 10_824_538, [0, 1]), case(1, 30_000, 10_824_538, [0, 1]), case(4, LIMIT, bounds::SCORE_SCALE, [16, 0])])
}

fn choice(generator: &mut Generator) -> Value {
    let seed: [u8; 32] = std::array::from_fn(|at| u8::try_from(at * 7).expect("small"));
    let parameters = [(0u32, 0u32), (65_536, 0), (65_536, 65_536), (40_000, 3277), (u32::MAX, 0), (1, 1), (u32::MAX, 1 << 15)];
    let mut cases = Vec::new();
    for (at, logits) in operands(generator, 21).into_iter().enumerate() {
        let (temperature, min_p) = parameters[at % parameters.len()];
        for position in [0u32, 32_767] {
            let draw = Draw { temperature, min_p, seed: &seed, item: 7, sample: u32::try_from(at).expect("few"), position };
            cases.push(json!({
                "temperature": temperature, "min_p": min_p, "item": draw.item, "sample": draw.sample, "position": position, "logits": logits,
                "id": choose(&logits, &draw),
            }));
        }
    }
    let draw = Draw { temperature: 1, min_p: 0, seed: &seed, item: 1, sample: 2, position: 3 };
    json!({ "seed": seed, "block": { "item": 1, "sample": 2, "position": 3, "block": 4, "lanes": sampling_block(&draw, 4) }, "cases": cases })
}

/// Two tiny decoders with all their numbers, and what they make of some items.
fn decoders() -> Value {
    let base = Header {
        vocabulary: 11,
        dim: 6,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        ffn: 5,
        context: 12,
        score_scale: 12_102_203,
        rotary_dims: 4,
        ..sample::small_decoder_header()
    };
    let tied = Header {
        flags: flag::GATED_FFN | flag::CAUSAL | flag::TIED_HEAD | flag::QKV_BIAS | flag::OUTPUT_BIAS | flag::QK_NORM,
        activation: 2,
        window: 3,
        rotary_dims: 2,
        embedding_scale: 40_132,
        ..base.clone()
    };
    [(base, 1), (tied, 2)].map(|(header, seed)| decoder(&header, seed)).into_iter().collect()
}

fn decoder(header: &Header, seed: u64) -> Value {
    let model = sample::decoder(header, seed).expect("a valid header");
    let tensors = model.weights().tensors().map(|(name, tensor)| match tensor {
        TensorRef::Matrix(matrix) => json!({
            "name": name.to_string(), "rows": matrix.rows(), "columns": matrix.cols(), "weights": matrix.weights(),
            "mantissas": matrix.mantissas(), "shifts": matrix.shifts(), "bias": matrix.bias(),
        }),
        TensorRef::Table(table) => {
            json!({ "name": name.to_string(), "rows": table.rows(), "width": table.width(), "elements": table.data() })
        }
        TensorRef::Vector(vector) => json!({ "name": name.to_string(), "elements": vector.as_slice() }),
    });
    let greedy = Rule::greedy(5.try_into().expect("not zero"), [NO_ID; 8]);
    let sampled = Rule { temperature: 80_000, min_p: 2000, seed: [5; 32], ..greedy.clone() };
    let stopping = Rule { stop_ids: [0, 1, 2, 3, NO_ID, NO_ID, NO_ID, NO_ID], ..sampled.clone() };
    let cases = [
        (&greedy, vec![1, 2, 3]),
        (&greedy, vec![4; 12]),
        (&sampled, vec![1, 2, 3]),
        (&sampled, vec![10, 0, 9, 1, 8, 2, 7, 3, 6]),
        (&stopping, vec![5, 6]),
        (&greedy, vec![]),
        (&greedy, vec![0; 13]),
        (&greedy, vec![11]),
    ];
    let cases = cases.map(|(rule, item)| generated(&model, rule, &item));
    json!({ "header": header.to_words().to_vec(), "tensors": tensors.collect::<Value>(), "cases": cases })
}

fn generated(model: &Model, rule: &Rule, item: &[u32]) -> Value {
    let key = OutputKey { item: 4, sample: 1 };
    let output = reference::generate(model, item, rule, key);
    json!({
        "max_output": rule.max_output, "stop_ids": rule.stop_ids, "temperature": rule.temperature, "min_p": rule.min_p, "seed": rule.seed,
        "item": key.item, "sample": key.sample, "ids": item, "reason": output.reason.code(), "output": output.ids, "norm_rows": output.norm_rows.data(),
    })
}

fn all() -> Value {
    let (mut generator, mut of_decoders) = (Generator::new(2), Generator::new(21));
    json!({
        "roundings": roundings(), "operand": operand(&mut generator), "product": product(&mut generator), "embedding": embedding(&mut generator),
        "norm": norm(&mut generator), "functions": functions(&mut generator), "attention": attention(&mut generator), "unit_length": unit(&mut generator),
        "encoder": encoder(), "decoder_embedding": embedding_of_decoders(&mut of_decoders), "rotation": rotations(&mut of_decoders),
        "decoder_functions": functions_of_decoders(&mut of_decoders), "causal_attention": causal_attention(&mut of_decoders),
        "choice": choice(&mut of_decoders), "decoders": decoders(),
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
