//! config.json of a BERT encoder and the sentence-transformers files beside it: which arithmetic a folder asks for.

use serde::Deserialize;

use super::{
    Unknown,
    family::NEUTRAL_EVERYWHERE,
    fields::{Fields, Reader},
};
use crate::{
    ModelError,
    convert::{Decimal, attention_scale, norm_epsilon},
};
use quern_exact::header::{self, Header, flag};

/// Fields of encoders that no vector depends on: training, labels, the pooler and other heads.
const NEUTRAL: &[&str] = &[
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "directionality",
    "export_model_type",
    "hidden_dropout_prob",
    "output_past",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "tie_word_embeddings",
];

/// Fields that must have one value where they stand at all, as JSON.
const FIXED: &[(&str, &str)] = &[
    ("position_embedding_type", "\"absolute\""),
    ("is_decoder", "false"),
    ("is_encoder_decoder", "false"),
    ("add_cross_attention", "false"),
    ("cross_attention_hidden_size", "null"),
    ("quantization_config", "null"),
    ("pruned_heads", "{}"),
    ("embedding_size", "null"),
    ("rope_theta", "null"),
    ("rope_scaling", "null"),
    ("sliding_window", "null"),
];

/// Fields that [`BertConfig`] is made of.
const READ: &[&str] = &[
    "model_type",
    "hidden_act",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "pad_token_id",
    "layer_norm_eps",
];

/// How the rows of all positions become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The mean over all positions.
    Mean,
    /// The first position.
    First,
}

/// What config.json and its companions say, checked.
#[derive(Clone, Debug)]
pub(crate) struct BertConfig {
    pub(crate) vocabulary: u32,
    pub(crate) dim: u32,
    pub(crate) layers: u32,
    pub(crate) heads: u32,
    pub(crate) ffn: u32,
    pub(crate) context: u32,
    pub(crate) token_types: u32,
    pub(crate) padding_id: Option<u32>,
    pub(crate) eps: Decimal,
    pub(crate) eps_text: String,
    pub(crate) pooling: Pooling,
    /// What a person should know: assumptions made.
    pub(crate) notes: Vec<String>,
    /// Fields not known.
    pub(crate) unknown: Vec<Unknown>,
    /// Name and sha256 of each file that was read.
    pub(crate) files: Vec<(String, String)>,
}

impl BertConfig {
    /// Reads config.json's fields, modules.json and the pooling module of a folder.
    pub(crate) fn read(mut reader: Reader<'_>, fields: &Fields) -> Result<Self, ModelError> {
        let mut notes = Vec::new();
        fields.text("hidden_act", &["gelu"])?;
        for (name, expected) in FIXED {
            fields.fixed(name, expected)?;
        }
        let config = Self {
            vocabulary: fields.count("vocab_size")?,
            dim: fields.count("hidden_size")?,
            layers: fields.count("num_hidden_layers")?,
            heads: fields.count("num_attention_heads")?,
            ffn: fields.count("intermediate_size")?,
            context: fields.count("max_position_embeddings")?,
            token_types: fields.count("type_vocab_size")?,
            padding_id: fields.optional_id("pad_token_id")?,
            eps: fields.epsilon("layer_norm_eps")?,
            eps_text: fields.raw("layer_norm_eps").unwrap_or_default().to_owned(),
            pooling: Pooling::Mean,
            notes: Vec::new(),
            unknown: fields.unknown(&[READ, NEUTRAL, NEUTRAL_EVERYWHERE], &[FIXED]),
            files: Vec::new(),
        };
        if !config.dim.is_multiple_of(config.heads) {
            return Err(fields.refuse("num_attention_heads", config.heads, format!("a divisor of hidden_size {}", config.dim)));
        }
        let pooling = read_pooling(&mut reader, config.dim, &mut notes)?;
        Ok(Self { pooling, notes, files: reader.files, ..config })
    }

    /// The header that these numbers make, within the protocol's bounds.
    pub(crate) fn header(&self, prefix_id: Option<u32>) -> Result<Header, ModelError> {
        let head_dim = self.dim / self.heads;
        let header = Header {
            profile: header::PROFILE_Q8A16,
            family: header::FAMILY_ENCODER,
            vocabulary: self.vocabulary,
            dim: self.dim,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.heads,
            head_dim,
            ffn: self.ffn,
            context: self.context,
            window: 0,
            epsilon: norm_epsilon(self.eps, self.dim),
            score_scale: attention_scale(head_dim),
            norm: header::NORM_LAYER,
            activation: header::ACTIVATION_GELU_ERF,
            flags: flag::QKV_BIAS | flag::OUTPUT_BIAS | flag::POST_NORM | flag::LEARNED_POSITIONS,
            pooling: match self.pooling {
                Pooling::Mean => header::POOLING_MEAN,
                Pooling::First => header::POOLING_FIRST,
            },
            token_types: self.token_types,
            prefix_id: prefix_id.unwrap_or(header::NO_ID),
            padding_id: self.padding_id.unwrap_or(header::NO_ID),
            stop_ids: [header::NO_ID; 8],
            embedding_scale: 0,
            attention_soft_cap: 0,
            logit_soft_cap: 0,
            rotary_dims: 0,
            window_pattern: 0,
            reserved: [0; 6],
        };
        header.validate().map_err(|error| ModelError::Header { reason: error.to_string() })?;
        Ok(header)
    }
}

/// One line of sentence-transformers' modules.json.
#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

/// The pooling that modules.json or 1_Pooling/config.json names. Modules that would change the vector are refused by name.
fn read_pooling(reader: &mut Reader<'_>, dim: u32, notes: &mut Vec<String>) -> Result<Pooling, ModelError> {
    let modules: Option<Vec<Module>> = reader.json("modules.json")?;
    let mut pooling_folder = "1_Pooling".to_owned();
    let mut normalises = true;
    if let Some(modules) = modules {
        normalises = false;
        for module in modules {
            match module.kind.rsplit('.').next() {
                Some("Transformer") => {}
                Some("Pooling") => pooling_folder = module.path,
                Some("Normalize") => normalises = true,
                _ => {
                    return Err(ModelError::Field {
                        path: reader.folder().join("modules.json"),
                        field: "type".to_owned(),
                        found: format!("{:?}", module.kind),
                        expected: "Transformer, Pooling or Normalize; other modules change the vector".to_owned(),
                    });
                }
            }
        }
    }
    if !normalises {
        notes.push(
            "modules.json has no Normalize; an exact embedding always has unit length, which leaves every cosine as it is".to_owned(),
        );
    }
    let name = format!("{pooling_folder}/config.json");
    let Some(fields) = reader.fields(&name)? else {
        notes.push("no pooling configuration (1_Pooling/config.json): the mean over all positions is assumed".to_owned());
        return Ok(Pooling::Mean);
    };
    if let Some(found) = fields.raw("word_embedding_dimension").filter(|found| *found != dim.to_string()) {
        return Err(fields.refuse("word_embedding_dimension", found, format!("hidden_size {dim}")));
    }
    let modes: Vec<&str> =
        fields.iter().filter(|(name, value)| name.starts_with("pooling_mode") && *value == "true").map(|(name, _)| name).collect();
    match modes[..] {
        ["pooling_mode_mean_tokens"] => Ok(Pooling::Mean),
        ["pooling_mode_cls_token"] => Ok(Pooling::First),
        _ => {
            Err(fields.refuse("pooling_mode_*", format!("{modes:?}"), "exactly one of pooling_mode_mean_tokens and pooling_mode_cls_token"))
        }
    }
}
