//! Packages: a folder with header.bin, weights.bin, tokenizer.json, conversion.json and, of models that converse, chat.json; named by its root.

mod import;
mod layout;
pub(crate) mod packed;
mod record;
mod roots;
mod write;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use import::{ImportOptions, ImportProgress};
pub use record::{ConversionRecord, SourceRecord, TensorRecord};

use quern_commit::model::{package_root, tokenizer_hash};
use quern_exact::{
    decoder::{Decoder, DecoderWeights, Model, PackedWeights},
    encoder::{Encoder, EncoderWeights},
    header::{self, Header},
    kernels::{Packed, Pool},
    layout::{PackedTensor, Tensor, TensorName, TensorRef},
};
use quern_types::{B256, PackageRoot, keccak256};

use crate::{ModelError, Tokenizer, prompt::ChatTemplate, source::Chat};
use layout::{LayoutError, ReadError};
use packed::{Mapped, Unfit};
use roots::{Roots, TensorRoots};

const HEADER_FILE: &str = "header.bin";
const WEIGHTS_FILE: &str = "weights.bin";
const TOKENIZER_FILE: &str = "tokenizer.json";
const CHAT_FILE: &str = "chat.json";
const RECORD_FILE: &str = "conversion.json";
/// The version of conversion.json that this release writes and reads.
const RECORD_FORMAT: u32 = 1;

/// An opened package. Its files fit its header; only [`Package::verify`] says that the weights are the ones that its root names.
#[derive(Debug)]
pub struct Package {
    path: PathBuf,
    header: Header,
    content: Content,
    tokenizer: Tokenizer,
    chat: Option<Chat>,
    record: ConversionRecord,
    weights_bytes: u64,
}

/// What of the weights is in memory.
#[derive(Debug)]
enum Content {
    /// All, well formed.
    Encoder(Box<EncoderWeights>),
    /// Nothing: they stay in the file until somebody computes.
    Decoder,
}

/// A decoder's weights as the kernels of this machine read them.
#[derive(Debug)]
pub struct PackedModel {
    /// The weights.
    pub weights: PackedWeights,
    /// Where they are.
    pub origin: PackedOrigin,
}

/// Where packed weights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PackedOrigin {
    /// The packed file beside the package, mapped.
    Mapped,
    /// The same, written just now because there was none that fits.
    Rebuilt {
        /// What was wrong with the one before.
        because: String,
    },
    /// Packed into memory: opening the package takes long each time.
    InMemory {
        /// Why there is no file.
        because: String,
    },
}

impl Package {
    /// Bytes of the weights.bin that belongs to a header.bin, for whoever is about to fetch one.
    ///
    /// # Errors
    /// A header of another version or profile, or a malformed one.
    pub fn weights_bytes_of(header: &[u8]) -> Result<u64, ModelError> {
        let file = Path::new(HEADER_FILE);
        let header = Header::parse(header).map_err(|error| malformed(file, &error))?;
        layout::file_bytes(&header).map_err(|error| malformed(file, &error))
    }

    /// Reads a package. Every file must be whole, and the header, the tokenizer and the chat format must be those of the stated root and record. The
    /// weights are not hashed here ([`Package::verify`]); an encoder's are read, a decoder's stay in the file.
    ///
    /// # Errors
    /// A file that is missing, truncated, of another version or profile, or malformed, by tensor and row; a header or tokenizer that the
    /// root does not name.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        const IN_PACKAGE: &str = "every package holds it; `quern model import` writes packages";
        let at = |name: &str| path.join(name);
        let header_bytes = read_needed(&at(HEADER_FILE), IN_PACKAGE)?;
        if header_bytes.len() != header::BYTES {
            return Err(ModelError::FileSize { path: at(HEADER_FILE), expected: header::BYTES as u64, found: header_bytes.len() as u64 });
        }
        let header = Header::parse(&header_bytes).map_err(|error| malformed(&at(HEADER_FILE), &error))?;

