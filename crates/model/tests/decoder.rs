//! Decoders: from a folder to ids, and how near they are to the same model in floats.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;

use std::{
    fs,
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    sync::Arc,
};

use fixture::{Tensors, Type, decoder as folder_of};
use quern_exact::{
    decoder::{DecoderWeights, Model, OutputKey, Rule},
    format::TableI32,
    header::{self, NO_ID},
    kernels::{Isa, Pool},
    layout::TensorRef,
    reference,
};
use quern_model::{Corpus, DecoderReference, ImportOptions, Message, ModelError, Package, PackedOrigin, Session};
use serde_json::{Value, json};
use tempfile::TempDir;

const IDS: [u32; 24] = [2, 5, 17, 8, 33, 4, 4, 21, 39, 11, 6, 30, 7, 13, 25, 2, 19, 28, 36, 9, 14, 5, 31, 22];

struct Imported {
    folder: TempDir,
    package: Package,
}

impl Imported {
    fn new(model_type: &str, changes: &[(&str, Value)], change: impl FnOnce(&mut Tensors)) -> Self {
        let folder = TempDir::new().unwrap();
        let config = folder_of::config(model_type, changes);
        let mut tensors = folder_of::tensors(&config);
        change(&mut tensors);
        folder_of::write_folder(folder.path(), &config, &tensors, Type::F32);
        let package = Package::import(folder.path(), &folder.path().join("m.quern"), false).unwrap();
        Self { folder, package }
    }

    fn packed(&self) -> PathBuf {
        self.folder.path().join("m.quern.packed")
    }
}

fn pool(threads: usize) -> Arc<Pool> {
    Arc::new(Pool::new(Isa::detect(), NonZeroUsize::new(threads).unwrap()))
}

fn greedy(max_output: u32) -> Rule {
    Rule::greedy(NonZeroU32::new(max_output).unwrap(), [NO_ID; 8])
}

const KEY: OutputKey = OutputKey { item: 0, sample: 0 };

/// The model with its first layers only.
fn first_layers(model: &Model, layers: usize) -> Model {
    let mut header = model.header().clone();
    let DecoderWeights { words, rotary, layers: all, final_gain, head, value_shifts } = model.weights().clone();
    header.layers = u32::try_from(layers).unwrap();
    let width = value_shifts.width();
    let value_shifts = TableI32::new(layers, width, value_shifts.data()[..layers * width].to_vec()).unwrap();
    let weights = DecoderWeights { words, rotary, layers: all[..layers].to_vec(), final_gain, head, value_shifts };
    Model::new(header, weights).unwrap()
}

fn q14(row: &[i32]) -> Vec<f64> {
    row.iter().map(|x| f64::from(*x) / 16_384.0).collect()
}

/// Length of the difference over length of the second.
fn relative(a: &[f64], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(a - f64::from(*b))).sum();
    (difference / b.iter().map(|b| square(f64::from(*b))).sum::<f64>()).sqrt()
}

/// Kullback-Leibler divergence of the exact distribution from the float one, in nats.
fn divergence(exact: &[f64], float: &[f32]) -> f64 {
    let softmax = |logits: Vec<f64>| {
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let e: Vec<f64> = logits.iter().map(|x| (x - max).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.into_iter().map(|e| e / sum).collect::<Vec<_>>()
    };
    let (p, q) = (softmax(float.iter().map(|x| f64::from(*x)).collect()), softmax(exact.to_vec()));
    p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum()
}

struct Distance {
    /// Of N behind each layer, the largest over positions.
    layers: Vec<f64>,
    /// Of the logits, mean over positions.
    kl: f64,
    agree: usize,
}

/// Layer by layer and on logits, exact against float.
fn distance(imported: &Imported) -> Distance {
    let float = DecoderReference::open(imported.folder.path()).unwrap().rows(&IDS).unwrap();
    let model = imported.package.model().unwrap();
    let layers = (1..=float.layers.len()).map(|layers| {
        let rows = reference::norm_rows(&first_layers(&model, layers), &IDS);
        rows.iter_rows().zip(&float.layers[layers - 1]).map(|(a, b)| relative(&q14(a), b)).fold(0.0, f64::max)
    });
    let layers = layers.collect();
    let rows = reference::norm_rows(&model, &IDS);
    let (mut kl, mut agree) = (0.0, 0);
    for (row, float) in rows.iter_rows().zip(&float.logits) {
        let exact = q14(&reference::logits(&model, row));
        kl += divergence(&exact, float);
        let best = |logits: Vec<f64>| logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(at, _)| at);
        agree += usize::from(best(exact) == best(float.iter().map(|x| f64::from(*x)).collect()));
    }
    #[expect(clippy::cast_precision_loss, reason = "24 positions")]
    let kl = kl / IDS.len() as f64;
    Distance { layers, kl, agree }
}

