//! Packages: a folder with header.bin, weights.bin, tokenizer.json and conversion.json, named by its root.

mod layout;
mod record;
mod roots;
mod write;

use std::path::{Path, PathBuf};

pub use record::{ConversionRecord, SourceRecord, TensorRecord};

use quern_commit::model::{package_root, tokenizer_hash};
use quern_exact::{
    encoder::{Encoder, EncoderWeights},
    header::{self, Header},
    layout::tensor_specs,
};
use quern_types::{B256, PackageRoot};

use crate::{
    ModelError, Tokenizer,
    convert::convert,
    source::{Source, sha256_hex},
};
use roots::Roots;

const HEADER_FILE: &str = "header.bin";
const WEIGHTS_FILE: &str = "weights.bin";
const TOKENIZER_FILE: &str = "tokenizer.json";
const RECORD_FILE: &str = "conversion.json";
/// The version of conversion.json that this release writes and reads.
const RECORD_FORMAT: u32 = 1;

/// A package in memory. Its weights are well formed and fit its header; only [`Package::verify`] says that they are the ones that its
/// root names.
#[derive(Debug)]
pub struct Package {
    path: PathBuf,
    header: Header,
    weights: EncoderWeights,
    tokenizer: Tokenizer,
    record: ConversionRecord,
    weights_bytes: u64,
}

impl Package {
    /// Converts a Hugging Face folder and writes the package to `out`, whole or not at all.
    ///
    /// # Errors
    /// Whatever is wrong with the folder; [`ModelError::Exists`] if `out` is there and `replace` is not set, [`ModelError::NotReplaced`] if it
    /// is set and `out` is something else than a package.
    pub fn import(folder: &Path, out: &Path, replace: bool) -> Result<Self, ModelError> {
        write::check_destination(out, replace)?;
        let source = Source::read(folder)?;
        let tokenizer_path = folder.join(TOKENIZER_FILE);
        let tokenizer_json =
            read_needed(&tokenizer_path, "it turns text into ids; a Hugging Face model folder with a fast tokenizer holds it")?;
        let tokenizer = Tokenizer::from_bytes(&tokenizer_json, &tokenizer_path, source.config.vocabulary)?;
        let header = source.config.header(tokenizer.prefix_id()?)?;
        let (weights, unknown) = convert(&source, &header, &tokenizer.encode("")?)?;

        let hash = tokenizer_hash(&tokenizer_json);
        let roots = Roots::of(&header, &weights, hash)?;
        let mut notes = source.config.notes.clone();
        notes.extend(unknown.iter().map(|name| format!("tensor {name} is not known to this importer and was ignored")));
        let record = record(&header, &roots, hash, &source, &tokenizer_json, notes)?;
        let tensors = weights.tensors().map(|(_, tensor)| tensor);
        let weights_file = layout::write(&header, tensors).map_err(|error| malformed(&out.join(WEIGHTS_FILE), &error))?;
        let mut record_json = serde_json::to_vec_pretty(&record).map_err(ModelError::json(out.join(RECORD_FILE)))?;
        record_json.push(b'\n');
        write::write_folder(
            out,
            replace,
            &[
                (HEADER_FILE, &header.to_bytes()),
                (WEIGHTS_FILE, &weights_file),
                (TOKENIZER_FILE, &tokenizer_json),
                (RECORD_FILE, &record_json),
            ],
        )?;
        Ok(Self { path: out.to_owned(), header, weights, tokenizer, record, weights_bytes: weights_file.len() as u64 })
    }

    /// Reads a package. Every file must be whole and well formed, and the header and tokenizer must be those of the stated root; the
    /// weights are not hashed here ([`Package::verify`]).
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

        let weights_file = read_needed(&at(WEIGHTS_FILE), IN_PACKAGE)?;
        let tensors = layout::read(&header, &weights_file).map_err(|error| match error {
            layout::LayoutError::Length { expected, found } => ModelError::FileSize { path: at(WEIGHTS_FILE), expected, found },
            error => malformed(&at(WEIGHTS_FILE), &error),
        })?;
        let weights = EncoderWeights::from_tensors(&header, tensors).map_err(|error| malformed(&at(WEIGHTS_FILE), &error))?;
        Ok(Self { path: path.to_owned(), header, weights, tokenizer, record, weights_bytes: weights_file.len() as u64 })
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

    /// Hashes all weights and compares with the stated roots. A package that passes computes what its root names, to the bit.
    ///
    /// # Errors
    /// [`ModelError::Hash`] with the first tensor that differs.
    pub fn verify(&self) -> Result<PackageRoot, ModelError> {
        let file = self.path.join(WEIGHTS_FILE);
        let roots = Roots::of(&self.header, &self.weights, self.record.tokenizer_hash)?;
        if roots.tensors.len() != self.record.tensors.len() {
            let reason = format!("{} tensors are recorded; the header implies {}", self.record.tensors.len(), roots.tensors.len());
            return Err(malformed(&self.path.join(RECORD_FILE), &reason));
        }
        for ((name, root), recorded) in roots.tensors.iter().zip(&self.record.tensors) {
            hash_equals(&file, &format!("tensor {name}"), recorded.root, *root)?;
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

    /// The weights, as they are hashed.
    #[must_use]
    pub fn weights(&self) -> &EncoderWeights {
        &self.weights
    }

    /// Text to ids and back.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
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
    /// [`ModelError::Header`] if this release cannot run such a model.
    pub fn encoder(&self) -> Result<Encoder, ModelError> {
        Encoder::new(self.header.clone(), self.weights.clone()).map_err(|error| ModelError::Header { reason: error.to_string() })
    }
}

fn record(
    header: &Header,
    roots: &Roots,
    tokenizer_hash: B256,
    source: &Source,
    tokenizer_json: &[u8],
    notes: Vec<String>,
) -> Result<ConversionRecord, ModelError> {
    let specs = tensor_specs(header).map_err(|error| ModelError::Header { reason: error.to_string() })?;
    let shapes = specs.iter().map(|spec| spec.shape.to_string());
    let tensors = roots.tensors.iter().zip(shapes).map(|((name, root), shape)| TensorRecord { name: name.to_string(), shape, root: *root });
    let tokenizer = (TOKENIZER_FILE.to_owned(), sha256_hex(tokenizer_json));
    let sources = source.files.iter().cloned().chain([tokenizer]).map(|(file, sha256)| SourceRecord { file, sha256 }).collect();
    Ok(ConversionRecord {
        format: RECORD_FORMAT,
        tool: concat!("quern ", env!("CARGO_PKG_VERSION")).to_owned(),
        package_root: roots.package,
        weights_root: roots.weights,
        tokenizer_hash,
        tensors: tensors.collect(),
        sources,
        notes,
    })
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