        let record_json = read_needed(&at(RECORD_FILE), IN_PACKAGE)?;
        let record: ConversionRecord = serde_json::from_slice(&record_json).map_err(ModelError::json(at(RECORD_FILE)))?;
        if record.format != RECORD_FORMAT {
            return Err(malformed(&at(RECORD_FILE), &format!("format {}; this release reads {RECORD_FORMAT}", record.format)));
        }
        let tokenizer_json = read_needed(&at(TOKENIZER_FILE), IN_PACKAGE)?;
        hash_equals(&at(TOKENIZER_FILE), "the tokenizer", record.tokenizer_hash, tokenizer_hash(&tokenizer_json))?;
        let root = package_root(&header, &record.weights_root, &record.tokenizer_hash);
        hash_equals(path, "the package", record.package_root.0, root.0)?;
        let tokenizer = Tokenizer::from_bytes(&tokenizer_json, &at(TOKENIZER_FILE), header.vocabulary)?;
        let chat = record.chat_hash.map(|hash| read_chat(&at(CHAT_FILE), hash)).transpose()?;

        let mut weights = reader(path, &header)?;
        let weights_bytes = weights.bytes();
        let content = if header.family == header::FAMILY_DECODER {
            Content::Decoder
        } else {
            let tensors =
                weights.tensors().map(|tensor| Ok(tensor.map_err(unreadable(path))?.1)).collect::<Result<Vec<_>, ModelError>>()?;
            let weights = EncoderWeights::from_tensors(&header, tensors).map_err(|error| malformed(&at(WEIGHTS_FILE), &error))?;
            Content::Encoder(Box::new(weights))
        };
        Ok(Self { path: path.to_owned(), header, content, tokenizer, chat, record, weights_bytes })
    }

    /// Reads a package and proves that it is the one with this root.
    ///
    /// # Errors
    /// As [`Package::open`] and [`Package::verify`]; [`ModelError::OtherPackage`] if it is sound but another one.
    pub fn open_verified(path: &Path, root: PackageRoot) -> Result<Self, ModelError> {
        let package = Self::open(path)?;
        if package.root() != root {
            return Err(ModelError::OtherPackage { path: path.to_owned(), expected: root.to_string(), found: package.root().to_string() });
        }
        package.verify()?;
        Ok(package)
    }

    /// Hashes all weights and compares with the stated roots. A package that passes computes what its root names, to the bit. A decoder's packed
    /// file, where there is one for this root, is compared with the weights too.
    ///
    /// # Errors
    /// [`ModelError::Hash`] with the first tensor that differs, a tensor that is malformed, [`ModelError::Packed`].
    pub fn verify(&self) -> Result<PackageRoot, ModelError> {
        let mapped = Mapped::open(&self.path, &self.header, self.root()).ok();
        let mut comparison = mapped.as_ref().map(Mapped::comparison);
        self.each_verified(&mut |name, tensor| match comparison.as_mut().map(|comparison| comparison.agrees(tensor.as_ref())) {
            Some(false) => Err(ModelError::Packed { path: self.packed_path(), tensor: name.to_string() }),
            _ => Ok(()),
        })
    }

    /// Reads the weights tensor by tensor, hashes each, and hands it on.
    fn each_verified(&self, on_tensor: &mut dyn FnMut(TensorName, Tensor) -> Result<(), ModelError>) -> Result<PackageRoot, ModelError> {
        let file = self.path.join(WEIGHTS_FILE);
        let mut roots = TensorRoots::default();
        let mut checked = |at: usize, name: TensorName, tensor: TensorRef<'_>| {
            let root = roots.push(name, tensor);
            match self.record.tensors.get(at) {
                Some(recorded) => hash_equals(&file, &format!("tensor {name}"), recorded.root, root),
                None => Err(malformed(&self.path.join(RECORD_FILE), &format!("tensor {name} is not recorded"))),
            }
        };
        match &self.content {
            Content::Encoder(weights) => {
                for (at, (name, tensor)) in weights.tensors().enumerate() {
                    checked(at, name, tensor)?;
                }
            }
            Content::Decoder => {
                for (at, tensor) in reader(&self.path, &self.header)?.tensors().enumerate() {
                    let (name, tensor) = tensor.map_err(unreadable(&self.path))?;
                    checked(at, name, tensor.as_ref())?;
                    on_tensor(name, tensor)?;
                }
            }
        }
        let roots: Roots = roots.finish(&self.header, self.record.tokenizer_hash)?;
        if roots.tensors.len() != self.record.tensors.len() {
            let reason = format!("{} tensors are recorded; the header implies {}", self.record.tensors.len(), roots.tensors.len());
            return Err(malformed(&self.path.join(RECORD_FILE), &reason));
        }
        hash_equals(&file, "the weights", self.record.weights_root, roots.weights)?;
        hash_equals(&self.path, "the package", self.record.package_root.0, roots.package.0)?;
        Ok(roots.package)
    }

    /// The root that the package states. It covers the header and the tokenizer as they are; for the weights, [`Package::verify`].
    #[must_use]
    pub fn root(&self) -> PackageRoot {
        self.record.package_root
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether it is a decoder, which generates, and not an encoder, which embeds.
    #[must_use]
    pub fn is_decoder(&self) -> bool {
        matches!(self.content, Content::Decoder)
    }

    /// The weights of an encoder, as they are hashed.
    ///
    /// # Errors
    /// [`ModelError::Family`] if it is a decoder.
    pub fn weights(&self) -> Result<&EncoderWeights, ModelError> {
        match &self.content {
            Content::Encoder(weights) => Ok(weights),
            Content::Decoder => Err(self.family("an encoder", "a decoder")),
        }
    }

    /// Text to ids and back.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The template that makes a prompt of a conversation; `None` if the model came without one.
    ///
    /// # Errors
    /// [`ModelError::Template`] if it is no template.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, ModelError> {
        self.chat.as_ref().map(ChatTemplate::new).transpose()
    }

    /// What the import wrote down.
    #[must_use]
    pub fn record(&self) -> &ConversionRecord {
        &self.record
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the file packed for this machine lies, if there is one: beside the folder.
    #[must_use]
    pub fn packed_path(&self) -> PathBuf {
        packed::path(&self.path)
    }

    /// Size of weights.bin in bytes.
    #[must_use]
    pub fn weights_bytes(&self) -> u64 {
        self.weights_bytes
    }

    /// The ids of one line of text, refused where the model would not read all of them.
    ///
    /// # Errors
    /// [`ModelError::TooLong`] with the line's number (from 1) and both counts.
    pub fn item(&self, line: usize, text: &str) -> Result<Vec<u32>, ModelError> {
        let ids = self.tokenizer.encode(text)?;
        let context = self.header.context as usize;
        if ids.len() > context { Err(ModelError::TooLong { line, tokens: ids.len(), context }) } else { Ok(ids) }
    }

    /// The encoder that computes, with the weights packed for this machine. Costs about the weights' size in memory again.
    ///
    /// # Errors
    /// [`ModelError::Family`] if it is a decoder; [`ModelError::Header`] if this release cannot run such a model.
    pub fn encoder(&self) -> Result<Encoder, ModelError> {
        let weights = self.weights()?.clone();
        Encoder::new(self.header.clone(), weights).map_err(|error| ModelError::Header { reason: error.to_string() })
    }

    /// The decoder that computes, on the threads of a pool, by [`Package::packed`].
    ///
    /// # Errors
    /// As [`Package::packed`].
    pub fn decoder(&self, pool: Arc<Pool>) -> Result<Decoder, ModelError> {
        Ok(Decoder::from_packed(self.packed()?.weights, pool))
    }

    /// A decoder's weights for the kernels of this machine, from the packed file beside the package, at once. One that is missing or stale is
    /// written first, from weights whose every hash was compared; where it cannot be written, the weights are packed into memory.
    ///
    /// # Errors
    /// [`ModelError::Family`] if it is an encoder; weights that are not those of the root.
    pub fn packed(&self) -> Result<PackedModel, ModelError> {
        if !self.is_decoder() {
            return Err(self.family("a decoder", "an encoder"));
        }
        let unfit = match Mapped::open(&self.path, &self.header, self.root()) {
            Ok(mapped) => return Ok(PackedModel { weights: mapped.weights(&self.header)?, origin: PackedOrigin::Mapped }),
            Err(unfit) => unfit,
        };
        let because = match &unfit {
            Unfit::Missing | Unfit::Stale(_) => match self.write_packed() {
                Ok(()) => {
                    let mapped = Mapped::open(&self.path, &self.header, self.root());
                    let mapped = mapped.map_err(|unfit| malformed(&self.packed_path(), &unfit))?;
                    let origin = PackedOrigin::Rebuilt { because: unfit.to_string() };
                    return Ok(PackedModel { weights: mapped.weights(&self.header)?, origin });
                }
                Err(ModelError::Write { path, source }) => format!("{} cannot be written: {source}", path.display()),
                Err(error) => return Err(error),
            },
            unfit => unfit.to_string(),
        };
        let mut tensors = Vec::new();
        self.each_verified(&mut |name, tensor| {
            let refused = |source| ModelError::OutOfMemory { path: self.path.clone(), tensor: name.to_string(), source };
            tensors.push(match tensor {
                Tensor::Matrix(matrix) => PackedTensor::Matrix(Packed::try_new(&matrix).map_err(refused)?),
                Tensor::Table(table) => PackedTensor::Table(table),
                Tensor::Vector(vector) => PackedTensor::Vector(vector),
            });
            Ok(())
        })?;
        let weights =
            PackedWeights::from_tensors(&self.header, tensors).map_err(|error| malformed(&self.path.join(WEIGHTS_FILE), &error))?;
        Ok(PackedModel { weights, origin: PackedOrigin::InMemory { because } })
    }

    fn write_packed(&self) -> Result<(), ModelError> {
        let path = self.packed_path();
        let parent = write::parent_of(&path);
        let staging = tempfile::Builder::new().prefix(".quern-packed-").tempdir_in(&parent).map_err(ModelError::write(&path))?;
        let new = staging.path().join("packed");
        let mut writer = packed::Writer::new(&new)?;
        let root = self.each_verified(&mut |_, tensor| writer.tensor(tensor.as_ref()))?;
        writer.finish(root)?;
        std::fs::rename(&new, &path).map_err(ModelError::write(&path))
    }

    /// A decoder's weights as they are hashed, all of them in memory: for traces and openings.
    ///
    /// # Errors
    /// [`ModelError::Family`] if it is an encoder; a tensor that is malformed.
    pub fn model(&self) -> Result<Model, ModelError> {
        if !self.is_decoder() {
            return Err(self.family("a decoder", "an encoder"));
        }
        let file = self.path.join(WEIGHTS_FILE);
        let mut reader = reader(&self.path, &self.header)?;
        let tensors =
            reader.tensors().map(|tensor| Ok(tensor.map_err(unreadable(&self.path))?.1)).collect::<Result<Vec<_>, ModelError>>()?;
        let weights = DecoderWeights::from_tensors(&self.header, tensors).map_err(|error| malformed(&file, &error))?;
        Model::new(self.header.clone(), weights).map_err(|error| malformed(&file, &error))
    }

    fn family(&self, needed: &'static str, found: &'static str) -> ModelError {
        ModelError::Family { path: self.path.clone(), needed, found }
    }
}