/// With weights that a package holds exactly only the arithmetic differs: int16 operands and Q14 leave about 3e-4, a wrong rotation, norm, mask or bias
/// more than 0.1.
const LAYER_BOUND: f64 = 2e-3;
const KL_BOUND: f64 = 2e-5;

#[test]
fn every_family_computes_what_floats_compute_layer_by_layer() {
    for (name, model_type, changes) in folder_of::families() {
        let distance = distance(&Imported::new(model_type, &changes, folder_of::make_exact));
        eprintln!("{name}: layers {:?}, KL {:.2e}, top-1 {} of {}", distance.layers, distance.kl, distance.agree, IDS.len());
        assert!(distance.layers.iter().all(|distance| *distance < LAYER_BOUND), "{name}: {:?}", distance.layers);
        assert!(distance.kl < KL_BOUND, "{name}: KL {}", distance.kl);
        assert_eq!(distance.agree, IDS.len(), "{name}");
    }
}

/// What eight bits of a weight cost. Random weights of dim 48 average little away: trained models lose less.
#[test]
fn quantised_weights_keep_the_distribution() {
    for (name, model_type, changes) in folder_of::families() {
        let distance = distance(&Imported::new(model_type, &changes, |_| ()));
        eprintln!("{name}: KL {:.2e}, top-1 {} of {}", distance.kl, distance.agree, IDS.len());
        assert!(distance.kl < 5e-3, "{name}: KL {}", distance.kl);
        assert!(distance.agree >= IDS.len() - 2, "{name}: {} of {}", distance.agree, IDS.len());
    }
}

/// Trained models have a few channels that are hundreds of times all others.
#[test]
fn outlier_channels_leave_the_others_as_they_are() {
    let imported = Imported::new("llama", &[], |tensors| {
        let (_, words) = tensors.get_mut("model.embed_tokens.weight").unwrap();
        for row in words.chunks_mut(folder_of::DIM) {
            for (channel, value) in row.iter_mut().enumerate() {
                *value *= if channel == 7 || channel == 29 { 30.0 } else { 0.1 };
            }
        }
        folder_of::make_exact(tensors);
        // Small channels beside large ones are what a group of eight bits loses: here they must be there, and exact.
        let (_, words) = tensors.get_mut("model.embed_tokens.weight").unwrap();
        for (at, row) in words.chunks_mut(folder_of::DIM).enumerate() {
            for (channel, value) in row.iter_mut().enumerate().skip(1) {
                if channel != 7 && channel != 29 && (at + channel) % 3 == 0 {
                    *value = if *value < 0.0 { -0.25 } else { 0.25 };
                }
            }
        }
    });
    let distance = distance(&imported);
    eprintln!("outliers: {:?}, KL {:.2e}", distance.layers, distance.kl);
    assert!(distance.layers.iter().all(|distance| *distance < LAYER_BOUND), "{:?}", distance.layers);
    assert!(distance.kl < KL_BOUND, "{}", distance.kl);
}

/// Qwen2's keys have biases that are tens of times the median.
#[test]
fn large_biases_of_keys_leave_attention_as_it_is() {
    let imported = Imported::new("qwen2", &[], |tensors| {
        for (_, (_, bias)) in tensors.iter_mut().filter(|(name, _)| name.ends_with("k_proj.bias")) {
            for at in [3, 9, 17] {
                bias[at] *= 40.0;
            }
        }
        folder_of::make_exact(tensors);
    });
    let distance = distance(&imported);
    eprintln!("key biases: {:?}, KL {:.2e}", distance.layers, distance.kl);
    assert!(distance.layers.iter().all(|distance| *distance < LAYER_BOUND), "{:?}", distance.layers);
    assert!(distance.kl < KL_BOUND, "{}", distance.kl);
}

