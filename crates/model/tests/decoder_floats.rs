//! How near decoders are to the same models in floats: every family, quantised weights, and what trained models have that random ones have not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;

use fixture::{
    Tensors, Type,
    compare::{divergence, first_layers, likeliest, q14, relative, wide},
    decoder::{self as folder_of, DIM, FFN},
};
use quern_exact::reference;
use quern_model::{DecoderReference, Package};
use serde_json::{Value, json};
use tempfile::TempDir;

const IDS: [u32; 24] = [2, 5, 17, 8, 33, 4, 4, 21, 39, 11, 6, 30, 7, 13, 25, 2, 19, 28, 36, 9, 14, 5, 31, 22];

/// With weights that a package holds exactly only the arithmetic differs: int16 operands and Q14 leave about 3e-4, a wrong rotation, norm, mask or bias
/// more than 0.1.
const LAYER_BOUND: f64 = 2e-3;
const KL_BOUND: f64 = 2e-5;
/// What eight bits of a weight cost. Random weights of dim 48 average little away: trained models lose less.
const QUANTISED_KL_BOUND: f64 = 5e-3;
const QUANTISED_LAYER_BOUND: f64 = 5e-2;
/// Beside channels that take most of the 15 bits of an operand, what the ordinary ones may lose.
const OUTLIER_BOUND: f64 = 1e-2;
/// What the output of attention may lose, whatever is planted.
const ATTENTION_BOUND: f64 = 1e-2;

struct Pair {
    package: Package,
    reference: DecoderReference,
    _folder: TempDir,
}

/// A folder with changed tensors, imported and read in floats.
fn pair(model_type: &str, changes: &[(&str, Value)], change: impl FnOnce(&mut Tensors)) -> Pair {
    let folder = TempDir::new().unwrap();
    let config = folder_of::config(model_type, changes);
    let mut tensors = folder_of::tensors(&config);
    change(&mut tensors);
    folder_of::write_folder(folder.path(), &config, &tensors, Type::F32);
    let package = Package::import(folder.path(), &folder.path().join("m.quern"), false).unwrap();
    Pair { package, reference: DecoderReference::open(folder.path()).unwrap(), _folder: folder }
}

struct Distance {
    /// Of N behind each layer, the largest over positions.
    layers: Vec<f64>,
    /// Of the logits, mean over positions.
    kl: f64,
    agree: usize,
}

/// Layer by layer, over some channels, and on logits: exact against float.
fn distance(pair: &Pair, channels: &[usize]) -> Distance {
    let float = pair.reference.rows(&IDS).unwrap();
    let model = pair.package.model().unwrap();
    let some = |row: Vec<f64>| channels.iter().map(|channel| row[*channel]).collect::<Vec<_>>();
    let layers = (1..=float.layers.len()).map(|layers| {
        let rows = reference::norm_rows(&first_layers(&model, layers), &IDS);
        let rows = rows.iter_rows().zip(&float.layers[layers - 1]);
        rows.map(|(a, b)| relative(&some(q14(a)), &some(wide(b)))).fold(0.0, f64::max)
    });
    let layers = layers.collect();
    let rows = reference::norm_rows(&model, &IDS);
    let (mut kl, mut agree) = (0.0, 0);
    for (row, float) in rows.iter_rows().zip(&float.logits) {
        let (exact, float) = (q14(&reference::logits(&model, row)), wide(float));
        kl += divergence(&exact, &float);
        agree += usize::from(likeliest(&exact) == likeliest(&float));
    }
    #[expect(clippy::cast_precision_loss, reason = "24 positions")]
    let kl = kl / IDS.len() as f64;
    Distance { layers, kl, agree }
}

fn all_channels() -> Vec<usize> {
    (0..DIM).collect()
}

