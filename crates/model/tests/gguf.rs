//! GGUF files: the same package as the folder that they were made of, and their own errors.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value},
    },
};
use fixture::{Tensors, Type, WORDS, decoder as folder_of};
use quern_model::{DecoderReference, ModelError, Package};
use serde_json::json;
use tempfile::TempDir;

/// As llama.cpp's converter names and orders tensors: rows of llama's queries and keys pair by pair.
fn stored(architecture: &str, tensors: &Tensors, heads: usize, kv_heads: usize) -> Tensors {
    let rename = |name: &str| {
        let name = name.strip_prefix("model.").unwrap_or(name);
        [
            ("embed_tokens", "token_embd"),
            ("lm_head", "output"),
            ("layers.", "blk."),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("self_attn.q_norm", "attn_q_norm"),
            ("self_attn.k_norm", "attn_k_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("input_layernorm", "attn_norm"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ]
        .iter()
        .fold(if name.starts_with("norm.") { format!("output_{name}") } else { name.to_owned() }, |name, (from, to)| name.replace(from, to))
    };
    let permute = |heads: usize, (shape, values): &(Vec<usize>, Vec<f32>)| {
        let width = values.len() / shape[0];
        let half = shape[0] / heads / 2;
        // reshape(heads, 2, half, width).swapaxes(1, 2), as the converter writes it.
        let mut out = Vec::with_capacity(values.len());
        for head in 0..heads {
            for j in 0..half {
                for t in 0..2 {
                    let row = head * 2 * half + t * half + j;
                    out.extend_from_slice(&values[row * width..(row + 1) * width]);
                }
            }
        }
        (shape.clone(), out)
    };
    let order = |name: &str, tensor: &(Vec<usize>, Vec<f32>)| match () {
        // Whole gains.
        () if architecture == "gemma" && name.ends_with("norm.weight") => {
            (tensor.0.clone(), tensor.1.iter().map(|gain| 1.0 + gain).collect())
        }
        () if architecture == "llama" && name.contains(".q_proj.") => permute(heads, tensor),
        () if architecture == "llama" && name.contains(".k_proj.") => permute(kv_heads, tensor),
        () => tensor.clone(),
    };
    tensors.iter().map(|(name, tensor)| (rename(name), order(name, tensor))).collect()
}

fn metadata(architecture: &str, tokenizer: &str) -> Vec<(String, Value)> {
    let texts = |texts: &[&str]| Value::Array(texts.iter().map(|text| Value::String((*text).to_owned())).collect());
    let field = |name: &str, value: Value| (format!("{architecture}.{name}"), value);
    vec![
        ("general.architecture".to_owned(), Value::String(architecture.to_owned())),
        field("block_count", Value::U32(2)),
        field("embedding_length", Value::U32(48)),
        field("feed_forward_length", Value::U32(160)),
        field("context_length", Value::U32(64)),
        field("attention.head_count", Value::U32(4)),
        field("attention.head_count_kv", Value::U32(2)),
        field("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        field("rope.freq_base", Value::F32(10_000.0)),
        ("tokenizer.ggml.model".to_owned(), Value::String(tokenizer.to_owned())),
        ("tokenizer.ggml.pre".to_owned(), Value::String("gpt-2".to_owned())),
        ("tokenizer.ggml.tokens".to_owned(), texts(&WORDS)),
        ("tokenizer.ggml.merges".to_owned(), texts(&[])),
        ("tokenizer.ggml.token_type".to_owned(), Value::Array((0..40).map(|id| Value::I32(if id < 4 { 3 } else { 1 })).collect())),
        ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(2)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(3)),
        ("tokenizer.ggml.add_bos_token".to_owned(), Value::Bool(true)),
        ("tokenizer.chat_template".to_owned(), Value::String(folder_of::TEMPLATE.to_owned())),
    ]
}

fn write(path: &Path, metadata: &[(String, Value)], tensors: &Tensors, kind: impl Fn(&str) -> GgmlDType) {
    let tensors: Vec<(String, QTensor)> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            let tensor = Tensor::from_vec(values.clone(), shape.as_slice(), &Device::Cpu).unwrap();
            (name.clone(), QTensor::quantize(&tensor, kind(name)).unwrap())
        })
        .collect();
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(name, value)| (name.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

struct Pair {
    folder: TempDir,
    tensors: Tensors,
}

impl Pair {
    /// A folder with a tokenizer.json, to put GGUF files into.
    fn new(model_type: &str, changes: &[(&str, serde_json::Value)]) -> Self {
        let folder = TempDir::new().unwrap();
        let config = folder_of::config(model_type, changes);
        let mut tensors = folder_of::tensors(&config);
        for (_, values) in tensors.values_mut() {
            for value in values {
                *value = (*value * 64.0).round().clamp(-127.0, 127.0) / 64.0;
            }
        }
        folder_of::write_folder(folder.path(), &config, &tensors, Type::F32);
        Self { folder, tensors }
    }

    fn gguf(&self) -> PathBuf {
        self.folder.path().join("m.gguf")
    }

    fn import(&self, from: &Path, name: &str) -> Result<Package, ModelError> {
        Package::import(from, &self.folder.path().join(name), false)
    }
}

fn matrices(kind: GgmlDType) -> impl Fn(&str) -> GgmlDType {
    move |name| if name.contains("norm") || name.ends_with(".bias") { GgmlDType::F32 } else { kind }
}

/// The stop ids differ (a file has one), so the weights are compared, not the packages.
#[test]
fn floats_of_a_file_are_those_of_the_folder_it_was_made_of() {
    for (architecture, changes) in
        [("llama", vec![]), ("qwen2", vec![]), ("qwen3", vec![("tie_word_embeddings", json!(true))]), ("gemma", vec![])]
    {
        let pair = Pair::new(architecture, &[&changes[..], &[("head_dim", json!(12))]].concat());
        let expected = pair.import(pair.folder.path(), "folder").unwrap();
        for (at, kind) in [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16].into_iter().enumerate() {
            write(&pair.gguf(), &metadata(architecture, "gpt2"), &stored(architecture, &pair.tensors, 4, 2), matrices(kind));
            let found = pair.import(&pair.gguf(), &format!("gguf{at}")).unwrap();
            assert_eq!(found.record().weights_root, expected.record().weights_root, "{architecture} {kind:?}");
            let arithmetic = |package: &Package| {
                let header = package.header();
                [header.flags, header.activation, header.embedding_scale, header.rotary_dims]
            };
            assert_eq!(arithmetic(&found), arithmetic(&expected), "{architecture}");
            assert_eq!(found.header().stop_ids[..2], [3, u32::MAX]);
            assert!(found.record().notes.is_empty(), "{:?}", found.record().notes);
        }
    }
}

#[test]
fn quantised_files_import_as_what_candle_dequantises_them_to() {
    // Rows of whole blocks of 256.
    let folder = TempDir::new().unwrap();
    let mut tensors = Tensors::new();
    let mut generator = fixture::Generator(5);
    let mut add = |name: &str, shape: Vec<usize>, centre: f32| {
        let values = (0..shape.iter().product())
            .map(|_| centre + (f32::from(u16::try_from(generator.next() >> 48).unwrap()) / 65_536.0 - 0.5) * 0.4);
        tensors.insert(name.to_owned(), (shape.clone(), values.collect()));
    };
    add("token_embd.weight", vec![40, 256], 0.0);
    add("output_norm.weight", vec![256], 1.0);
    for name in ["attn_norm", "ffn_norm"] {
        add(&format!("blk.0.{name}.weight"), vec![256], 1.0);
    }
    for (name, rows) in [("attn_q", 256), ("attn_k", 128), ("attn_v", 128), ("attn_output", 256), ("ffn_gate", 512), ("ffn_up", 512)] {
        add(&format!("blk.0.{name}.weight"), vec![rows, 256], 0.0);
    }
    add("blk.0.ffn_down.weight", vec![256, 512], 0.0);
    let mut fields = metadata("llama", "gpt2");
    for (name, value) in [("block_count", 1), ("embedding_length", 256), ("feed_forward_length", 512)] {
        fields.iter_mut().find(|(field, _)| field.ends_with(name)).unwrap().1 = Value::U32(value);
    }
    let path = folder.path().join("m.gguf");
    for (at, kind) in [GgmlDType::Q8_0, GgmlDType::Q4_0, GgmlDType::Q4K, GgmlDType::Q6K].into_iter().enumerate() {
        write(&path, &fields, &tensors, matrices(kind));
        let package = Package::import(&path, &folder.path().join(format!("out{at}")), false).unwrap();
        // One row against the file's own numbers: off by half a step of eight bits at most.
        let matrix = Tensor::from_vec(tensors["blk.0.ffn_up.weight"].1.clone(), (512, 256), &Device::Cpu).unwrap();
        let file: Vec<f32> =
            QTensor::quantize(&matrix, kind).unwrap().dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let model = package.model().unwrap();
        let up = &model.weights().layers[0].up;
        for (row, expected) in up.iter_rows().zip(file.chunks(256)) {
            for (k, expected) in expected.iter().enumerate() {
                let step = f64::from(row.mantissas[k / 128]) / 2f64.powi(i32::from(row.shift));
                let found = f64::from(row.weights[k]) * step;
                assert!((found - f64::from(*expected)).abs() <= 0.5001 * step, "{kind:?}: {found} for {expected}");
            }
        }
        assert!(DecoderReference::open(&path).unwrap().rows(&[2, 5, 7]).is_ok());
    }
}

#[test]
fn a_tokenizer_is_made_of_the_metadata_where_its_rules_are_known() {
    let pair = Pair::new("llama", &[]);
    let alone = TempDir::new().unwrap();
    let path = alone.path().join("m.gguf");
    let stored = stored("llama", &pair.tensors, 4, 2);
    write(&path, &metadata("llama", "gpt2"), &stored, |_| GgmlDType::F32);
    let package = Package::import(&path, &alone.path().join("out"), false).unwrap();
    assert_eq!(package.tokenizer().encode("ab").unwrap(), [2, 12, 13]);
    assert_eq!(package.tokenizer().encode_prompt("[SEP]ab").unwrap(), [3, 12, 13]);
    assert_eq!(package.header().prefix_id, 2);
    assert!(package.chat_template().unwrap().is_some());

    write(&path, &metadata("llama", "llama"), &stored, |_| GgmlDType::F32);
    let error = Package::import(&path, &alone.path().join("other"), false).unwrap_err().to_string();
    assert!(error.contains("tokenizer.ggml.model") && error.contains("tokenizer.json beside"), "{error}");
}

#[test]
fn files_of_other_arithmetic_and_broken_ones_are_refused() {
    let pair = Pair::new("llama", &[]);
    let tensors = stored("llama", &pair.tensors, 4, 2);
    let cases: [(&str, Value, &str); 18] = [
        ("general.architecture", Value::String("gemma2".to_owned()), "qwen3"),
        ("llama.rope.scaling.type", Value::String("yarn".to_owned()), "linear"),
        ("llama.expert_count", Value::U32(8), "0"),
        ("llama.expert_used_count", Value::U32(2), "0"),
        ("llama.rope.dimension_count", Value::U32(6), "12"),
        ("llama.block_count", Value::U32(0), "1 to 2^24"),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN), "below 10"),
        ("llama.embedding_length", Value::String("wide".to_owned()), "whole number"),
        ("llama.attention.causal", Value::Bool(false), "true"),
        ("llama.rope.scaling.factor", Value::F32(0.5), "from 1"),
        // Not known, so they may change the arithmetic; these do.
        ("llama.rope.scale_linear", Value::F32(2.0), "--ignore llama.rope.scale_linear"),
        ("llama.rope.scaling.attn_factor", Value::F32(1.2), "does not know"),
        ("llama.attention.scale", Value::F32(0.1), "does not know"),
        ("llama.logit_scale", Value::F32(0.5), "does not know"),
        ("llama.attention.clamp_kqv", Value::F32(8.0), "does not know"),
        ("llama.attn_logit_softcapping", Value::F32(50.0), "does not know"),
        ("llama.final_logit_softcapping", Value::F32(30.0), "does not know"),
        ("llama.pooling_type", Value::U32(3), "does not know"),
    ];
    for (name, value, expected) in cases {
        let mut fields = metadata("llama", "gpt2");
        fields.retain(|(field, _)| field != name);
        fields.push((name.to_owned(), value));
        write(&pair.gguf(), &fields, &tensors, |_| GgmlDType::F32);
        let error = pair.import(&pair.gguf(), "out").expect_err("other arithmetic").to_string();
        assert!(error.contains(name) && error.contains(expected), "{name}: {error}");
    }
    // Fields of other architectures and of nobody say nothing.
    let fields = [
        metadata("llama", "gpt2"),
        vec![("qwen2.logit_scale".to_owned(), Value::F32(0.5)), ("llama.attention.causal".to_owned(), Value::Bool(true))],
    ];
    write(&pair.gguf(), &fields.concat(), &tensors, |_| GgmlDType::F32);
    assert!(pair.import(&pair.gguf(), "taken").is_ok());

    write(&pair.gguf(), &metadata("llama", "gpt2"), &tensors, |_| GgmlDType::F32);
    let whole = fs::read(pair.gguf()).unwrap();
    for length in [0, 3, 100, whole.len() / 2] {
        fs::write(pair.gguf(), &whole[..length]).unwrap();
        let error = pair.import(&pair.gguf(), "out").expect_err("a truncated file");
        assert!(matches!(error, ModelError::Gguf { .. } | ModelError::Read { .. }), "{length}: {error}");
    }
    for alignment in [Value::U32(0), Value::U8(0), Value::I32(0)] {
        let mut fields = metadata("llama", "gpt2");
        fields.push(("general.alignment".to_owned(), alignment));
        write(&pair.gguf(), &fields, &tensors, |_| GgmlDType::F32);
        let error = pair.import(&pair.gguf(), "out").expect_err("an alignment that an enemy set to 0");
        assert!(matches!(error, ModelError::Gguf { .. }), "{error}");
    }
    // The offset of an enemy's tensor, which stands behind its name, dimensions and type.
    let name = b"blk.1.ffn_up.weight";
    let at = whole.windows(name.len()).position(|window| window == name).unwrap() + name.len();
    let dims = u32::from_le_bytes(whole[at..at + 4].try_into().unwrap()) as usize;
    let offset = at + 4 + 8 * dims + 4;
    for beyond in [u64::MAX, u64::MAX / 2, whole.len() as u64] {
        let mut bytes = whole.clone();
        bytes[offset..offset + 8].copy_from_slice(&beyond.to_le_bytes());
        fs::write(pair.gguf(), bytes).unwrap();
        let error = pair.import(&pair.gguf(), "out").expect_err("a tensor beyond the file").to_string();
        assert!(error.contains("beyond the end of the file"), "{beyond}: {error}");
    }
    for name in ["blk.0.attn_q_norm.weight", "blk.1.attn_q.bias", "output.bias"] {
        let mut more = tensors.clone();
        more.insert(name.to_owned(), (vec![48], vec![0.5; 48]));
        write(&pair.gguf(), &metadata("llama", "gpt2"), &more, |_| GgmlDType::F32);
        let error = pair.import(&pair.gguf(), "out").unwrap_err();
        assert!(matches!(&error, ModelError::UnknownTensor { tensor, .. } if tensor == name), "{error}");
    }
    let mut missing = tensors;
    missing.remove("blk.1.ffn_up.weight");
    write(&pair.gguf(), &metadata("llama", "gpt2"), &missing, |_| GgmlDType::F32);
    let error = pair.import(&pair.gguf(), "out").unwrap_err();
    assert!(matches!(&error, ModelError::MissingTensor { tensor, .. } if tensor == "blk.1.ffn_up.weight"), "{error}");
}