#[test]
fn the_packed_file_computes_what_the_package_says_to_the_bit() {
    for (name, model_type, changes) in folder_of::families() {
        let imported = Imported::new(model_type, &changes, |_| ());
        let packed = imported.package.packed().unwrap();
        assert_eq!(packed.origin, PackedOrigin::Mapped, "{name}");
        let expected = reference::generate(&imported.package.model().unwrap(), &IDS[..9], &greedy(20), KEY);
        for threads in [1, 3] {
            let decoder = imported.package.decoder(pool(threads)).unwrap();
            assert_eq!(decoder.generate(&IDS[..9], &greedy(20), KEY).unwrap(), expected, "{name}");
        }
        assert_eq!(imported.package.verify().unwrap(), imported.package.root(), "{name}");
    }
}

#[test]
fn a_session_has_the_output_of_a_job_whatever_was_said_before() {
    let imported = Imported::new("llama", &[], |_| ());
    let decoder = imported.package.decoder(pool(2)).unwrap();
    let mut session = Session::new(decoder.clone(), 64).unwrap();
    for prompt in [&IDS[..9], &IDS[..12], &IDS[..12], &IDS[..3], &IDS[4..20]] {
        for rule in [greedy(7), Rule { temperature: 1 << 16, min_p: 3000, seed: [9; 32], ..greedy(7) }] {
            let found = session.generate(prompt, &rule, &mut |_| true).unwrap();
            let expected = decoder.generate(prompt, &rule, KEY).unwrap();
            assert_eq!((found.ids, found.reason), (expected.ids, Some(expected.reason)));
        }
    }
    let ended = session.generate(&IDS[..9], &greedy(7), &mut |_| false).unwrap();
    assert_eq!((ended.ids.len(), ended.reason), (1, None));
    assert!(matches!(session.generate(&[], &greedy(1), &mut |_| true), Err(ModelError::EmptyPrompt)));
    assert!(matches!(session.generate(&[5; 65], &greedy(1), &mut |_| true), Err(ModelError::PromptTooLong { tokens: 65, room: 64 })));
    let unknown = session.generate(&[5, 40], &greedy(1), &mut |_| true).unwrap_err();
    assert!(unknown.to_string().contains("id 40"), "{unknown}");
}

#[test]
fn the_header_is_what_the_configuration_says() {
    let imported = Imported::new("qwen3", &[("head_dim", json!(16)), ("max_position_embeddings", json!(40_000))], |_| ());
    let header = imported.package.header();
    assert_eq!([header.vocabulary, header.dim, header.layers, header.heads, header.kv_heads], [40, 48, 2, 4, 2]);
    assert_eq!([header.head_dim, header.rotary_dims, header.ffn, header.context, header.window], [16, 16, 160, 32_768, 0]);
    assert_eq!((header.epsilon, header.score_scale, header.prefix_id), (128_849, 6_051_102, 2));
    assert_eq!((header.flags, header.stop_ids[..3].to_vec()), (0b100_1001, vec![3, 0, NO_ID]));
    assert!(imported.package.record().notes.iter().any(|note| note.contains("40000")), "{:?}", imported.package.record().notes);
    assert_eq!(imported.package.header().family, header::FAMILY_DECODER);

    let window = |window: Value, context: u32| {
        let imported = Imported::new("mistral", &[("sliding_window", window), ("max_position_embeddings", json!(context))], |_| ());
        imported.package.header().window
    };
    assert_eq!([window(json!(5), 64), window(json!(null), 64), window(json!(4096), 64)], [5, 0, 0]);
}

#[test]
fn importing_twice_gives_the_same_bytes_in_every_file() {
    let folder = TempDir::new().unwrap();
    folder_of::write(folder.path(), "qwen2", &[]);
    let [a, b] = ["a.quern", "b.quern"].map(|name| folder.path().join(name));
    Package::import(folder.path(), &a, false).unwrap();
    Package::import(folder.path(), &b, false).unwrap();
    for name in ["header.bin", "weights.bin", "tokenizer.json", "chat.json", "conversion.json"] {
        assert_eq!(fs::read(a.join(name)).unwrap(), fs::read(b.join(name)).unwrap(), "{name}");
    }
    assert_eq!(fs::read(folder.path().join("a.quern.packed")).unwrap(), fs::read(folder.path().join("b.quern.packed")).unwrap());
}

