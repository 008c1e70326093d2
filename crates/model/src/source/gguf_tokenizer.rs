//! tokenizer.json from the metadata of a GGUF file, for the byte-level BPE tokenizers whose rules are known.

use serde_json::{Map, Value, json};

use super::{TensorSource as _, gguf::Gguf};
use crate::ModelError;

const LLAMA3: &str =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const QWEN2: &str =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/// Token types of GGUF.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// The tokenizer.json that a file's metadata describes.
///
/// # Errors
/// A kind of tokenizer that is not known: its tokenizer.json must lie beside the file.
pub(super) fn tokenizer_json(gguf: &Gguf) -> Result<Vec<u8>, ModelError> {
    let beside = format!("a tokenizer.json beside {}", gguf.path().display());
    let model = gguf.text("tokenizer.ggml.model").unwrap_or("missing");
    if model != "gpt2" {
        return Err(gguf.refuse("tokenizer.ggml.model", model, &format!("gpt2 (byte-level BPE), or {beside}")));
    }
    let byte_level =
        |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let sequence = |first: Value, second: Value| json!({"type": "Sequence", "pretokenizers": [first, second]});
    let pre = gguf.text("tokenizer.ggml.pre").unwrap_or("missing");
    let (normalizer, pre_tokenizer, ignore_merges) = match pre {
        "llama-bpe" | "llama3" | "llama-v3" => (Value::Null, sequence(split(LLAMA3), byte_level(false)), true),
        "qwen2" => (json!({"type": "NFC"}), sequence(split(QWEN2), byte_level(false)), false),
        "smollm" => (Value::Null, sequence(json!({"type": "Digits", "individual_digits": true}), byte_level(true)), false),
        "gpt-2" => (Value::Null, byte_level(true), false),
        _ => return Err(gguf.refuse("tokenizer.ggml.pre", pre, &format!("llama-bpe, qwen2, smollm or gpt-2, or {beside}"))),
    };
    let (tokens, types) = (gguf.tokens(), gguf.numbers("tokenizer.ggml.token_type"));
    let vocabulary: Map<String, Value> = tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), id.into())).collect();
    let added = tokens.iter().enumerate().zip(&types).filter(|(_, kind)| **kind == CONTROL || **kind == USER_DEFINED);
    let added: Vec<Value> = added
        .map(|((id, token), kind)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": *kind == CONTROL})
        })
        .collect();
    let first = gguf.id("tokenizer.ggml.bos_token_id").filter(|_| gguf.flag("tokenizer.ggml.add_bos_token"));
    let post_processor = match first.and_then(|id| Some((id, tokens.get(id as usize)?))) {
        Some((id, token)) => {
            let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
            let text = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
            json!({
                "type": "TemplateProcessing",
                "single": [special, text("A", 0)],
                "pair": [special, text("A", 0), special, text("B", 1)],
                "special_tokens": {(*token): {"id": token, "ids": [id], "tokens": [token]}},
            })
        }
        None => byte_level(false),
    };
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": ignore_merges,
            "vocab": vocabulary,
            "merges": gguf.texts("tokenizer.ggml.merges"),
        },
    });
    serde_json::to_vec(&json).map_err(ModelError::json(gguf.path()))
}
