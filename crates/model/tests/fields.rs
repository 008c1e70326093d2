//! Which fields and tensors of a decoder's checkpoint are taken, and which are refused by name because they may change the arithmetic.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;

use fixture::{Tensors, Type, decoder as folder_of};
use quern_model::{ImportOptions, ModelError, Package};
use serde_json::{Value, json};
use tempfile::TempDir;

fn import(config: &Value, tensors: &Tensors, ignore: &[&str]) -> Result<Package, ModelError> {
    let folder = TempDir::new().unwrap();
    folder_of::write_folder(folder.path(), config, tensors, Type::F32);
    let options = ImportOptions { ignore: ignore.iter().map(|name| (*name).to_owned()).collect(), ..ImportOptions::default() };
    let out = folder.path().join("out");
    let imported = Package::import_with(folder.path(), &out, &options, &mut |_| true);
    assert_eq!(out.exists(), imported.is_ok());
    imported
}

fn refused(model_type: &str, changes: &[(&str, Value)]) -> String {
    let config = folder_of::config(model_type, changes);
    // Weights of the plain model: nothing is read of them.
    import(&config, &folder_of::tensors(&folder_of::config("llama", &[])), &[]).expect_err("other arithmetic").to_string()
}

#[test]
fn configurations_of_other_arithmetic_are_refused_by_field() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0});
    let extra = json!({"rope_type": "linear", "factor": 4.0, "attention_factor": 2.0});
    let upside = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0, "original_max_position_embeddings": 16});
    let longrope = json!({"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]});
    let cases = [
        ("llama", "model_type", json!("gemma2"), "qwen3"),
        ("llama", "model_type", json!("gemma3_text"), "gemma"),
        ("llama", "model_type", json!("phi"), "phi3"),
        ("llama", "model_type", json!("mixtral"), "mistral"),
        ("llama", "hidden_act", json!("gelu"), "silu"),
        ("llama", "rope_scaling", yarn, "llama3"),
        ("llama", "rope_scaling", extra, "attention_factor"),
        ("llama", "rope_scaling", upside, "more than low_freq_factor"),
        ("llama", "rope_scaling", json!({"rope_type": "linear", "factor": 0.5}), "from 1"),
        ("llama", "rope_theta", json!("big"), "from 1"),
        ("llama", "sliding_window", json!(5), "null"),
        ("llama", "use_sliding_window", json!(true), "false"),
        ("llama", "quantization_config", json!({"bits": 4}), "null"),
        ("llama", "partial_rotary_factor", json!(0.5), "1.0"),
        ("llama", "rotary_pct", json!(0.25), "1.0"),
        ("llama", "final_logit_softcapping", json!(30.0), "null"),
        ("llama", "attn_logit_softcapping", json!(50.0), "null"),
        ("llama", "attention_bias", json!("yes"), "true or false"),
        ("llama", "num_key_value_heads", json!(0), "1 to 2^24"),
        ("llama", "head_dim", json!(-1), "1 to 2^24"),
        ("llama", "rms_norm_eps", json!(10), "below 10"),
        ("llama", "attention_chunk_size", json!(8192), "null"),
        ("llama", "clip_qkv", json!(8.0), "null"),
        ("llama", "logit_scale", json!(0.0625), "1.0"),
        ("llama", "qk_layernorm", json!(true), "false"),
        ("llama", "scale_emb", json!(12), "1.0"),
        ("llama", "num_local_experts", json!(8), "null"),
        ("mistral", "attention_bias", json!(true), "false"),
        ("qwen2", "is_causal", json!(false), "true"),
        ("qwen2", "dual_chunk_attention_config", json!({"chunk_size": 262_144}), "null"),
        ("qwen2", "use_mrope", json!(true), "false"),
        ("qwen2", "max_window_layers", json!(1), "all layers"),
        ("qwen3", "layer_types", json!(["full_attention", "sliding_attention"]), "all layers"),
        ("qwen3", "layer_types", json!(["linear_attention", "full_attention"]), "full_attention"),
        ("qwen2", "num_key_value_heads", json!(null), "whole number"),
        ("gemma", "hidden_activation", json!("gelu"), "gelu_pytorch_tanh"),
        ("gemma", "use_bidirectional_attention", json!(true), "false"),
        ("gemma", "query_pre_attn_scalar", json!(256), "null"),
        ("gemma", "sliding_window", json!(5), "null"),
        ("gemma", "mlp_bias", json!(true), "false"),
        ("phi3", "rope_scaling", longrope, "llama3"),
        ("phi3", "attention_bias", json!(true), "false"),
        ("phi3", "partial_rotary_factor", json!(0.3), "even"),
        ("phi3", "partial_rotary_factor", json!(1.5), "even"),
        ("phi3", "lm_head_bias", json!(true), "false"),
    ];
    for (model_type, name, value, expected) in cases {
        let window = [("use_sliding_window", json!(true)), ("sliding_window", json!(5))];
        let window = if name == "max_window_layers" { &window[..] } else { &[] };
        let error = refused(model_type, &[window, &[(name, value.clone())]].concat());
        assert!(error.contains("config.json") && error.contains(name) && error.contains(expected), "{name} = {value}: {error}");
    }
    // kv heads that do not divide the heads: the header's bounds.
    let error = refused("llama", &[("num_key_value_heads", json!(3))]);
    assert!(error.contains("kv heads"), "{error}");
}

#[test]
fn fields_that_nobody_knows_are_refused_by_name() {
    let cases = [
        ("llama", "novel_trick", json!(true)),
        ("llama", "hidden_activation", json!("gelu_pytorch_tanh")),
        ("llama", "original_max_position_embeddings", json!(16)),
        ("mistral", "use_sliding_window", json!(false)),
        ("qwen3", "mup_width_multiplier", json!(2.0)),
        ("gemma", "sliding_window_pattern", json!(6)),
        ("phi3", "blocksparse_block_size", json!(64)),
    ];
    for (model_type, name, value) in cases {
        let error = refused(model_type, &[(name, value.clone())]);
        assert!(error.contains(&format!("field {name} is {value}")) && error.contains(&format!("--ignore {name}")), "{error}");
    }
}

#[test]
fn a_rotation_that_is_told_twice_is_refused() {
    let parameters = json!({"rope_theta": 1e4, "rope_type": "default"});
    let error = refused("llama", &[("rope_parameters", parameters.clone()), ("rope_scaling", json!({"type": "linear", "factor": 2.0}))]);
    assert!(error.contains("field rope_scaling") && error.contains("beside rope_parameters"), "{error}");
    let error = refused("llama", &[("rope_parameters", parameters), ("rope_theta", json!(5000.0))]);
    assert!(error.contains("field rope_theta is 5000.0"), "{error}");
    let parameters = json!({"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5});
    let error = refused("llama", &[("rope_parameters", parameters)]);
    assert!(error.contains("rope_parameters.partial_rotary_factor"), "{error}");
}

#[test]
fn tensors_that_would_not_be_used_are_refused_by_name() {
    let cases = [
        ("llama", "model.layers.0.self_attn.q_proj.bias"),
        ("llama", "model.layers.1.self_attn.q_norm.weight"),
        ("llama", "model.layers.2.mlp.up_proj.weight"),
        ("llama", "model.layers.0.mlp.experts.0.up_proj.weight"),
        ("llama", "lm_head.bias"),
        ("qwen2", "model.layers.0.self_attn.o_proj.bias"),
        ("gemma", "model.layers.0.pre_feedforward_layernorm.weight"),
        ("phi3", "model.layers.0.self_attn.q_proj.weight"),
    ];
    for (model_type, name) in cases {
        let config = folder_of::config(model_type, &[("head_dim", json!(12))]);
        let mut tensors = folder_of::tensors(&config);
        tensors.insert(name.to_owned(), (vec![48], vec![0.5; 48]));
        let error = import(&config, &tensors, &[]).expect_err("another model");
        assert!(matches!(&error, ModelError::UnknownTensor { tensor, .. } if tensor == name), "{error}");
        assert!(error.to_string().contains(&format!("--ignore {name}")), "{error}");
    }
    // Stored frequencies, and a stored copy of a tied head, say nothing new.
    let config = folder_of::config("llama", &[("tie_word_embeddings", json!(true))]);
    let mut tensors = folder_of::tensors(&config);
    tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), (vec![6], vec![1.0; 6]));
    tensors.insert("lm_head.weight".to_owned(), tensors["model.embed_tokens.weight"].clone());
    let package = import(&config, &tensors, &[]).unwrap();
    assert!(package.record().notes.is_empty(), "{:?}", package.record().notes);
}

#[test]
fn what_is_to_be_ignored_is_noted_and_nothing_else_is_let_through() {
    let config = folder_of::config("llama", &[]);
    let plain = import(&config, &folder_of::tensors(&config), &["novel_trick"]).unwrap();
    assert!(plain.record().notes.is_empty());

    let config = folder_of::config("llama", &[("novel_trick", json!(true)), ("other_trick", json!(null))]);
    let mut tensors = folder_of::tensors(&config);
    tensors.insert("lm_head.bias".to_owned(), (vec![1], vec![0.0]));
    let package = import(&config, &tensors, &["novel_trick", "lm_head.bias"]).unwrap();
    assert_eq!(package.root(), plain.root());
    let notes = &package.record().notes;
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("novel_trick (true)") && notes[1].contains("lm_head.bias"), "{notes:?}");

    assert!(matches!(import(&config, &tensors, &["novel_trick"]), Err(ModelError::UnknownTensor { .. })));
    // What is known to change the arithmetic stays refused.
    let config = folder_of::config("llama", &[("is_causal", json!(false))]);
    assert!(matches!(import(&config, &folder_of::tensors(&config), &["is_causal"]), Err(ModelError::Field { .. })));
}

