//! config.json of a Llama-like decoder: which arithmetic a folder asks for, and under which names its tensors lie.

use std::{collections::BTreeSet, path::Path};

use super::{
    Chat, Rope, SafeTensors, TensorSource,
    fields::{Fields, Reader},
    gguf::Gguf,
    gguf_tokenizer::tokenizer_json,
    tensors::sha256_file,
};
use crate::{
    ModelError,
    convert::{Decimal, attention_scale, norm_epsilon},
};
use quern_exact::{
    bounds,
    header::{self, Header, flag},
    layout::{LayerTensor, TensorName},
};

/// Fields of config.json that no arithmetic depends on: provenance, training, caching, labels.
const NEUTRAL: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "finetuning_task",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "pretraining_tp",
    "problem_type",
    "resid_pdrop",
    "return_dict",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

/// Fields that must have one value where they stand at all, as JSON.
const FIXED: &[(&str, &str)] = &[
    ("add_cross_attention", "false"),
    ("attention_multiplier", "null"),
    ("attn_logit_softcapping", "null"),
    ("embedding_multiplier", "null"),
    ("final_logit_softcapping", "null"),
    ("is_decoder", "true"),
    ("is_encoder_decoder", "false"),
    ("logits_scaling", "null"),
    ("num_experts", "null"),
    ("num_local_experts", "null"),
    ("partial_rotary_factor", "1.0"),
    ("pruned_heads", "{}"),
    ("quantization_config", "null"),
    ("residual_multiplier", "null"),
    ("rope_interleaved", "false"),
];

/// Fields that [`DecoderConfig`] is made of.
const READ: &[&str] = &[
    "attention_bias",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
];

/// Where the families differ from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

/// What a decoder's configuration says, checked; the same from config.json and from GGUF.
#[derive(Clone, Debug)]
pub(crate) struct DecoderConfig {
    pub(crate) vocabulary: u32,
    pub(crate) dim: u32,
    pub(crate) layers: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) ffn: u32,
    /// As the checkpoint says it; more than the profile's is cut.
    pub(crate) context: u32,
    /// 0 is none.
    pub(crate) window: u32,
    pub(crate) eps: Decimal,
    pub(crate) eps_text: String,
    pub(crate) qkv_bias: bool,
    pub(crate) output_bias: bool,
    pub(crate) ffn_bias: bool,
    pub(crate) qk_norm: bool,
    pub(crate) tied: bool,
    pub(crate) rope: Rope,
    pub(crate) stop_ids: Vec<u32>,
    pub(crate) padding_id: Option<u32>,
    /// What a person should know: assumptions made, fields not known.
    pub(crate) notes: Vec<String>,
}