#[test]
fn a_shorter_context_is_another_model_and_a_longer_one_is_refused() {
    let folder = TempDir::new().unwrap();
    folder_of::write(folder.path(), "llama", &[]);
    let import = |name: &str, context| {
        let options = ImportOptions { context: Some(context), ..ImportOptions::default() };
        Package::import_with(folder.path(), &folder.path().join(name), &options, &mut |_| true)
    };
    assert_eq!(import("short", 12).unwrap().header().context, 12);
    assert_ne!(import("short2", 13).unwrap().root(), import("full", 64).unwrap().root());
    assert!(import("long", 65).unwrap_err().to_string().contains("65"));
}

#[test]
fn an_interrupted_import_leaves_nothing_behind() {
    let folder = TempDir::new().unwrap();
    folder_of::write(folder.path(), "llama", &[]);
    let before = names(folder.path());
    let mut calls = 0;
    let interrupted = Package::import_with(folder.path(), &folder.path().join("out"), &ImportOptions::default(), &mut |progress| {
        assert!(progress.elements <= progress.total);
        calls += 1;
        calls < 10
    });
    assert!(matches!(interrupted, Err(ModelError::Interrupted)));
    assert_eq!(names(folder.path()), before);
    let mut last = None;
    Package::import_with(folder.path(), &folder.path().join("out"), &ImportOptions::default(), &mut |progress| {
        last = Some(progress);
        true
    })
    .unwrap();
    assert!(last.is_some_and(|progress| progress.elements == progress.total));
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_packed_file_that_is_missing_or_stale_is_made_again() {
    let imported = Imported::new("llama", &[], |_| ());
    let whole = fs::read(imported.packed()).unwrap();
    let other = Imported::new("llama", &[("rope_theta", json!(20_000))], |_| ());
    let origin = || Package::open(imported.package.path()).unwrap().packed().unwrap().origin;
    let stale = [
        ("missing", None),
        ("another package", Some(fs::read(other.packed()).unwrap())),
        ("another release", Some([&whole[..8], &[9], &whole[9..]].concat())),
        ("cut short", Some(whole[..whole.len() - 64].to_vec())),
        ("longer", Some([&whole[..], &[0; 64]].concat())),
    ];
    for (name, content) in stale {
        // A new file each time: the one before may be mapped.
        fs::remove_file(imported.packed()).unwrap();
        if let Some(content) = content {
            fs::write(imported.packed(), content).unwrap();
        }
        assert!(matches!(origin(), PackedOrigin::Rebuilt { .. }), "{name}");
        assert_eq!(fs::read(imported.packed()).unwrap(), whole, "{name}");
        assert_eq!(origin(), PackedOrigin::Mapped, "{name}");
    }
}

#[test]
fn somebody_elses_file_in_the_packed_files_place_is_left_alone() {
    let imported = Imported::new("llama", &[], |_| ());
    let expected = imported.package.decoder(pool(1)).unwrap().generate(&IDS[..5], &greedy(5), KEY).unwrap();
    fs::remove_file(imported.packed()).unwrap();
    for content in ["", "a diary", &"a long diary ".repeat(1000)] {
        fs::write(imported.packed(), content).unwrap();
        let packed = imported.package.packed().unwrap();
        assert!(matches!(&packed.origin, PackedOrigin::InMemory { because } if !because.is_empty()), "{:?}", packed.origin);
        let decoder = quern_exact::decoder::Decoder::from_packed(packed.weights, pool(1));
        assert_eq!(decoder.generate(&IDS[..5], &greedy(5), KEY).unwrap(), expected);
        assert_eq!(fs::read_to_string(imported.packed()).unwrap(), content);
    }
}

#[test]
fn a_flipped_byte_in_weights_or_packed_file_is_found() {
    let imported = Imported::new("qwen2", &[], |_| ());
    let weights = imported.package.path().join("weights.bin");
    let whole = fs::read(&weights).unwrap();
    for at in (64..whole.len()).step_by(9973) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        fs::write(&weights, &flipped).unwrap();
        let found = Package::open(imported.package.path()).and_then(|package| package.verify());
        assert!(matches!(found, Err(ModelError::Hash { .. } | ModelError::Malformed { .. })), "byte {at}: {found:?}");
    }
    fs::write(&weights, &whole).unwrap();
    let packed = fs::read(imported.packed()).unwrap();
    for at in (64..packed.len()).step_by(9973) {
        let mut flipped = packed.clone();
        flipped[at] ^= 1;
        fs::remove_file(imported.packed()).unwrap();
        fs::write(imported.packed(), &flipped).unwrap();
        let found = Package::open(imported.package.path()).and_then(|package| package.verify());
        assert!(matches!(found, Err(ModelError::Packed { .. })), "byte {at}: {found:?}");
    }
}

