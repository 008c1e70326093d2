//! Decoders against candle's own implementations, which read the same config.json and the same safetensors: whatever our importer and our float model
//! misread alike shows here.
//!
//! candle answers with the logits of the last position behind the last layer, so checkpoints of one layer, two and three are compared, at every position.
//! It has no form of linear scaling, nor of Llama with biases; its Phi-3 has no window and its Qwen3 none either.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;

use std::{fs, path::Path};

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{gemma, llama, mistral, phi3, qwen2, qwen3};
use fixture::{
    Type,
    compare::{divergence, likeliest, q14, relative, wide},
    decoder::{self as folder_of, Form},
};
use quern_exact::reference;
use quern_model::{DecoderReference, Package};
use serde_json::{Value, json};
use tempfile::TempDir;

const IDS: [u32; 24] = [2, 5, 17, 8, 33, 4, 4, 21, 39, 11, 6, 30, 7, 13, 25, 2, 19, 28, 36, 9, 14, 5, 31, 22];
const LAYERS: usize = 3;
/// Of logits in floats, relative: both round to f32, candle its angles too, which comes to 3e-6. What is misread changes them by more than ten times the
/// bound.
const FLOAT_BOUND: f64 = 2e-5;
/// Of exact logits from weights that a package holds exactly: int16 operands and Q14.
const EXACT_BOUND: f64 = 3e-3;
const KL_BOUND: f64 = 2e-5;

/// The forms that both have.
fn forms() -> Vec<Form> {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16});
    let qwen2 = |window: u32, from: u32| {
        vec![("use_sliding_window", json!(true)), ("sliding_window", json!(window)), ("max_window_layers", json!(from))]
    };
    let qwen3 = |more: Vec<(&'static str, Value)>| {
        let fields = [
            ("head_dim", json!(16)),
            ("attention_bias", json!(false)),
            ("use_sliding_window", json!(false)),
            ("max_window_layers", json!(3)),
        ];
        [fields.to_vec(), more].concat()
    };
    let gemma = |kv_heads: u32| vec![("head_dim", json!(16)), ("attention_bias", json!(false)), ("num_key_value_heads", json!(kv_heads))];
    vec![
        ("llama 2", "llama", vec![("num_key_value_heads", json!(4))]),
        ("llama 2 with groups", "llama", vec![("rms_norm_eps", json!(1e-6))]),
        ("llama 3", "llama", vec![("rope_theta", json!(500_000.0)), ("rope_scaling", llama3), ("tie_word_embeddings", json!(true))]),
        ("mistral with a window", "mistral", vec![("sliding_window", json!(5))]),
        ("mistral without", "mistral", vec![("head_dim", json!(16))]),
        ("qwen2", "qwen2", [qwen2(4, 3), vec![("use_sliding_window", json!(false)), ("rope_theta", json!(1_000_000.0))]].concat()),
        ("qwen2 with a window", "qwen2", qwen2(6, 0)),
        ("qwen3", "qwen3", qwen3(vec![("rope_theta", json!(1_000_000)), ("tie_word_embeddings", json!(true))])),
        ("qwen3 with biases", "qwen3", qwen3(vec![("attention_bias", json!(true))])),
        ("gemma", "gemma", gemma(2)),
        ("gemma with one key head", "gemma", gemma(1)),
        ("phi3", "phi3", vec![]),
        ("phi3, half rotated", "phi3", vec![("partial_rotary_factor", json!(0.5)), ("num_key_value_heads", json!(4))]),
    ]
}

/// What candle's reader takes for the same model: its masks let a position see one more than the window, which transformers does not (a position itself
/// counts), and its Qwen2 has a window whether or not one is asked for.
fn as_candle_counts(config: &mut Value) {
    let window = config["sliding_window"].as_u64();
    if config["model_type"] == "qwen2" && config["use_sliding_window"] == json!(false) {
        config["sliding_window"] = config["max_position_embeddings"].clone();
    } else if let Some(window) = window {
        config["sliding_window"] = json!(window - 1);
    }
}

type Forward = Box<dyn FnMut(&Tensor) -> Result<Tensor>>;

/// candle's model of a folder, with a changed configuration.
fn candle(folder: &Path, change: impl FnOnce(&mut Value)) -> Forward {
    let mut config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    as_candle_counts(&mut config);
    change(&mut config);
    let weights = fs::read(folder.join("model.safetensors")).unwrap();
    let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu).unwrap();
    match config["model_type"].as_str().unwrap() {
        "llama" => {
            let config = serde_json::from_value::<llama::LlamaConfig>(config).unwrap().into_config(false);
            let model = llama::Llama::load(weights, &config).unwrap();
            Box::new(move |ids| model.forward(ids, 0, &mut llama::Cache::new(false, DType::F32, &config, &Device::Cpu)?))
        }
        "mistral" => {
            let mut model = mistral::Model::new(&serde_json::from_value(config).unwrap(), weights).unwrap();
            Box::new(move |ids| {
                model.clear_kv_cache();
                model.forward(ids, 0)
            })
        }
        "qwen2" => {
            let mut model = qwen2::ModelForCausalLM::new(&serde_json::from_value(config).unwrap(), weights).unwrap();
            Box::new(move |ids| {
                model.clear_kv_cache();
                model.forward(ids, 0)
            })
        }
        "qwen3" => {
            let mut model = qwen3::ModelForCausalLM::new(&serde_json::from_value(config).unwrap(), weights).unwrap();
            Box::new(move |ids| {
                model.clear_kv_cache();
                model.forward(ids, 0)
            })
        }
        "gemma" => {
            let mut model = gemma::Model::new(false, &serde_json::from_value(config).unwrap(), weights).unwrap();
            Box::new(move |ids| {
                model.clear_kv_cache();
                model.forward(ids, 0)
            })
        }
        "phi3" => {
            let mut model = phi3::Model::new(&serde_json::from_value(config).unwrap(), weights).unwrap();
            Box::new(move |ids| {
                model.clear_kv_cache();
                model.forward(ids, 0)
            })
        }
        other => panic!("{other}"),
    }
}