impl DecoderConfig {
    fn read(reader: &mut Reader<'_>, fields: &Fields) -> Result<Self, ModelError> {
        let family = match fields.text("model_type", &super::MODEL_TYPES)? {
            "mistral" => Family::Mistral,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            _ => Family::Llama,
        };
        fields.text("hidden_act", &["silu"])?;
        for (name, expected) in FIXED {
            // Numbers are written as 1 or 1.0.
            if !(*expected == "1.0" && fields.raw(name) == Some("1")) {
                fields.fixed(name, expected)?;
            }
        }
        let (dim, heads) = (fields.count("hidden_size")?, fields.count("num_attention_heads")?);
        let head_dim = match fields.optional_count("head_dim")? {
            Some(head_dim) => head_dim,
            None if family == Family::Qwen3 => 128,
            None if dim.is_multiple_of(heads) => dim / heads,
            None => return Err(fields.refuse("num_attention_heads", heads, format!("a divisor of hidden_size {dim}, or a head_dim"))),
        };
        let layers = fields.count("num_hidden_layers")?;
        let context = fields.count("max_position_embeddings")?;
        let attention_bias = fields.flag("attention_bias", false)?;
        if family == Family::Mistral && attention_bias {
            return Err(fields.refuse("attention_bias", "true", "false: this family has none"));
        }
        let ffn_bias = fields.flag("mlp_bias", false)?;
        if family != Family::Llama && ffn_bias {
            return Err(fields.refuse("mlp_bias", "true", "false: this family has none"));
        }
        let kv_heads = match fields.optional_count("num_key_value_heads")? {
            Some(kv_heads) => kv_heads,
            None if family == Family::Llama => heads,
            None => return Err(fields.refuse("num_key_value_heads", "missing", "a whole number from 1")),
        };
        let mut config = Self {
            vocabulary: fields.count("vocab_size")?,
            dim,
            layers,
            heads,
            kv_heads,
            head_dim,
            ffn: fields.count("intermediate_size")?,
            context,
            window: window(fields, family, layers)?,
            eps: fields.epsilon("rms_norm_eps")?,
            eps_text: fields.raw("rms_norm_eps").unwrap_or_default().to_owned(),
            // Qwen2 has one on q, k and v whatever the configuration says, and none on the output.
            qkv_bias: attention_bias || family == Family::Qwen2,
            output_bias: attention_bias && family != Family::Qwen2,
            ffn_bias,
            qk_norm: family == Family::Qwen3,
            tied: fields.flag("tie_word_embeddings", false)?,
            rope: Rope::read(fields)?,
            stop_ids: Vec::new(),
            padding_id: fields.optional_id("pad_token_id")?,
            notes: fields.unknown_notes(&[READ, NEUTRAL], FIXED),
        };
        let generation = reader.fields("generation_config.json")?;
        config.stop_ids = match generation.as_ref().filter(|generation| generation.has("eos_token_id")) {
            Some(generation) => generation.ids("eos_token_id")?,
            None => fields.ids("eos_token_id")?,
        };
        Ok(config)
    }

    /// The header that these numbers make, within the protocol's bounds; and what was cut. `context` shortens the context further.
    pub(crate) fn header(&self, prefix_id: Option<u32>, context: Option<u32>) -> Result<(Header, Vec<String>), ModelError> {
        let mut notes = Vec::new();
        let longest = self.context.min(bounds::CONTEXT);
        if self.context > longest && context.is_none() {
            notes.push(format!("the checkpoint's context is {}; the profile's longest is {longest}", self.context));
        }
        let context = context.unwrap_or(longest);
        if context > longest {
            return Err(ModelError::Header { reason: format!("a context of {context} was asked for; the longest is {longest}") });
        }
        let mut stop_ids = [header::NO_ID; 8];
        for (slot, id) in stop_ids.iter_mut().zip(&self.stop_ids) {
            *slot = *id;
        }
        if self.stop_ids.len() > stop_ids.len() {
            notes.push(format!("a header names 8 stop ids; these were left out: {:?}", &self.stop_ids[stop_ids.len()..]));
        }
        let flags = [
            (self.qkv_bias, flag::QKV_BIAS),
            (self.output_bias || self.ffn_bias, flag::OUTPUT_BIAS),
            (self.qk_norm, flag::QK_NORM),
            (self.tied, flag::TIED_HEAD),
        ];
        let header = Header {
            profile: header::PROFILE_Q8A16,
            family: header::FAMILY_DECODER,
            vocabulary: self.vocabulary,
            dim: self.dim,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            ffn: self.ffn,
            context,
            // A window that covers the context is none.
            window: if self.window < context { self.window } else { 0 },
            epsilon: norm_epsilon(self.eps, self.dim),
            score_scale: attention_scale(self.head_dim),
            norm: header::NORM_RMS,
            activation: header::ACTIVATION_SILU,
            flags: flags.iter().filter(|(set, _)| *set).fold(flag::GATED_FFN | flag::CAUSAL, |flags, (_, bit)| flags | bit),
            pooling: header::POOLING_NONE,
            token_types: 0,
            prefix_id: prefix_id.unwrap_or(header::NO_ID),
            padding_id: self.padding_id.unwrap_or(header::NO_ID),
            stop_ids,
            embedding_scale: 0,
            attention_soft_cap: 0,
            logit_soft_cap: 0,
            rotary_dims: self.head_dim,
            window_pattern: 0,
            reserved: [0; 6],
        };
        header.validate().map_err(|error| ModelError::Header { reason: error.to_string() })?;
        Ok((header, notes))
    }
}