/// Weights that are not those of the root must not become a packed file that states the root.
#[test]
fn corrupt_weights_are_never_packed() {
    let imported = Imported::new("llama", &[], |_| ());
    fs::remove_file(imported.packed()).unwrap();
    let weights = imported.package.path().join("weights.bin");
    let mut flipped = fs::read(&weights).unwrap();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&weights, &flipped).unwrap();
    let package = Package::open(imported.package.path()).unwrap();
    assert!(matches!(package.packed(), Err(ModelError::Hash { .. } | ModelError::Malformed { .. })));
    assert!(!imported.packed().exists());
}

#[test]
fn a_package_of_the_other_kind_is_refused_by_what_it_is() {
    let decoder = Imported::new("llama", &[], |_| ());
    assert!(decoder.package.encoder().unwrap_err().to_string().contains("is a decoder"));
    let folder = TempDir::new().unwrap();
    fixture::write(folder.path(), &fixture::safetensors(&fixture::short_tensors(), Type::F32));
    let encoder = Package::import(folder.path(), &folder.path().join("out"), false).unwrap();
    assert!(encoder.packed().unwrap_err().to_string().contains("is an encoder"));
    assert!(encoder.model().is_err());
}

#[test]
fn a_conversation_is_rendered_by_the_models_template() {
    let imported = Imported::new("llama", &[], |_| ());
    let package = Package::open(imported.package.path()).unwrap();
    let template = package.chat_template().unwrap().unwrap();
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let prompt = template.render(&[message("system", " water "), message("user", "grain")]).unwrap();
    assert_eq!(prompt, "[CLS]water grain the mill");
    assert_eq!(package.tokenizer().encode_prompt(&prompt).unwrap(), [2, 7, 9, 4, 5]);
    let refused = template.render(&[message("tool", "x")]).unwrap_err();
    assert!(refused.to_string().contains("no such role"), "{refused}");

    let chat = package.path().join("chat.json");
    let changed = fs::read_to_string(&chat).unwrap().replace("the mill", "a mill");
    fs::write(&chat, changed).unwrap();
    assert!(matches!(Package::open(package.path()), Err(ModelError::Hash { .. })));
}

#[test]
fn configurations_of_other_arithmetic_are_refused_by_field() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0});
    let extra = json!({"rope_type": "linear", "factor": 4.0, "attention_factor": 2.0});
    let upside = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0, "original_max_position_embeddings": 16});
    let cases = [
        ("llama", "model_type", json!("gemma2"), "qwen3"),
        ("llama", "hidden_act", json!("gelu"), "silu"),
        ("llama", "rope_scaling", yarn, "llama3"),
        ("llama", "rope_scaling", extra, "attention_factor"),
        ("llama", "rope_scaling", upside, "more than low_freq_factor"),
        ("llama", "rope_scaling", json!({"rope_type": "linear", "factor": 0.5}), "from 1"),
        ("llama", "rope_theta", json!("big"), "from 1"),
        ("llama", "sliding_window", json!(5), "null"),
        ("llama", "quantization_config", json!({"bits": 4}), "null"),
        ("llama", "partial_rotary_factor", json!(0.5), "1.0"),
        ("llama", "final_logit_softcapping", json!(30.0), "null"),
        ("llama", "attention_bias", json!("yes"), "true or false"),
        ("llama", "num_key_value_heads", json!(0), "1 to 2^24"),
        ("llama", "head_dim", json!(-1), "1 to 2^24"),
        ("llama", "rms_norm_eps", json!(10), "below 10"),
        ("mistral", "attention_bias", json!(true), "false"),
        ("qwen2", "use_sliding_window", json!(true), "all layers"),
        ("qwen3", "layer_types", json!(["full_attention", "sliding_attention"]), "all layers"),
        ("qwen3", "layer_types", json!(["linear_attention", "full_attention"]), "full_attention"),
        ("qwen2", "num_key_value_heads", json!(null), "whole number"),
    ];
    for (model_type, name, value, expected) in cases {
        let folder = TempDir::new().unwrap();
        let config = folder_of::config(model_type, &[(name, value.clone())]);
        folder_of::write_folder(folder.path(), &config, &folder_of::tensors(&folder_of::config("llama", &[])), Type::F32);
        let out = folder.path().join("out");
        let error = Package::import(folder.path(), &out, false).expect_err("other arithmetic").to_string();
        // What a window needs is another field.
        let name = if name == "use_sliding_window" { "max_window_layers" } else { name };
        assert!(error.contains("config.json") && error.contains(name) && error.contains(expected), "{name} = {value}: {error}");
        assert!(!out.exists());
    }
    // kv heads that do not divide the heads: the header's bounds.
    let folder = TempDir::new().unwrap();
    folder_of::write(folder.path(), "llama", &[("num_key_value_heads", json!(3))]);
    let error = Package::import(folder.path(), &folder.path().join("out"), false).unwrap_err().to_string();
    assert!(error.contains("kv heads"), "{error}");
}

