//! A model as a Hugging Face folder.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use candle_core::{DType, Device, Tensor, Var};
use serde_json::{Value, json};

use crate::{
    Llama, Shape, TrainError, Vocabulary,
    vocabulary::{CHAT_TEMPLATE, END},
};

/// Writes config.json, generation_config.json, model.safetensors (bf16, as models are published), tokenizer.json and tokenizer_config.json.
///
/// # Errors
/// [`TrainError::Write`], [`TrainError::Tokenizer`], [`TrainError::Tensor`].
pub fn save(folder: &Path, model: &Llama, vocabulary: &Vocabulary) -> Result<(), TrainError> {
    let mut config = serde_json::to_value(&model.shape).map_err(|source| TrainError::Json { path: folder.join("config.json"), source })?;
    for (key, value) in [
        ("architectures", json!(["LlamaForCausalLM"])),
        ("model_type", json!("llama")),
        ("hidden_act", json!("silu")),
        ("head_dim", json!(model.shape.hidden_size / model.shape.num_attention_heads)),
        ("attention_bias", json!(false)),
        ("mlp_bias", json!(false)),
        ("tie_word_embeddings", json!(true)),
        ("rope_scaling", Value::Null),
        ("bos_token_id", Value::Null),
        ("eos_token_id", json!(END)),
        ("pad_token_id", json!(END)),
        ("torch_dtype", json!("bfloat16")),
    ] {
        config[key] = value;
    }
    let generation = json!({ "eos_token_id": END, "pad_token_id": END, "do_sample": false, "max_new_tokens": 96 });
    let tokenizer = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.shape.max_position_embeddings, "eos_token": "<|end|>",
        "pad_token": "<|end|>", "add_bos_token": false, "add_eos_token": false, "clean_up_tokenization_spaces": false,
        "chat_template": CHAT_TEMPLATE,
    });
    std::fs::create_dir_all(folder).map_err(|source| TrainError::Write { path: folder.to_owned(), source })?;
    for (name, text) in [
        ("config.json", format!("{config:#}\n")),
        ("generation_config.json", format!("{generation:#}\n")),
        ("tokenizer_config.json", format!("{tokenizer:#}\n")),
        ("tokenizer.json", vocabulary.to_json()?),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|source| TrainError::Write { path, source })?;
    }
    let rounded = |(name, var): (&String, &Var)| Ok::<_, TrainError>((name.clone(), var.to_dtype(DType::BF16)?));
    let weights: HashMap<_, _> = model.weights.iter().map(rounded).collect::<Result<_, _>>()?;
    Ok(candle_core::safetensors::save(&weights, folder.join("model.safetensors"))?)
}

/// Reads what [`save`] wrote.
///
/// # Errors
/// [`TrainError::Read`], [`TrainError::Json`], [`TrainError::Tokenizer`], [`TrainError::Tensor`].
pub fn load(folder: &Path) -> Result<(Llama, Vocabulary), TrainError> {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(|source| TrainError::Read { path: path.clone(), source })?;
    let shape: Shape = serde_json::from_str(&text).map_err(|source| TrainError::Json { path, source })?;
    let weights: BTreeMap<String, Tensor> =
        candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu)?.into_iter().collect();
    Ok((Llama::from_weights(shape, &weights)?, Vocabulary::open(&folder.join("tokenizer.json"))?))
}