fn reader(package: &Path, header: &Header) -> Result<layout::Reader, ModelError> {
    let path = package.join(WEIGHTS_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(ModelError::MissingFile { path, needed_for: "every package holds it; `quern model import` writes packages" });
        }
        Err(error) => return Err(ModelError::read(path)(error)),
    };
    layout::Reader::new(header, file).map_err(unreadable(package))
}

fn unreadable(package: &Path) -> impl Fn(ReadError) -> ModelError {
    let path = package.join(WEIGHTS_FILE);
    move |error| match error {
        ReadError::Io(error) => ModelError::read(&path)(error),
        ReadError::Layout(LayoutError::Length { expected, found }) => ModelError::FileSize { path: path.clone(), expected, found },
        ReadError::Layout(error) => malformed(&path, &error),
    }
}

fn read_chat(path: &Path, hash: B256) -> Result<Chat, ModelError> {
    let json = read_needed(path, "conversion.json says that the model has a chat format")?;
    hash_equals(path, "the chat format", hash, keccak256(&json))?;
    serde_json::from_slice(&json).map_err(ModelError::json(path))
}

fn hash_equals(path: &Path, part: &str, expected: B256, found: B256) -> Result<(), ModelError> {
    if expected == found {
        return Ok(());
    }
    Err(ModelError::Hash { path: path.to_owned(), part: part.to_owned(), expected: format!("{expected:?}"), found: format!("{found:?}") })
}

fn malformed(path: &Path, reason: &impl ToString) -> ModelError {
    ModelError::Malformed { path: path.to_owned(), reason: reason.to_string() }
}

fn read_needed(path: &Path, needed_for: &'static str) -> Result<Vec<u8>, ModelError> {
    match std::fs::read(path) {
        Ok(content) => Ok(content),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(ModelError::MissingFile { path: path.to_owned(), needed_for }),
        Err(error) => Err(ModelError::read(path)(error)),
    }
}