/// The sliding window of all layers; 0 is none. Families that can mix layers with and without one are refused where they do.
fn window(fields: &Fields, family: Family, layers: u32) -> Result<u32, ModelError> {
    const MIXED: &str = "the same kind for all layers: a window of some layers only is not supported";
    let types: Vec<String> = match fields.raw("layer_types") {
        None | Some("null") => Vec::new(),
        Some(found) => serde_json::from_str(found).map_err(|_| fields.refuse("layer_types", found, MIXED))?,
    };
    let found = || fields.raw("layer_types").unwrap_or_default();
    if types.iter().any(|kind| kind != "full_attention" && kind != "sliding_attention") {
        return Err(fields.refuse("layer_types", found(), "full_attention or sliding_attention"));
    }
    if family == Family::Mistral && fields.raw("sliding_window").is_none() {
        return Err(fields.refuse("sliding_window", "missing", "a whole number, or null for none"));
    }
    let sliding = fields.optional_count("sliding_window")?.unwrap_or(0);
    let window = match family {
        Family::Llama if sliding > 0 => return Err(fields.refuse("sliding_window", sliding, "null: this family has none")),
        Family::Llama => 0,
        Family::Mistral => sliding,
        Family::Qwen2 | Family::Qwen3 if !fields.flag("use_sliding_window", false)? => 0,
        // Layers from max_window_layers on have the window.
        Family::Qwen2 | Family::Qwen3 => match fields.raw("max_window_layers").and_then(|found| found.parse::<u32>().ok()) {
            Some(0) => sliding,
            Some(first) if first >= layers => 0,
            _ if !types.is_empty() => sliding,
            _ => return Err(fields.refuse("max_window_layers", fields.raw("max_window_layers").unwrap_or("missing"), MIXED)),
        },
    };
    let expected = if window > 0 { "sliding_attention" } else { "full_attention" };
    if let Some(other) = types.iter().find(|kind| *kind != expected) {
        return Err(fields.refuse("layer_types", format!("{other} where the window is {window}"), MIXED));
    }
    Ok(window)
}

/// A decoder's checkpoint, read but not converted.
pub(crate) struct DecoderSource {
    pub(crate) config: DecoderConfig,
    pub(crate) tensors: Box<dyn TensorSource>,
    pub(crate) chat: Option<Chat>,
    /// The tokenizer.json of a file without one beside it.
    pub(crate) tokenizer_json: Option<Vec<u8>>,
    /// Name and sha256 of each file that was read.
    pub(crate) files: Vec<(String, String)>,
    names: Names,
}

/// How a checkpoint calls its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// As transformers does, behind a prefix: checkpoints of the bare model have none.
    Transformers(&'static str),
    /// As llama.cpp does.
    Gguf,
}

impl DecoderSource {
    pub(super) fn read(mut reader: Reader<'_>, fields: &Fields) -> Result<Self, ModelError> {
        let config = DecoderConfig::read(&mut reader, fields)?;
        let chat = Chat::read(&mut reader)?;
        let tensors = SafeTensors::read(reader.folder())?;
        let bare = tensors.names().contains(&"embed_tokens.weight");
        let files = reader.files.iter().chain(&tensors.sources).cloned().collect();
        let names = Names::Transformers(if bare { "" } else { "model." });
        Ok(Self { config, tensors: Box::new(tensors), chat, tokenizer_json: None, files, names })
    }

    pub(super) fn read_gguf(path: &Path) -> Result<Self, ModelError> {
        let mut gguf = Gguf::open(path)?;
        let config = gguf.config()?;
        let chat = gguf.chat();
        let beside = path.with_file_name("tokenizer.json").is_file();
        let tokenizer_json = if beside { None } else { Some(tokenizer_json(&gguf)?) };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = vec![(name, sha256_file(path)?)];
        Ok(Self { config, tensors: Box::new(gguf), chat, tokenizer_json, files, names: Names::Gguf })
    }

