//! A Hugging Face folder of a BERT encoder: configuration, tensors, tokenizer.

mod config;
mod tensors;

use std::path::Path;

pub(crate) use config::{BertConfig, Pooling};
pub(crate) use tensors::{Floats, SourceTensors, sha256_hex};

use crate::ModelError;
use quern_exact::layout::{LayerTensor, TensorName};

/// Tensors of BERT checkpoints that an embedding does not use: position numbers, the pooler, heads of other tasks.
const UNUSED: &[&str] = &["embeddings.position_ids", "embeddings.token_type_ids", "pooler.", "cls.", "classifier.", "qa_outputs."];

/// A folder that was read and makes sense, not yet converted.
pub(crate) struct Source {
    pub(crate) config: BertConfig,
    pub(crate) tensors: SourceTensors,
    /// Name and sha256 of each file that was read.
    pub(crate) files: Vec<(String, String)>,
    /// "" or "bert.": checkpoints with a task head put the encoder under a prefix.
    prefix: &'static str,
}

impl Source {
    /// Reads config.json, the pooling configuration and the weights.
    ///
    /// # Errors
    /// Any file that is missing, truncated or corrupt, any field that asks for other arithmetic.
    pub(crate) fn read(folder: &Path) -> Result<Self, ModelError> {
        let config = BertConfig::read(folder)?;
        let tensors = SourceTensors::read(folder)?;
        let under_bert = tensors.names().any(|name| name == "bert.embeddings.word_embeddings.weight");
        let files = config.files.iter().chain(&tensors.sources).cloned().collect();
        Ok(Self { config, tensors, files, prefix: if under_bert { "bert." } else { "" } })
    }

    /// The checkpoint's name of a tensor of ours; of a matrix, without its `.weight` and `.bias`. `None` for those that an import
    /// computes, and those that no encoder has.
    pub(crate) fn checkpoint_name(&self, name: TensorName) -> Option<String> {
        let prefix = self.prefix;
        let name = match name {
            TensorName::Words => "embeddings.word_embeddings".to_owned(),
            TensorName::Positions => "embeddings.position_embeddings.weight".to_owned(),
            TensorName::TokenTypes => "embeddings.token_type_embeddings.weight".to_owned(),
            TensorName::EmbeddingGain => "embeddings.LayerNorm.weight".to_owned(),
            TensorName::EmbeddingBias => "embeddings.LayerNorm.bias".to_owned(),
            TensorName::Layer(layer, tensor) => format!(
                "encoder.layer.{layer}.{}",
                match tensor {
                    LayerTensor::Query => "attention.self.query",
                    LayerTensor::Key => "attention.self.key",
                    LayerTensor::Value => "attention.self.value",
                    LayerTensor::Output => "attention.output.dense",
                    LayerTensor::AttentionGain => "attention.output.LayerNorm.weight",
                    LayerTensor::AttentionBias => "attention.output.LayerNorm.bias",
                    LayerTensor::Up => "intermediate.dense",
                    LayerTensor::Down => "output.dense",
                    LayerTensor::FfnGain => "output.LayerNorm.weight",
                    LayerTensor::FfnBias => "output.LayerNorm.bias",
                    LayerTensor::QueryGain | LayerTensor::KeyGain | LayerTensor::Gate => return None,
                }
            ),
            TensorName::ValueShifts | TensorName::RotaryCos | TensorName::RotarySin | TensorName::FinalGain | TensorName::Head => {
                return None;
            }
        };
        Some(format!("{prefix}{name}"))
    }

    /// Names of tensors that are neither converted nor known to be of no use to an embedding.
    pub(crate) fn unknown_tensors(&self, used: &std::collections::BTreeSet<String>) -> Vec<String> {
        let unused = |name: &str| {
            let bare = name.strip_prefix(self.prefix).unwrap_or(name);
            UNUSED.iter().any(|known| bare.starts_with(known) || name.starts_with(known))
        };
        self.tensors.names().filter(|name| !used.contains(*name) && !unused(name)).map(str::to_owned).collect()
    }
}
