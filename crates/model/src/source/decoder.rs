//! config.json of a Llama-like decoder: which arithmetic a folder asks for, and under which names its tensors lie.

use std::{collections::BTreeSet, path::Path};

use super::{
    Chat, Family, FileToHash, Rope, SafeTensors, Scaling, Stored, TensorSource, Unknown,
    fields::{Fields, Reader},
    gguf::Gguf,
    gguf_tokenizer::tokenizer_json,
    names::Names,
};
use crate::{
    ModelError,
    convert::{Decimal, attention_scale, embedding_scale, norm_epsilon},
};
use quern_exact::{
    bounds,
    header::{self, Header, flag},
    layout::{LayerTensor, TensorName, TensorShape, TensorSpec},
};

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
    /// Query, key and value are one matrix in the checkpoint, gate and up another.
    pub(crate) fused: bool,
    /// The checkpoint has gains less one.
    pub(crate) gains_less_one: bool,
    /// Words are multiplied by the root of dim.
    pub(crate) scaled_words: bool,
    /// As the header numbers it.
    pub(crate) activation: u32,
    pub(crate) tied: bool,
    pub(crate) rope: Rope,
    /// Dims of a head that are rotated.
    pub(crate) rotary_dims: u32,
    pub(crate) stop_ids: Vec<u32>,
    pub(crate) padding_id: Option<u32>,
    /// What a person should know: assumptions made.
    pub(crate) notes: Vec<String>,
    /// Fields not known.
    pub(crate) unknown: Vec<Unknown>,
}

impl DecoderConfig {
    fn read(reader: &mut Reader<'_>, family: Family, fields: &Fields) -> Result<Self, ModelError> {
        let unknown = family.check(fields)?;
        let mut notes = Vec::new();
        let activation = activation(fields, family, &mut notes)?;
        let (dim, heads) = (fields.count("hidden_size")?, fields.count("num_attention_heads")?);
        let head_dim = match fields.optional_count("head_dim")? {
            Some(head_dim) => head_dim,
            None if family == Family::Qwen3 => 128,
            None if family == Family::Gemma => 256,
            None if dim.is_multiple_of(heads) => dim / heads,
            None => return Err(fields.refuse("num_attention_heads", heads, format!("a divisor of hidden_size {dim}, or a head_dim"))),
        };
        let layers = fields.count("num_hidden_layers")?;
        let context = fields.count("max_position_embeddings")?;
        let attention_bias = fields.flag("attention_bias", false)?;
        let kv_heads = match fields.optional_count("num_key_value_heads")? {
            Some(kv_heads) => kv_heads,
            None if matches!(family, Family::Llama | Family::Phi3) => heads,
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
            ffn_bias: fields.flag("mlp_bias", false)?,
            qk_norm: family == Family::Qwen3,
            fused: family == Family::Phi3,
            gains_less_one: family == Family::Gemma,
            scaled_words: family == Family::Gemma,
            activation,
            tied: fields.flag("tie_word_embeddings", family == Family::Gemma)?,
            rope: Rope::read(fields)?,
            rotary_dims: Rope::dims(fields, family, head_dim)?,
            stop_ids: Vec::new(),
            padding_id: fields.optional_id("pad_token_id")?,
            notes,
            unknown,
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
            activation: self.activation,
            flags: flags.iter().filter(|(set, _)| *set).fold(flag::GATED_FFN | flag::CAUSAL, |flags, (_, bit)| flags | bit),
            pooling: header::POOLING_NONE,
            token_types: 0,
            prefix_id: prefix_id.unwrap_or(header::NO_ID),
            padding_id: self.padding_id.unwrap_or(header::NO_ID),
            stop_ids,
            embedding_scale: if self.scaled_words { embedding_scale(self.dim) } else { 0 },
            attention_soft_cap: 0,
            logit_soft_cap: 0,
            rotary_dims: self.rotary_dims,
            window_pattern: 0,
            reserved: [0; 6],
        };
        header.validate().map_err(|error| ModelError::Header { reason: error.to_string() })?;
        Ok((header, notes))
    }
}