#[test]
fn every_family_computes_what_floats_compute_layer_by_layer() {
    for (name, model_type, changes) in folder_of::families() {
        let distance = distance(&pair(model_type, &changes, folder_of::make_exact), &all_channels());
        eprintln!("{name}: layers {:?}, KL {:.2e}, top-1 {} of {}", distance.layers, distance.kl, distance.agree, IDS.len());
        assert!(distance.layers.iter().all(|distance| *distance < LAYER_BOUND), "{name}: {:?}", distance.layers);
        assert!(distance.kl < KL_BOUND, "{name}: KL {}", distance.kl);
        assert_eq!(distance.agree, IDS.len(), "{name}");
    }
}

#[test]
fn quantised_weights_keep_the_distribution() {
    for (name, model_type, changes) in folder_of::families() {
        let distance = distance(&pair(model_type, &changes, |_| ()), &all_channels());
        eprintln!("{name}: KL {:.2e}, top-1 {} of {}", distance.kl, distance.agree, IDS.len());
        assert!(distance.kl < QUANTISED_KL_BOUND, "{name}: KL {}", distance.kl);
        assert!(distance.agree >= IDS.len() - 2, "{name}: {} of {}", distance.agree, IDS.len());
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

const OUTLIERS: [usize; 2] = [7, 29];

/// What the residual stream behind the first layer has in the outlier channels, each in units of the median channel; mean magnitudes over positions.
/// A row of N is the stream over its length, times the final gain.
fn outliers(pair: &Pair, gains: &[f32]) -> [f64; 2] {
    let rows = &pair.reference.rows(&IDS).unwrap().layers[0];
    let magnitude = |channel: usize| {
        let stream = |row: &Vec<f32>| f64::from(row[channel] / gains[channel]).abs();
        let ordinary = |row: &Vec<f32>| median((0..DIM).map(|other| f64::from(row[other] / gains[other]).abs()).collect());
        rows.iter().map(|row| stream(row) / ordinary(row)).sum::<f64>() / rows.len() as f64
    };
    OUTLIERS.map(magnitude)
}

fn first_layer<'a>(tensors: &'a mut Tensors, name: &str) -> &'a mut [f32] {
    &mut tensors.get_mut(&format!("model.layers.0.{name}.weight")).unwrap().1
}

/// A Llama in whose residual stream two channels are 300 times the median, as in trained models: much the same for all words, eight times the others there,
/// made large by one unit of the first layer's ffn, and kept small by the gains of every norm behind it.
fn with_outliers(exact: bool) -> Pair {
    // The channel that `make_exact` makes large too is one that these must stand above.
    let factor = if exact { 127.0 / 4.0 } else { 127.0 / 12.0 };
    let mut gains = Vec::new();
    let pair = pair("llama", &[("num_hidden_layers", json!(3))], |tensors| {
        for row in tensors.get_mut("model.embed_tokens.weight").unwrap().1.chunks_mut(DIM) {
            row[OUTLIERS[0]] = 3.0;
            row[OUTLIERS[1]] = -3.0;
        }
        let behind = |name: &str| name.ends_with("norm.weight") && !name.contains("layers.0.");
        for (_, (_, gain)) in tensors.iter_mut().filter(|(name, _)| behind(name)) {
            for channel in OUTLIERS {
                gain[channel] = 1.0 / 32.0;
            }
        }
        if exact {
            folder_of::make_exact(tensors);
        }
        // From here on numbers that rows of a package hold exactly.
        first_layer(tensors, "self_attn.o_proj").iter_mut().for_each(|weight| *weight /= 4.0);
        for name in ["mlp.gate_proj", "mlp.up_proj"] {
            first_layer(tensors, name)[..DIM].fill(0.0);
            first_layer(tensors, name)[OUTLIERS[0]] = 127.0 / 128.0;
        }
        for (channel, row) in first_layer(tensors, "mlp.down_proj").chunks_mut(FFN).enumerate() {
            row.iter_mut().for_each(|weight| *weight /= 8.0);
            if let Some(at) = OUTLIERS.iter().position(|outlier| *outlier == channel) {
                row.fill(0.0);
                row[0] = [factor, -factor][at];
            }
        }
        gains.clone_from(&tensors["model.norm.weight"].1);
    });
    let found = outliers(&pair, &gains);
    assert!(found.iter().all(|found| (300.0..400.0).contains(found)), "{found:.0?} times the median channel");
    pair
}