/// The fields that published configurations have beside those of the fixture, with the values that they have there.
#[test]
fn configurations_as_they_are_published_import_without_a_note() {
    let smollm2 = json!({
        "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1, "initializer_range": 0.041_666_666_666_666_664, "is_llama_config": true,
        "mlp_bias": false, "pad_token_id": 2, "pretraining_tp": 1, "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100_000,
        "tie_word_embeddings": true, "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "transformers_version": "4.42.3",
        "use_cache": true,
    });
    let llama3 = json!({
        "attention_bias": false, "attention_dropout": 0.0, "eos_token_id": [3, 1, 2], "head_dim": 12, "initializer_range": 0.02, "mlp_bias": false,
        "pretraining_tp": 1, "rope_theta": 500_000.0, "tie_word_embeddings": true, "transformers_version": "4.45.0.dev0", "use_cache": true,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "unsloth_fixed": true, "_attn_implementation_autoset": true,
    });
    let llama2 = json!({"_name_or_path": "x", "max_sequence_length": 64, "pad_token_id": 0, "rope_scaling": null, "use_cache": false});
    let mistral = json!({
        "attention_dropout": 0.0, "head_dim": null, "initializer_range": 0.02, "sliding_window": 16, "transformers_version": "4.42.0.dev0", "use_cache": true,
    });
    let qwen = json!({
        "attention_dropout": 0.0, "initializer_range": 0.02, "max_window_layers": 2, "rope_theta": 1_000_000.0, "sliding_window": 32_768,
        "tie_word_embeddings": true, "transformers_version": "4.43.1", "use_cache": true, "use_mrope": false, "use_sliding_window": false,
    });
    let qwen3 = json!({
        "attention_bias": false, "attention_dropout": 0.0, "head_dim": 16, "initializer_range": 0.02, "max_window_layers": 2, "rope_scaling": null,
        "rope_theta": 1_000_000, "sliding_window": null, "use_sliding_window": false, "transformers_version": "4.51.0", "use_cache": true,
    });
    let gemma = json!({
        "attention_bias": false, "attention_dropout": 0.0, "head_dim": 16, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": null,
        "initializer_range": 0.02, "pad_token_id": 0, "rope_scaling": null, "transformers_version": "4.38.0.dev0", "use_cache": true,
    });
    let phi3 = json!({
        "_name_or_path": "x", "attention_bias": false, "attention_dropout": 0.0, "auto_map": {"AutoConfig": "x"}, "embd_pdrop": 0.0,
        "initializer_range": 0.02, "original_max_position_embeddings": 64, "pad_token_id": 0, "resid_pdrop": 0.0, "rope_scaling": null,
        "sliding_window": 31, "transformers_version": "4.40.2", "use_cache": true,
    });
    // As transformers 5 writes them.
    let newer = json!({
        "dtype": "bfloat16", "layer_types": ["full_attention", "full_attention"], "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"},
        "partial_rotary_factor": 1, "use_bidirectional_attention": null,
    });
    let published = [
        ("llama", smollm2),
        ("llama", llama3),
        ("llama", llama2),
        ("llama", newer),
        ("mistral", mistral),
        ("qwen2", qwen),
        ("qwen3", qwen3),
        ("gemma", gemma),
        ("phi3", phi3),
    ];
    for (model_type, fields) in published {
        let changes: Vec<_> = fields.as_object().unwrap().iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let config = folder_of::config(model_type, &changes);
        let package = import(&config, &folder_of::tensors(&config), &[]).unwrap();
        assert!(package.record().notes.is_empty(), "{model_type}: {:?}", package.record().notes);
    }
}

/// The first checkpoints name the activation that they were not trained with.
#[test]
fn an_old_gemma_is_taken_with_the_activation_of_its_training_and_a_note() {
    let of = |changes: &[(&str, Value)]| {
        let config = folder_of::config("gemma", &[&[("head_dim", json!(16))], changes].concat());
        import(&config, &folder_of::tensors(&config), &[]).unwrap()
    };
    let (old, new) = (of(&[("hidden_act", json!("gelu")), ("hidden_activation", json!(null))]), of(&[]));
    assert_eq!(old.root(), new.root());
    assert!(old.record().notes.iter().any(|note| note.contains("gelu_pytorch_tanh")), "{:?}", old.record().notes);
    let header = new.header();
    // sqrt(48) in Q14, GELU (tanh), tied.
    assert_eq!((header.embedding_scale, header.activation, header.flags), (113_512, 2, 0b101_0001));
}