/// The activation of the gate, as the header numbers it.
fn activation(fields: &Fields, family: Family, notes: &mut Vec<String>) -> Result<u32, ModelError> {
    const TANH: &str = "gelu_pytorch_tanh";
    if family != Family::Gemma {
        fields.text("hidden_act", &["silu"])?;
        return Ok(header::ACTIVATION_SILU);
    }
    // The newer field stands above the older one, which the first checkpoints have as "gelu" though they were trained with its approximation.
    if fields.has("hidden_activation") {
        fields.text("hidden_activation", &[TANH])?;
    } else if fields.text("hidden_act", &[TANH, "gelu"])? == "gelu" {
        notes.push(format!("hidden_act is \"gelu\" and there is no hidden_activation: Gemma was trained with {TANH}, which is taken"));
    }
    Ok(header::ACTIVATION_GELU_TANH)
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
        Family::Llama | Family::Gemma if sliding > 0 => return Err(fields.refuse("sliding_window", sliding, "null: this family has none")),
        Family::Llama | Family::Gemma => 0,
        Family::Mistral | Family::Phi3 => sliding,
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
    /// Name and sha256 of each file that was read whole.
    pub(crate) files: Vec<(String, String)>,
    /// The files that hold the tensors.
    pub(crate) weights: Vec<FileToHash>,
    names: Names,
}

impl DecoderSource {
    pub(super) fn read(mut reader: Reader<'_>, family: Family, fields: &Fields) -> Result<Self, ModelError> {
        let config = DecoderConfig::read(&mut reader, family, fields)?;
        let chat = Chat::read(&mut reader)?;
        let tensors = SafeTensors::read(reader.folder())?;
        let bare = tensors.names().contains(&"embed_tokens.weight");
        let files = reader.files.iter().chain(&tensors.index).cloned().collect();
        let weights = tensors.files.clone();
        let names = Names::Transformers(if bare { "" } else { "model." });
        Ok(Self { config, tensors: Box::new(tensors), chat, tokenizer_json: None, files, weights, names })
    }

    pub(super) fn read_gguf(path: &Path) -> Result<Self, ModelError> {
        let mut gguf = Gguf::open(path)?;
        let config = gguf.config()?;
        let chat = gguf.chat();
        let beside = path.with_file_name("tokenizer.json").is_file();
        let tokenizer_json = if beside { None } else { Some(tokenizer_json(&gguf)?) };
        let weights = vec![FileToHash::new(path.to_owned())?];
        Ok(Self { config, tensors: Box::new(gguf), chat, tokenizer_json, files: Vec::new(), weights, names: Names::Gguf })
    }

    /// Where a tensor of ours lies in the checkpoint. `None` for those that an import computes, and those that no decoder has.
    pub(crate) fn stored(&self, name: TensorName) -> Option<Stored> {
        self.names.stored(&self.config, name)
    }

    /// Whether the checkpoint has a bias for a matrix; where the header has one and the checkpoint none, it is zero.
    pub(crate) fn has_bias(&self, name: TensorName) -> bool {
        match name {
            TensorName::Layer(_, LayerTensor::Query | LayerTensor::Key | LayerTensor::Value) => self.config.qkv_bias,
            TensorName::Layer(_, LayerTensor::Output) => self.config.output_bias,
            TensorName::Layer(..) => self.config.ffn_bias,
            _ => false,
        }
    }

    /// Tensors that are neither converted nor known to be of no use: stored frequencies, and a stored copy of a tied head.
    pub(crate) fn unknown_tensors(&self, specs: &[TensorSpec]) -> Vec<Unknown> {
        let mut used = BTreeSet::new();
        for TensorSpec { name, shape } in specs {
            let Some(Stored { name: stored, .. }) = self.stored(*name) else { continue };
            match shape {
                TensorShape::Matrix { .. } => {
                    if self.has_bias(*name) {
                        used.insert(format!("{stored}.bias"));
                    }
                    used.insert(format!("{stored}.weight"));
                }
                _ => drop(used.insert(stored)),
            }
        }
        if let Scaling::Divisors(_) = self.config.rope.scaling {
            used.insert("rope_freqs.weight".to_owned());
        }
        let tied_head = |name: &str| self.config.tied && name == "lm_head.weight";
        let unused = |name: &str| name.ends_with("rotary_emb.inv_freq") || tied_head(name);
        let unknown = self.tensors.names().into_iter().filter(|name| !used.contains(*name) && !unused(name));
        unknown.map(|name| Unknown::tensor(self.tensors.path(), name)).collect()
    }
}
