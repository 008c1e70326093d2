//! What an import reads: a Hugging Face folder of an encoder or a decoder, or a GGUF file.

mod bert;
mod chat;
mod decoder;
mod family;
mod fields;
mod gguf;
mod gguf_tokenizer;
mod names;
mod rope;
mod tensors;
mod unknown;

use std::{collections::BTreeSet, ops::Range, path::Path, path::PathBuf};

pub(crate) use bert::{BertConfig, Pooling};
pub(crate) use chat::Chat;
pub(crate) use decoder::DecoderSource;
pub(crate) use names::Stored;
pub(crate) use rope::{Rope, Scaling};
pub(crate) use tensors::{FileToHash, sha256_files, sha256_hex};
pub(crate) use unknown::Unknown;

use family::Family;
use fields::Reader;
use tensors::SafeTensors;

use crate::{ModelError, convert::is_finite};
use quern_exact::layout::{LayerTensor, TensorName, TensorShape, TensorSpec};

/// The model types whose arithmetic is known: those of encoders, then those of decoders.
const MODEL_TYPES: [&str; 7] = ["bert", "llama", "mistral", "qwen2", "qwen3", "gemma", "phi3"];

/// Tensors of BERT checkpoints that an embedding does not use: position numbers, the pooler, heads of other tasks.
const UNUSED: &[&str] = &["embeddings.position_ids", "embeddings.token_type_ids", "pooler.", "cls.", "classifier.", "qa_outputs."];

/// Something that was read and makes sense, not yet converted.
pub(crate) enum Source {
    Encoder(Box<EncoderSource>),
    Decoder(Box<DecoderSource>),
}

impl Source {
    /// Reads the configuration and the list of tensors of a Hugging Face folder or a GGUF file.
    ///
    /// # Errors
    /// Any file that is missing, truncated or corrupt, any field that asks for other arithmetic.
    pub(crate) fn read(from: &Path) -> Result<Self, ModelError> {
        if from.is_file() {
            return DecoderSource::read_gguf(from).map(|source| Self::Decoder(Box::new(source)));
        }
        let folder = from;
        let mut reader = Reader::new(folder);
        let fields = reader.config()?;
        let Some(family) = Family::of(fields.text("model_type", &MODEL_TYPES)?) else {
            let config = BertConfig::read(reader, &fields)?;
            let tensors = SafeTensors::read(folder)?;
            return Ok(Self::Encoder(Box::new(EncoderSource::new(config, tensors))));
        };
        DecoderSource::read(reader, family, &fields).map(|source| Self::Decoder(Box::new(source)))
    }
}

/// Where the numbers of a checkpoint come from.
pub(crate) trait TensorSource {
    /// The file that holds the tensors, or lists them.
    fn path(&self) -> &Path;

    /// All names, in order.
    fn names(&self) -> Vec<&str>;

    /// Some rows of a float tensor that has exactly this shape, every element finite.
    fn rows(&self, name: &str, expected: &[usize], rows: Range<usize>) -> Result<Floats, ModelError>;

    /// All of a float tensor that has exactly this shape, every element finite.
    fn floats(&self, name: &str, expected: &[usize]) -> Result<Floats, ModelError> {
        self.rows(name, expected, 0..expected.first().copied().unwrap_or(0))
    }
}

/// A tensor of finite floats or some of its rows, as bits of f32. Whatever the file's type, each element is exactly the file's number.
#[derive(Debug)]
pub(crate) struct Floats {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    /// Of the whole tensor.
    pub(crate) shape: Vec<usize>,
    /// Index of the first element in the whole tensor.
    pub(crate) first: usize,
    pub(crate) bits: Vec<u32>,
}

impl Floats {
    /// The place of an element of these: row and column in a matrix.
    pub(crate) fn index(&self, at: usize) -> Vec<usize> {
        let at = self.first + at;
        match self.shape[..] {
            [_, columns] => vec![at / columns, at % columns],
            _ => vec![at],
        }
    }

    /// Refuses NaN and infinity.
    fn finite(self) -> Result<Self, ModelError> {
        match self.bits.iter().position(|bits| !is_finite(*bits)) {
            None => Ok(self),
            Some(at) => Err(ModelError::NotFinite {
                value: if self.bits[at] & 0x7f_ffff == 0 { "infinity" } else { "NaN" },
                index: self.index(at),
                path: self.path,
                tensor: self.name,
            }),
        }
    }
}

/// A Hugging Face folder of a BERT encoder.
pub(crate) struct EncoderSource {
    pub(crate) config: BertConfig,
    pub(crate) tensors: SafeTensors,
    /// Name and sha256 of each file that was read whole.
    pub(crate) files: Vec<(String, String)>,
    /// "" or "bert.": checkpoints with a task head put the encoder under a prefix.
    prefix: &'static str,
}

impl EncoderSource {
    fn new(config: BertConfig, tensors: SafeTensors) -> Self {
        let under_bert = tensors.names().contains(&"bert.embeddings.word_embeddings.weight");
        let files = config.files.iter().chain(&tensors.index).cloned().collect();
        Self { config, tensors, files, prefix: if under_bert { "bert." } else { "" } }
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

    /// Tensors that are neither converted nor known to be of no use to an embedding.
    pub(crate) fn unknown_tensors(&self, specs: &[TensorSpec]) -> Vec<Unknown> {
        let used: BTreeSet<String> = specs
            .iter()
            .filter_map(|spec| Some((self.checkpoint_name(spec.name)?, spec.shape)))
            .flat_map(|(name, shape)| match shape {
                TensorShape::Matrix { .. } => vec![format!("{name}.weight"), format!("{name}.bias")],
                _ => vec![name],
            })
            .collect();
        let unused = |name: &str| {
            let bare = name.strip_prefix(self.prefix).unwrap_or(name);
            UNUSED.iter().any(|known| bare.starts_with(known) || name.starts_with(known))
        };
        let unknown = self.tensors.names().into_iter().filter(|name| !used.contains(*name) && !unused(name));
        unknown.map(|name| Unknown::tensor(self.tensors.path(), name)).collect()
    }
}
