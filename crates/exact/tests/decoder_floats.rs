//! The plain definition of decoders against the real function that it stands for: the same weights in f64, the formulas of the models'
//! papers. What differs is rounding of activations alone.

use quern_exact::{
    decoder::{DecoderWeights, LayerWeights, Model, Rotary},
    format::{Q8Matrix, TableI32, VectorI32},
    header::{Header, flag},
    reference,
    sample::{self, Generator},
};

const ONE: f64 = 16_384.0;
const POSITIONS: usize = 48;

type Rows = Vec<Vec<f64>>;

fn real(x: &VectorI32) -> Vec<f64> {
    x.as_slice().iter().map(|&x| f64::from(x) / ONE).collect()
}

fn weight(matrix: &Q8Matrix, row: usize, col: usize) -> f64 {
    let row = matrix.row(row).expect("a row");
    f64::from(row.weights[col]) * f64::from(row.mantissas[col / 128]) / 2f64.powi(i32::from(row.shift))
}

fn project(matrix: &Q8Matrix, rows: &Rows) -> Rows {
    let weights: Rows = (0..matrix.rows()).map(|row| (0..matrix.cols()).map(|col| weight(matrix, row, col)).collect()).collect();
    let bias = |row: usize| matrix.bias().map_or(0.0, |bias| f64::from(bias[row]) / ONE);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    rows.iter().map(|x| weights.iter().enumerate().map(|(row, w)| dot(w, x) + bias(row)).collect()).collect()
}

fn rms_norm(x: &[f64], gain: &[f64], epsilon: f64) -> Vec<f64> {
    let scale = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + epsilon).sqrt();
    x.iter().zip(gain).map(|(x, gain)| x / scale * gain).collect()
}

fn angle(position: usize, at: usize, rotary_dims: usize) -> f64 {
    position as f64 / 10_000f64.powf(2.0 * at as f64 / rotary_dims as f64)
}

fn rotary(header: &Header) -> Option<Rotary> {
    let (positions, width) = (header.context as usize, header.rotary_dims as usize / 2);
    let table = |f: fn(f64) -> f64| {
        let angles = (0..positions * width).map(|at| angle(at / width, at % width, header.rotary_dims as usize));
        let data = angles.map(|angle| (f(angle) * 2f64.powi(30)).round() as i32).collect();
        TableI32::new(positions, width, data).expect("sizes fit")
    };
    (width > 0).then(|| Rotary { cos: table(f64::cos), sin: table(f64::sin) })
}

/// Rotation by complex numbers: dims i and i + r / 2 are one.
fn turn(head: &mut [f64], position: usize, rotary_dims: usize) {
    for at in 0..rotary_dims / 2 {
        let (sin, cos) = angle(position, at, rotary_dims).sin_cos();
        let (a, b) = (head[at], head[at + rotary_dims / 2]);
        (head[at], head[at + rotary_dims / 2]) = (a * cos - b * sin, a * sin + b * cos);
    }
}

fn attention(header: &Header, q: &Rows, k: &Rows, v: &Rows) -> Rows {
    let head_dim = header.head_dim as usize;
    let group = (header.heads / header.kv_heads) as usize;
    let window = if header.window == 0 { usize::MAX } else { header.window as usize };
    let mix = |p: usize, h: usize| -> Vec<f64> {
        let part = |row: &[f64], h: usize| row[h * head_dim..(h + 1) * head_dim].to_vec();
        let query = part(&q[p], h);
        let seen = (p + 1).saturating_sub(window)..p + 1;
        let score = |j: usize| query.iter().zip(part(&k[j], h / group)).map(|(a, b)| a * b).sum::<f64>() / (head_dim as f64).sqrt();
        let weights: Vec<f64> = seen.clone().map(|j| score(j).exp()).collect();
        let total: f64 = weights.iter().sum();
        let values: Rows = seen.map(|j| part(&v[j], h / group)).collect();
        (0..head_dim).map(|dim| weights.iter().zip(&values).map(|(w, v)| w * v[dim]).sum::<f64>() / total).collect()
    };
    (0..q.len()).map(|p| (0..header.heads as usize).flat_map(|h| mix(p, h)).collect()).collect()
}

fn activation(header: &Header, x: f64) -> f64 {
    match header.activation {
        2 => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh()),
        _ => x / (1.0 + (-x).exp()),
    }
}