#[test]
fn outlier_channels_leave_the_ordinary_ones_as_they_are() {
    for exact in [true, false] {
        let pair = with_outliers(exact);
        let ordinary: Vec<usize> = (0..DIM).filter(|channel| !OUTLIERS.contains(channel)).collect();
        let (all, ordinary) = (distance(&pair, &all_channels()), distance(&pair, &ordinary));
        eprintln!("exact weights {exact}: all {:?}, ordinary {:?}, KL {:.2e}, top-1 {}", all.layers, ordinary.layers, all.kl, all.agree);
        let (kl, agree) = if exact { (KL_BOUND, IDS.len()) } else { (QUANTISED_KL_BOUND, IDS.len() - 2) };
        let layers = if exact { OUTLIER_BOUND } else { QUANTISED_LAYER_BOUND };
        assert!(all.layers.iter().chain(&ordinary.layers).all(|distance| *distance < layers), "{:?}, {:?}", all.layers, ordinary.layers);
        assert!(all.kl < kl && all.agree >= agree, "KL {}, top-1 {}", all.kl, all.agree);
    }
}

const KEY_BIASES: [usize; 3] = [3, 9, 17];

/// As Qwen2's: some of the keys' biases are 40 times the median of all.
fn large_key_biases(tensors: &mut Tensors) {
    for (_, (_, bias)) in tensors.iter_mut().filter(|(name, _)| name.ends_with("k_proj.bias")) {
        let median = median(bias.iter().map(|b| f64::from(b.abs())).collect()) as f32;
        for at in KEY_BIASES {
            bias[at] = (40.0 * median).copysign(bias[at]);
        }
    }
}

#[test]
fn large_biases_of_keys_leave_attention_as_it_is() {
    for exact in [true, false] {
        let make = |tensors: &mut Tensors| {
            if exact {
                folder_of::make_exact(tensors);
            }
        };
        let whole = pair("qwen2", &[], |tensors| {
            large_key_biases(tensors);
            make(tensors);
        });
        let whole = distance(&whole, &all_channels());
        // Attention alone: words that are small beside its output, and an ffn that says nothing. Attention sees the words through a norm.
        let attention = |biases: fn(&mut Tensors)| {
            let attention = pair("qwen2", &[("num_hidden_layers", json!(1))], |tensors| {
                biases(tensors);
                make(tensors);
                tensors.get_mut("model.embed_tokens.weight").unwrap().1.iter_mut().for_each(|x| *x /= 16.0);
                tensors.get_mut("model.layers.0.mlp.down_proj.weight").unwrap().1.fill(0.0);
            });
            distance(&attention, &all_channels()).layers[0]
        };
        let (attention, plain) = (attention(large_key_biases), attention(|_| ()));
        eprintln!("attention {attention:.1e}, without large biases {plain:.1e}");
        eprintln!("exact weights {exact}: {:?}, KL {:.2e}, top-1 {}", whole.layers, whole.kl, whole.agree);
        let (layers, kl, agree) =
            if exact { (LAYER_BOUND, KL_BOUND, IDS.len()) } else { (QUANTISED_LAYER_BOUND, QUANTISED_KL_BOUND, IDS.len() - 2) };
        assert!(whole.layers.iter().all(|distance| *distance < layers), "{:?}", whole.layers);
        assert!(whole.kl < kl && whole.agree >= agree, "KL {}, top-1 {}", whole.kl, whole.agree);
        assert!(attention < if exact { ATTENTION_BOUND } else { 3.0 * plain }, "{attention}, without large biases {plain}");
    }
}
