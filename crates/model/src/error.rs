//! What can go wrong between a folder of weights and a vector.

use std::path::PathBuf;

use thiserror::Error;

/// Errors of this crate. Each names the file, the tensor or field in it, what was expected and what was found.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that a model folder or a package must have is not there.
    #[error("{path} is missing: {needed_for}")]
    MissingFile {
        /// The file.
        path: PathBuf,
        /// What it is for, and where it comes from.
        needed_for: &'static str,
    },
    /// A JSON file is not what its readers expect.
    #[error("{path} is not valid")]
    Json {
        /// The file.
        path: PathBuf,
        /// Position and reason.
        source: serde_json::Error,
    },
    /// A field of a configuration asks for arithmetic that is not supported, or makes no sense.
    #[error("{path}: field {field} is {found}; expected {expected}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// Its value, or "missing".
        found: String,
        /// What is supported.
        expected: String,
    },
    /// A checkpoint has a field that may ask for other arithmetic: it is in no list of this importer.
    #[error("{path}: field {field} is {found}; this importer does not know it, so it may change what is computed. {}", ignore(.field))]
    UnknownField {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// Its value.
        found: String,
    },
    /// A checkpoint has a tensor that no arithmetic of ours uses.
    #[error("{path}: tensor {tensor} would not be used, so something else would be computed. {}", ignore(.tensor))]
    UnknownTensor {
        /// The file, or the list of the files.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A safetensors file is truncated or corrupt.
    #[error("{path} ({bytes} bytes) is not a whole safetensors file: {reason}; fetch it again")]
    SafeTensors {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// What the parser says.
        reason: String,
    },
    /// A GGUF file cannot be read.
    #[error("{path} cannot be read as GGUF: {reason}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        reason: String,
    },
    /// A tensor that the architecture needs is in none of the files.
    #[error("{path}: tensor {tensor} is missing; expected shape {expected:?}")]
    MissingTensor {
        /// The file, or the index of the shards.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape it should have by config.json.
        expected: Vec<usize>,
    },
    /// A tensor's shape contradicts config.json.
    #[error("{path}: tensor {tensor} has shape {found:?}; config.json implies {expected:?}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape by config.json.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor's element type is none that is converted.
    #[error("{path}: tensor {tensor} has type {found}; expected F32, F16 or BF16")]
    ElementType {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The type in the file.
        found: String,
    },
    /// The system refuses the memory that a tensor packed for the kernels takes, where it cannot be packed into a file.
    #[error(
        "{path}: tensor {tensor} cannot be packed into memory; where the package's folder is writable, it is packed into a file instead"
    )]
    OutOfMemory {
        /// The package.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// How much was asked for.
        source: quern_exact::kernels::OutOfMemory,
    },
    /// A tensor holds NaN or infinity.
    #[error("{path}: tensor {tensor} holds {value} at {index:?}; only finite numbers can be converted")]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Row and column, or the index in a vector.
        index: Vec<usize>,
        /// "NaN" or "infinity".
        value: &'static str,
    },
    /// A number is too large for the profile.
    #[error("{path}: tensor {tensor} at {index:?} is past the profile's limit of about {limit}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Row and column, or the index in a vector.
        index: Vec<usize>,
        /// The limit: 63.5 for weights, 131072 for biases, gains and tables.
        limit: &'static str,
    },
    /// The norm before a layer's values is so large that no bound for the values holds.
    #[error(
        "layer {layer}: the norm before the values can pass int32 in Q14, so their static shift has no proof; this model does not fit the profile"
    )]
    ValuesUnbounded {
        /// The layer, from 0.
        layer: usize,
    },
    /// The header that a model implies is outside of the protocol's bounds.
    #[error("the model does not fit the profile: {reason}")]
    Header {
        /// Which bound.
        reason: String,
    },
    /// tokenizer.json cannot be used.
    #[error("{path} cannot be used: {reason}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A text could not be turned into ids, or ids into a text.
    #[error("the tokenizer fails: {reason}")]
    Tokenize {
        /// What the tokenizer says.
        reason: String,
    },
    /// The output folder is already there.
    #[error("{path} already exists; pass --force to replace a package, or choose another place")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The folder to replace is not a package.
    #[error("{path} is not a package, so it is not replaced; choose another place")]
    NotReplaced {
        /// The folder.
        path: PathBuf,
    },
    /// A package's file has the wrong size.
    #[error("{path} has {found} bytes; expected {expected}: truncated or not of this package")]
    FileSize {
        /// The file.
        path: PathBuf,
        /// The size that the header implies.
        expected: u64,
        /// The size on disk.
        found: u64,
    },
    /// A package's file does not follow its format.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Which rule is broken, with the offset or tensor and row.
        reason: String,
    },
    /// A package's content does not hash to what the package states.
    #[error("{path}: the hash of {part} is {found}; the package states {expected}: corrupt or tampered with; import it again")]
    Hash {
        /// The file.
        path: PathBuf,
        /// A tensor, the weights, the tokenizer or the package.
        part: String,
        /// The hash in conversion.json.
        expected: String,
        /// The hash of what is there.
        found: String,
    },
    /// The file packed for this machine is not what its package makes.
    #[error("{path}: tensor {tensor} is not that of the package; remove the file, it is made again when the package is next used")]
    Packed {
        /// The packed file.
        path: PathBuf,
        /// The first tensor that differs.
        tensor: String,
    },
    /// A package of the other kind of model.
    #[error("{path} is {found}, and {needed} is needed")]
    Family {
        /// The package.
        path: PathBuf,
        /// "an encoder" or "a decoder".
        needed: &'static str,
        /// The other.
        found: &'static str,
    },
    /// Somebody asked for an import to end.
    #[error("interrupted; nothing was left behind")]
    Interrupted,
    /// A chat template cannot be used.
    #[error("the model's chat template fails: {reason}")]
    Template {
        /// What the template engine says.
        reason: String,
    },
    /// A prompt without ids.
    #[error("the prompt has no tokens; write something")]
    EmptyPrompt,
    /// A prompt that there is no room for.
    #[error("the prompt has {tokens} tokens; there is room for {room}. Shorten it: nothing is cut silently")]
    PromptTooLong {
        /// Its tokens.
        tokens: usize,
        /// Positions of the context, or those that memory was taken for.
        room: usize,
    },
    /// Keys and values that do not fit the memory that is free.
    #[error(
        "the keys and values of {positions} positions take {} MiB, and {} MiB are free: ask for fewer positions (--max-tokens, --context), or end other \
         programs", bytes.div_ceil(1 << 20), free >> 20
    )]
    Memory {
        /// Positions asked for.
        positions: usize,
        /// Bytes that they take.
        bytes: u64,
        /// Bytes that there are.
        free: u64,
    },
    /// A decoder cannot do what it was asked.
    #[error(transparent)]
    Decoder(#[from] quern_exact::decoder::DecoderError),
    /// A package is sound, but not the one that was asked for.
    #[error("{path} is package {found}; expected {expected}")]
    OtherPackage {
        /// The package.
        path: PathBuf,
        /// The root that was asked for.
        expected: String,
        /// The package's root.
        found: String,
    },
    /// A text has more tokens than the model reads.
    #[error("line {line} has {tokens} tokens; the model reads at most {context}. Split it: nothing is cut silently")]
    TooLong {
        /// The line, from 1.
        line: usize,
        /// Its tokens, special ones included.
        tokens: usize,
        /// The model's context.
        context: usize,
    },
    /// The float reference failed; it serves comparison only.
    #[error("the float reference failed while {doing}: {reason}")]
    Reference {
        /// What was being computed.
        doing: String,
        /// What candle says.
        reason: String,
    },
    /// The corpus of the fidelity test cannot be used.
    #[error("corpus {path}: {reason}")]
    Corpus {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

fn ignore(name: &str) -> String {
    format!("If you know that it changes nothing, import with --ignore {name}")
}

impl ModelError {
    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }

    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }

    pub(crate) fn json(path: impl Into<PathBuf>) -> impl FnOnce(serde_json::Error) -> Self {
        let path = path.into();
        move |source| Self::Json { path, source }
    }
}