fn layer(header: &Header, epsilon: f64, weights: &LayerWeights, x: &mut Rows) {
    let norm = |x: &Rows, gain: &VectorI32| -> Rows { x.iter().map(|x| rms_norm(x, &real(gain), epsilon)).collect() };
    let turned = |rows: Rows, gain: Option<&VectorI32>| -> Rows {
        let row = |(position, row): (usize, Vec<f64>)| {
            let heads = row.chunks(header.head_dim as usize).flat_map(|head| {
                let mut head = gain.map_or_else(|| head.to_vec(), |gain| rms_norm(head, &real(gain), epsilon));
                turn(&mut head, position, header.rotary_dims as usize);
                head
            });
            heads.collect()
        };
        rows.into_iter().enumerate().map(row).collect()
    };
    let add = |x: &mut Rows, y: Rows| x.iter_mut().flatten().zip(y.into_iter().flatten()).for_each(|(x, y)| *x += y);
    let h = norm(x, &weights.attention_gain);
    let norms = weights.head_norms.as_ref();
    let q = turned(project(&weights.query, &h), norms.map(|norms| &norms.query));
    let k = turned(project(&weights.key, &h), norms.map(|norms| &norms.key));
    let mixed = attention(header, &q, &k, &project(&weights.value, &h));
    add(x, project(&weights.output, &mixed));
    let h = norm(x, &weights.ffn_gain);
    let (gate, up) = (project(&weights.gate, &h), project(&weights.up, &h));
    let gated = |(g, u): (&Vec<f64>, &Vec<f64>)| g.iter().zip(u).map(|(&g, u)| activation(header, g) * u).collect();
    add(x, project(&weights.down, &gate.iter().zip(&up).map(gated).collect()));
}

/// N of all positions, in floats.
fn forward(model: &Model, epsilon: f64, ids: &[u32]) -> Rows {
    let (header, weights) = (model.header(), model.weights());
    let scale = if header.embedding_scale == 0 { 1.0 } else { f64::from(header.embedding_scale) / ONE };
    let embed = |&id: &u32| (0..header.dim as usize).map(|at| weight(&weights.words, id as usize, at) * scale).collect();
    let mut x: Rows = ids.iter().map(embed).collect();
    for weights in &weights.layers {
        layer(header, epsilon, weights, &mut x);
    }
    x.iter().map(|x| rms_norm(x, &real(&weights.final_gain), epsilon)).collect()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    length(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>()) / length(b)
}

#[test]
fn decoders_agree_with_the_real_function_that_they_stand_for() {
    let llama = Header { context: 64, ..sample::decoder_header(3, 192, [6, 2, 32], 320, 150, 64) };
    let qwen = Header { flags: llama.flags | flag::QKV_BIAS | flag::QK_NORM, ..llama.clone() };
    let gemma = Header {
        activation: 2,
        embedding_scale: 14 << 14,
        rotary_dims: 16,
        window: 9,
        flags: llama.flags & !flag::TIED_HEAD,
        ..llama.clone()
    };
    for (name, header) in [("Llama", llama), ("Qwen", qwen), ("Gemma", gemma)] {
        let random = sample::decoder_weights(&header, 3).expect("a valid header");
        let value_shifts = TableI32::new(3, 2, vec![2; 6]).expect("sizes fit");
        let weights = DecoderWeights { rotary: rotary(&header), value_shifts, ..random };
        let model = Model::new(header.clone(), weights).expect("they fit");
        let mut generator = Generator::new(4);
        let ids: Vec<u32> = (0..POSITIONS).map(|_| u32::try_from(generator.within(0, 149)).expect("an id")).collect();

        let exact = reference::norm_rows(&model, &ids);
        let float = forward(&model, header.epsilon as f64 / 192.0 / 2f64.powi(28), &ids);
        let mut worst = 0f64;
        for (exact, float) in exact.iter_rows().zip(&float) {
            let exact: Vec<f64> = exact.iter().map(|&x| f64::from(x) / ONE).collect();
            worst = worst.max(distance(&exact, float));
        }
        println!("{name}: N is off by {worst:.2e} of its length at the worst position");
        // A word's elements are about 0.03, 440 units of Q14, so that rounding them alone costs 6.5e-4; what follows adds about as much.
        assert!(worst < 2e-3, "{name}: N is off by {worst}");

        let last = exact.row(POSITIONS - 1).expect("a row");
        let logits: Vec<f64> = reference::logits(&model, last).iter().map(|&x| f64::from(x) / ONE).collect();
        let expected = project(model.weights().logits(), &float[POSITIONS - 1..].to_vec()).remove(0);
        assert!(distance(&logits, &expected) < 2e-3, "{name}: logits are off by {}", distance(&logits, &expected));
    }
}