/// As llama.cpp reads it: linear where no type is said, nothing where the type is "none", and one kind only.
#[test]
fn a_factor_without_a_type_scales_linearly() {
    let pair = Pair::new("llama", &[("rope_scaling", json!({"type": "linear", "factor": 2.5}))]);
    let plain = Pair::new("llama", &[]);
    let [scaled, unscaled] = [&pair, &plain].map(|pair| pair.import(pair.folder.path(), "folder").unwrap().record().weights_root);
    let mut tensors = stored("llama", &pair.tensors, 4, 2);
    let kind = |text: &str| ("llama.rope.scaling.type".to_owned(), Value::String(text.to_owned()));
    let factor = |factor: f32| ("llama.rope.scaling.factor".to_owned(), Value::F32(factor));
    let cases = [
        (vec![factor(2.5)], scaled),
        (vec![factor(2.5), kind("linear")], scaled),
        (vec![factor(2.5), kind("none")], unscaled),
        (vec![factor(1.0)], unscaled),
        (vec![kind("linear")], unscaled),
        (vec![kind("none")], unscaled),
    ];
    for (at, (fields, expected)) in cases.into_iter().enumerate() {
        write(&pair.gguf(), &[metadata("llama", "gpt2"), fields].concat(), &tensors, |_| GgmlDType::F32);
        let found = pair.import(&pair.gguf(), &format!("out{at}")).unwrap();
        assert_eq!(found.record().weights_root, expected, "case {at}");
    }

    tensors.insert("rope_freqs.weight".to_owned(), (vec![6], vec![1.0, 1.0, 1.5, 2.0, 4.0, 8.0]));
    write(&pair.gguf(), &metadata("llama", "gpt2"), &tensors, |_| GgmlDType::F32);
    let found = pair.import(&pair.gguf(), "divided").unwrap().record().weights_root;
    assert!(found != scaled && found != unscaled);
    write(&pair.gguf(), &[metadata("llama", "gpt2"), vec![factor(2.5)]].concat(), &tensors, |_| GgmlDType::F32);
    let error = pair.import(&pair.gguf(), "both").unwrap_err().to_string();
    assert!(error.contains("rope.scaling.factor") && error.contains("rope_freqs.weight"), "{error}");
}