/// Logits of every position, each from its beginning of the ids.
fn logits(forward: &mut Forward) -> Vec<Vec<f64>> {
    let at = |end: usize| {
        let ids = Tensor::new(&IDS[..end], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        wide(&forward(&ids).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap())
    };
    (1..=IDS.len()).map(at).collect()
}

/// A checkpoint of the first layers, of weights that a package holds exactly.
fn checkpoint(form: &Form, layers: usize) -> TempDir {
    let folder = TempDir::new().unwrap();
    let (_, model_type, changes) = form;
    let config = folder_of::config(model_type, &[&changes[..], &[("num_hidden_layers", json!(layers))]].concat());
    let mut tensors = folder_of::tensors(&config);
    folder_of::make_exact(&mut tensors);
    folder_of::write_folder(folder.path(), &config, &tensors, Type::F32);
    folder
}

fn largest(distances: impl Iterator<Item = f64>) -> f64 {
    distances.fold(0.0, |largest, distance| if distance.is_nan() { distance } else { largest.max(distance) })
}

#[test]
fn every_family_computes_what_candles_own_model_computes_layer_by_layer() {
    for form in forms() {
        for layers in 1..=LAYERS {
            let folder = checkpoint(&form, layers);
            let expected = logits(&mut candle(folder.path(), |_| ()));
            let float = DecoderReference::open(folder.path()).unwrap().rows(&IDS).unwrap().logits;
            let float = largest(float.iter().zip(&expected).map(|(found, expected)| relative(&wide(found), expected)));

            let model = Package::import(folder.path(), &folder.path().join("m.quern"), false).unwrap().model().unwrap();
            let rows = reference::norm_rows(&model, &IDS);
            let found: Vec<_> = rows.iter_rows().map(|row| q14(&reference::logits(&model, row))).collect();
            let exact = largest(found.iter().zip(&expected).map(|(found, expected)| relative(found, expected)));
            let kl = largest(found.iter().zip(&expected).map(|(found, expected)| divergence(found, expected)));
            let agree = found.iter().zip(&expected).filter(|(found, expected)| likeliest(found) == likeliest(expected)).count();
            let name = format!("{}, {layers} layers", form.0);
            eprintln!("{name}: floats {float:.1e}, exact {exact:.1e}, KL at most {kl:.1e}, top-1 {agree} of {}", IDS.len());
            assert!(float < FLOAT_BOUND, "{name}: floats are {float} apart");
            // Of two ids that are equally likely, the other one may come first.
            assert!(exact < EXACT_BOUND && kl < KL_BOUND && agree + 1 >= IDS.len(), "{name}: {exact}, {kl}, {agree}");
        }
    }
}

/// What the bounds are worth: each of these readings of the same folder is another model.
#[test]
fn a_misread_configuration_is_seen() {
    type Misreading = (&'static str, &'static str, Value);
    let misreadings: [Misreading; 12] = [
        ("llama 2", "rope_theta", json!(9000.0)),
        ("llama 2", "rms_norm_eps", json!(1e-3)),
        ("llama 3", "rope_scaling", json!(null)),
        ("llama 3", "rope_theta", json!(10_000.0)),
        ("mistral with a window", "sliding_window", json!(5)),
        ("mistral with a window", "sliding_window", json!(null)),
        ("mistral without", "hidden_act", json!("gelu")),
        ("qwen2 with a window", "sliding_window", json!(6)),
        ("qwen3", "rope_theta", json!(10_000)),
        ("gemma", "hidden_activation", json!("gelu")),
        ("phi3, half rotated", "partial_rotary_factor", json!(1.0)),
        ("phi3", "partial_rotary_factor", json!(0.5)),
    ];
    for (name, field, value) in misreadings {
        let form = forms().into_iter().find(|form| form.0 == name).unwrap();
        let folder = checkpoint(&form, LAYERS);
        let misread = logits(&mut candle(folder.path(), |config| config[field] = value.clone()));
        let float = DecoderReference::open(folder.path()).unwrap().rows(&IDS).unwrap().logits;
        let distance = largest(float.iter().zip(&misread).map(|(found, misread)| relative(&wide(found), misread)));
        eprintln!("{name} with {field} {value}: {distance:.1e}");
        assert!(distance > 10.0 * FLOAT_BOUND, "{name} with {field} {value}: {distance}");
    }
}