    /// The checkpoint's name of a tensor of ours; of a matrix, without its `.weight` and `.bias`. `None` for those that an import
    /// computes, and those that no decoder has.
    pub(crate) fn checkpoint_name(&self, name: TensorName) -> Option<String> {
        match self.names {
            Names::Transformers(prefix) => transformers_name(prefix, name),
            Names::Gguf => gguf_name(name),
        }
    }

    /// Whether the checkpoint has a bias for a matrix; where the header has one and the checkpoint none, it is zero.
    pub(crate) fn has_bias(&self, tensor: LayerTensor) -> bool {
        match tensor {
            LayerTensor::Query | LayerTensor::Key | LayerTensor::Value => self.config.qkv_bias,
            LayerTensor::Output => self.config.output_bias,
            _ => self.config.ffn_bias,
        }
    }

    /// Names of tensors that are neither converted nor known to be of no use: stored frequencies, and a stored copy of a tied head.
    pub(crate) fn unknown_tensors(&self, used: &BTreeSet<String>) -> Vec<String> {
        let tied_head = |name: &str| self.config.tied && name == "lm_head.weight";
        let unused = |name: &str| name.ends_with("rotary_emb.inv_freq") || name == "rope_freqs.weight" || tied_head(name);
        self.tensors.names().into_iter().filter(|name| !used.contains(*name) && !unused(name)).map(str::to_owned).collect()
    }
}

fn transformers_name(prefix: &str, name: TensorName) -> Option<String> {
    Some(match name {
        TensorName::Words => format!("{prefix}embed_tokens"),
        TensorName::FinalGain => format!("{prefix}norm.weight"),
        TensorName::Head => "lm_head".to_owned(),
        TensorName::Layer(layer, tensor) => {
            let name = match tensor {
                LayerTensor::Query => "self_attn.q_proj",
                LayerTensor::Key => "self_attn.k_proj",
                LayerTensor::Value => "self_attn.v_proj",
                LayerTensor::QueryGain => "self_attn.q_norm.weight",
                LayerTensor::KeyGain => "self_attn.k_norm.weight",
                LayerTensor::Output => "self_attn.o_proj",
                LayerTensor::AttentionGain => "input_layernorm.weight",
                LayerTensor::FfnGain => "post_attention_layernorm.weight",
                LayerTensor::Gate => "mlp.gate_proj",
                LayerTensor::Up => "mlp.up_proj",
                LayerTensor::Down => "mlp.down_proj",
                LayerTensor::AttentionBias | LayerTensor::FfnBias => return None,
            };
            format!("{prefix}layers.{layer}.{name}")
        }
        _ => return None,
    })
}

fn gguf_name(name: TensorName) -> Option<String> {
    Some(match name {
        TensorName::Words => "token_embd".to_owned(),
        TensorName::FinalGain => "output_norm.weight".to_owned(),
        TensorName::Head => "output".to_owned(),
        TensorName::Layer(layer, tensor) => {
            let name = match tensor {
                LayerTensor::Query => "attn_q",
                LayerTensor::Key => "attn_k",
                LayerTensor::Value => "attn_v",
                LayerTensor::QueryGain => "attn_q_norm.weight",
                LayerTensor::KeyGain => "attn_k_norm.weight",
                LayerTensor::Output => "attn_output",
                LayerTensor::AttentionGain => "attn_norm.weight",
                LayerTensor::FfnGain => "ffn_norm.weight",
                LayerTensor::Gate => "ffn_gate",
                LayerTensor::Up => "ffn_up",
                LayerTensor::Down => "ffn_down",
                LayerTensor::AttentionBias | LayerTensor::FfnBias => return None,
            };
            format!("blk.{layer}.{name}")
        }
        _ => return None,
    })
}
