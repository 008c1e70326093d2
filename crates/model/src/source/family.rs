//! The families of decoders, and the fields of config.json: which are read, which must have one value, and which say nothing about arithmetic. A
//! field that is in none of these lists is refused.

use super::{Unknown, fields::Fields};
use crate::ModelError;

/// Where decoders differ from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma,
    Phi3,
}

/// Fields of any model that no arithmetic depends on: provenance, training, caching, labels, special ids, and what generation_config.json
/// took over.
pub(super) const NEUTRAL_EVERYWHERE: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "cls_token_id",
    "custom_pipelines",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "keys_to_ignore_at_inference",
    "label2id",
    "length_penalty",
    "mask_token_id",
    "max_length",
    "max_new_tokens",
    "min_length",
    "model_max_length",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
];

/// The same, of decoders.
const NEUTRAL: &[&str] = &[
    "embd_pdrop",
    "ffn_pdrop",
    "hidden_dropout",
    "is_decoder",
    "is_llama_config",
    "max_sequence_length",
    "neftune_noise_alpha",
    "pretraining_tp",
    "resid_pdrop",
    "seq_length",
    "tokenizer_model_max_length",
    "tokenizer_padding_side",
    "unsloth_fixed",
    "unsloth_version",
    "use_flash_attn",
];

/// Fields that must have one value where they stand at all, as JSON.
const FIXED: &[(&str, &str)] = &[
    ("add_cross_attention", "false"),
    ("alibi", "false"),
    ("attention_chunk_size", "null"),
    ("attention_multiplier", "null"),
    ("attn_logit_softcapping", "null"),
    ("clip_qkv", "null"),
    ("compression_config", "null"),
    ("cross_attention_hidden_size", "null"),
    ("dual_chunk_attention_config", "null"),
    ("embedding_multiplier", "1.0"),
    ("final_logit_softcapping", "null"),
    ("is_causal", "true"),
    ("is_encoder_decoder", "false"),
    ("lm_head_bias", "false"),
    ("logit_scale", "1.0"),
    ("logits_scaling", "1.0"),
    ("num_experts", "null"),
    ("num_local_experts", "null"),
    ("pruned_heads", "{}"),
    ("qk_layernorm", "false"),
    ("quantization", "null"),
    ("quantization_config", "null"),
    ("query_pre_attn_scalar", "null"),
    ("residual_multiplier", "1.0"),
    ("rope_interleaved", "false"),
    ("rotary_pct", "1.0"),
    ("scale_depth", "null"),
    ("scale_emb", "1.0"),
    ("use_bidirectional_attention", "false"),
    ("use_mrope", "false"),
    ("use_qk_norm", "false"),
];

/// Fields that a [`super::decoder::DecoderConfig`] is made of, in every family.
const READ: &[&str] = &[
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "partial_rotary_factor",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "vocab_size",
];

impl Family {
    /// `None` if it is not a model type of a decoder.
    pub(super) fn of(model_type: &str) -> Option<Self> {
        Some(match model_type {
            "llama" => Self::Llama,
            "mistral" => Self::Mistral,
            "qwen2" => Self::Qwen2,
            "qwen3" => Self::Qwen3,
            "gemma" => Self::Gemma,
            "phi3" => Self::Phi3,
            _ => return None,
        })
    }

    /// Fields that this family reads and others do not, or that only it has to no effect.
    fn own(self) -> &'static [&'static str] {
        match self {
            Self::Qwen2 | Self::Qwen3 => &["max_window_layers", "use_sliding_window"],
            Self::Gemma => &["hidden_activation"],
            // What longrope starts from, which is refused.
            Self::Phi3 => &["original_max_position_embeddings"],
            // Distilled from Qwen, some have its field.
            Self::Llama => &["max_window_layers"],
            Self::Mistral => &[],
        }
    }

    /// Fields that must have one value in this family.
    fn fixed(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Llama => &[("use_sliding_window", "false")],
            Self::Mistral => &[("attention_bias", "false"), ("mlp_bias", "false")],
            Self::Qwen2 | Self::Qwen3 | Self::Gemma => &[("mlp_bias", "false")],
            Self::Phi3 => &[("attention_bias", "false"), ("mlp_bias", "false"), ("full_attn_mod", "1"), ("interpolate_factor", "1")],
        }
    }

    /// Refuses a field that has another value than the one that is supported; which fields are not known.
    pub(super) fn check(self, fields: &Fields) -> Result<Vec<Unknown>, ModelError> {
        for (name, expected) in FIXED.iter().chain(self.fixed()) {
            fields.fixed(name, expected)?;
        }
        Ok(fields.unknown(&[READ, self.own(), NEUTRAL, NEUTRAL_EVERYWHERE], &[FIXED, self.fixed()]))
    }
}