#[test]
fn forms_of_the_same_checkpoint_have_the_same_root() {
    let root = |config: &Value, tensors: &Tensors, kind| {
        let folder = TempDir::new().unwrap();
        folder_of::write_folder(folder.path(), config, tensors, kind);
        Package::import(folder.path(), &folder.path().join("out"), false).unwrap().root()
    };
    let config = folder_of::config("llama", &[]);
    let mut tensors = folder_of::tensors(&config);
    // To numbers that every type holds.
    for (_, values) in tensors.values_mut() {
        for value in values {
            *value = (*value * 64.0).round().clamp(-127.0, 127.0) / 64.0;
        }
    }
    let plain = root(&config, &tensors, Type::F32);
    assert_eq!(root(&config, &tensors, Type::Bf16), plain);
    assert_eq!(root(&config, &tensors, Type::F16), plain);

    // As transformers 5 writes it.
    let mut newer = config.clone();
    newer.as_object_mut().unwrap().remove("rope_theta");
    newer["rope_parameters"] = json!({"rope_theta": 1e4, "rope_type": "default"});
    newer["layer_types"] = json!(["full_attention", "full_attention"]);
    assert_eq!(root(&newer, &tensors, Type::F32), plain);

    let bare: Tensors =
        tensors.iter().map(|(name, tensor)| (name.strip_prefix("model.").unwrap_or(name).to_owned(), tensor.clone())).collect();
    assert_eq!(root(&config, &bare, Type::F32), plain);
}

#[test]
fn the_divergence_over_a_corpus_holds_for_the_model_and_for_no_other() {
    let imported = Imported::new("llama", &[], |_| ());
    let corpus = TempDir::new().unwrap();
    for (name, text) in [
        ("lines", "the mill turns\nold water is in the river\n"),
        ("words", "grain\nflour\n"),
        ("long", "the old wheel turns . day and night"),
    ] {
        fs::create_dir(corpus.path().join(name)).unwrap();
        fs::write(corpus.path().join(name).join("a.txt"), text).unwrap();
    }
    let corpus = Corpus::read(corpus.path()).unwrap();
    let reports = |reference: &Path| {
        quern_model::divergence(&imported.package, &DecoderReference::open(reference).unwrap(), &corpus, &pool(2)).unwrap()
    };
    let found = reports(imported.folder.path());
    assert_eq!(found.iter().map(|report| report.positions).collect::<Vec<_>>(), [4 + 7, 2 + 2, 9]);
    assert!(found.iter().all(|report| report.mean < 5e-3 && report.mean > 0.0 && report.worst >= report.mean), "{found:?}");
    // The same weights turned at another speed.
    let other = Imported::new("llama", &[("rope_theta", json!(100))], |_| ());
    let found = reports(other.folder.path());
    assert!(found.iter().any(|report| !report.holds()), "{found:?}");
}

/// The form that is hashed, read back from the file, is what the plain conversion makes.
#[test]
fn a_package_holds_the_tensors_of_its_record_in_order() {
    let imported = Imported::new("qwen3", &[("head_dim", json!(16))], |_| ());
    let model = imported.package.model().unwrap();
    let names: Vec<String> = model.weights().tensors().map(|(name, _)| name.to_string()).collect();
    let recorded: Vec<&str> = imported.package.record().tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, recorded);
    let (_, first) = model.weights().tensors().next().unwrap();
    assert!(matches!(first, TensorRef::Matrix(words) if words.rows() == 40));
    assert!(matches!(model.weights().tensors().nth(1), Some((_, TensorRef::Table(cos))) if cos.row(0) == Some(&[1 << 30; 8][..])));
}
