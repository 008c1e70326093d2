//! From a checkpoint to a package on the disk: whole or not at all.

use std::{
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
};

use quern_commit::model::tokenizer_hash;
use quern_exact::{
    header::Header,
    layout::{TensorSpec, tensor_specs},
};
use quern_types::{B256, keccak256};

use super::{
    CHAT_FILE, Content, ConversionRecord, HEADER_FILE, Package, RECORD_FILE, RECORD_FORMAT, SourceRecord, TOKENIZER_FILE, TensorRecord,
    WEIGHTS_FILE,
    layout::{self, WriteError},
    malformed, packed,
    roots::{Roots, TensorRoots},
    write::{Staging, check_destination},
};
use crate::{
    ModelError, Tokenizer,
    convert::{convert_decoder, convert_encoder, elements},
    source::{Chat, DecoderSource, EncoderSource, FileToHash, Source, Unknown, sha256_files, sha256_hex},
};

/// How a checkpoint is made a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// Whether a package that is there already is replaced.
    pub replace: bool,
    /// Positions of the model's context, where fewer are wanted than the checkpoint and the profile allow. Decoders only.
    pub context: Option<u32>,
    /// Whether the file packed for this machine's kernels is written too. Decoders only.
    pub packed: bool,
    /// Fields of config.json or of a GGUF file, and tensors, that are not known and would be refused, by name. Each that is there is noted in the record.
    pub ignore: Vec<String>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { replace: false, context: None, packed: true, ignore: Vec::new() }
    }
}

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportProgress {
    /// Bytes of the checkpoint hashed, and numbers converted. An encoder's are converted twice.
    pub done: u64,
    /// Of both in all.
    pub total: u64,
}

/// Counts the work, tells somebody, and asks whether to go on.
struct Meter<'a> {
    progress: ImportProgress,
    report: &'a mut dyn FnMut(ImportProgress) -> bool,
}

impl Meter<'_> {
    fn add(&mut self, done: u64) -> Result<(), ModelError> {
        self.progress.done += done;
        if (self.report)(self.progress) { Ok(()) } else { Err(ModelError::Interrupted) }
    }

    /// Where less was to be done than was feared.
    fn finish(&mut self) -> Result<(), ModelError> {
        self.add(self.progress.total - self.progress.done)
    }
}

/// What is written beside the weights.
struct Companions<'a> {
    tokenizer_json: &'a [u8],
    chat: Option<&'a Chat>,
    /// Name and sha256 of each file that was read.
    files: Vec<(String, String)>,
    notes: Vec<String>,
}

/// A package that is being written.
struct Importer<'a> {
    out: &'a Path,
    header: Header,
    staging: Staging,
    weights: layout::Writer<BufWriter<File>>,
    roots: TensorRoots,
}

impl<'a> Importer<'a> {
    fn new(out: &'a Path, header: Header) -> Result<Self, ModelError> {
        let staging = Staging::new(out)?;
        let path = staging.path(WEIGHTS_FILE);
        let file = File::create_new(&path).map_err(ModelError::write(&path))?;
        let weights = layout::Writer::new(&header, BufWriter::new(file)).map_err(not_written(&path))?;
        Ok(Self { out, header, staging, weights, roots: TensorRoots::default() })
    }

    fn tensor(&mut self, name: quern_exact::layout::TensorName, tensor: quern_exact::layout::TensorRef<'_>) -> Result<(), ModelError> {
        self.roots.push(name, tensor);
        self.weights.tensor(tensor).map_err(not_written(&self.staging.path(WEIGHTS_FILE)))
    }

    /// Writes the other files and puts everything in its place. Returns the record and the size of the weights.
    fn finish(self, replace: bool, packed: Option<packed::Writer>, with: Companions<'_>) -> Result<(ConversionRecord, u64), ModelError> {
        let Self { out, header, staging, weights, roots } = self;
        let path = staging.path(WEIGHTS_FILE);
        let (file, bytes) = weights.finish().map_err(not_written(&path))?;
        let flushed = file.into_inner().map_err(std::io::IntoInnerError::into_error).and_then(|file| file.sync_all());
        flushed.map_err(ModelError::write(&path))?;

        let tokenizer_hash = tokenizer_hash(with.tokenizer_json);
        let roots = roots.finish(&header, tokenizer_hash)?;
        if let Some(packed) = packed {
            packed.finish(roots.package)?;
        }
        staging.write(HEADER_FILE, &header.to_bytes())?;
        staging.write(TOKENIZER_FILE, with.tokenizer_json)?;
        let chat = with.chat.map(|chat| pretty(chat, &out.join(CHAT_FILE))).transpose()?;
        if let Some(chat) = &chat {
            staging.write(CHAT_FILE, chat)?;
        }
        let record = record(&header, &roots, tokenizer_hash, chat.as_ref().map(keccak256), with)?;
        staging.write(RECORD_FILE, &pretty(&record, &out.join(RECORD_FILE))?)?;
        staging.commit(out, replace, &packed::path(out))?;
        Ok((record, bytes))
    }
}

impl Package {
    /// Converts a Hugging Face folder of an encoder or a decoder, or a GGUF file of a decoder, and writes the package to `out`, whole or not at all.
    ///
    /// # Errors
    /// Whatever is wrong with the folder; [`ModelError::Exists`] if `out` is there and `replace` is not set, [`ModelError::NotReplaced`] if it
    /// is set and `out` is something else than a package.
    pub fn import(from: &Path, out: &Path, replace: bool) -> Result<Self, ModelError> {
        Self::import_with(from, out, &ImportOptions { replace, ..ImportOptions::default() }, &mut |_| true)
    }

    /// As [`Package::import`]. `progress` is told how far it is a few times a second, and ends the import by returning false.
    ///
    /// A decoder is converted in one pass, tensor after tensor: in memory are its largest matrix, once as it is hashed and once packed.
    ///
    /// # Errors
    /// As [`Package::import`], and [`ModelError::Interrupted`]; nothing is left behind then.
    pub fn import_with(
        from: &Path,
        out: &Path,
        options: &ImportOptions,
        progress: &mut dyn FnMut(ImportProgress) -> bool,
    ) -> Result<Self, ModelError> {
        check_destination(out, options.replace)?;
        match Source::read(from)? {
            Source::Encoder(source) => import_encoder(from, &source, out, options, progress),
            Source::Decoder(source) => import_decoder(from, &source, out, options, progress),
        }
    }
}

fn import_encoder(
    from: &Path,
    source: &EncoderSource,
    out: &Path,
    options: &ImportOptions,
    report: &mut dyn FnMut(ImportProgress) -> bool,
) -> Result<Package, ModelError> {
    if options.context.is_some() {
        return Err(ModelError::Header { reason: "an encoder's context is that of its position table".to_owned() });
    }
    let EncoderSource { config, tensors, .. } = source;
    let mut notes = config.notes.clone();
    heed(config.unknown.clone(), options, &mut notes)?;
    let (tokenizer_json, tokenizer) = read_tokenizer(from, config.vocabulary)?;
    let header = config.header(tokenizer.prefix_id()?)?;
    let specs = specs(&header)?;
    heed(source.unknown_tensors(&specs), options, &mut notes)?;
    let mut meter = meter(&tensors.files, 2 * elements(&specs), report);
    let files = [source.files.clone(), sha256_files(&tensors.files, &mut |bytes| meter.add(bytes))?].concat();
    let weights = convert_encoder(source, &header, &specs, &tokenizer.encode("")?, &mut |elements| meter.add(elements))?;
    meter.finish()?;
    let mut importer = Importer::new(out, header.clone())?;
    for (name, tensor) in weights.tensors() {
        importer.tensor(name, tensor)?;
    }
    let with = Companions { tokenizer_json: &tokenizer_json, chat: None, files, notes };
    let (record, weights_bytes) = importer.finish(options.replace, None, with)?;
    Ok(Package { path: out.to_owned(), header, content: Content::Encoder(Box::new(weights)), tokenizer, chat: None, record, weights_bytes })
}

fn import_decoder(
    from: &Path,
    source: &DecoderSource,
    out: &Path,
    options: &ImportOptions,
    report: &mut dyn FnMut(ImportProgress) -> bool,
) -> Result<Package, ModelError> {
    let mut notes = source.config.notes.clone();
    heed(source.config.unknown.clone(), options, &mut notes)?;
    let (tokenizer_json, tokenizer) = match &source.tokenizer_json {
        Some(json) => (json.clone(), Tokenizer::from_bytes(json, from, source.config.vocabulary)?),
        None if from.is_file() => read_tokenizer(&super::write::parent_of(from), source.config.vocabulary)?,
        None => read_tokenizer(from, source.config.vocabulary)?,
    };
    let (header, cut) = source.config.header(tokenizer.prefix_id()?, options.context)?;
    notes.extend(cut);
    let specs = specs(&header)?;
    heed(source.unknown_tensors(&specs), options, &mut notes)?;
    let mut meter = meter(&source.weights, elements(&specs), report);
    let files = [source.files.clone(), sha256_files(&source.weights, &mut |bytes| meter.add(bytes))?].concat();
    let mut importer = Importer::new(out, header.clone())?;
    let mut packed = options.packed.then(|| packed::Writer::new(&importer.staging.packed_path())).transpose()?;
    convert_decoder(source, &header, &specs, &mut |elements| meter.add(elements), |name, tensor| {
        importer.tensor(name, tensor.as_ref())?;
        packed.as_mut().map_or(Ok(()), |packed| packed.tensor(tensor.as_ref()))
    })?;
    let with = Companions { tokenizer_json: &tokenizer_json, chat: source.chat.as_ref(), files, notes };
    let (record, weights_bytes) = importer.finish(options.replace, packed, with)?;
    Ok(Package { path: out.to_owned(), header, content: Content::Decoder, tokenizer, chat: source.chat.clone(), record, weights_bytes })
}

/// Refuses what is not known; what is to be ignored all the same is noted.
fn heed(unknown: Vec<Unknown>, options: &ImportOptions, notes: &mut Vec<String>) -> Result<(), ModelError> {
    for unknown in unknown {
        notes.push(unknown.heed(&options.ignore)?);
    }
    Ok(())
}

fn meter<'a>(files: &[FileToHash], elements: u64, report: &'a mut dyn FnMut(ImportProgress) -> bool) -> Meter<'a> {
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    Meter { progress: ImportProgress { done: 0, total: bytes + elements }, report }
}

fn specs(header: &Header) -> Result<Vec<TensorSpec>, ModelError> {
    tensor_specs(header).map_err(|error| ModelError::Header { reason: error.to_string() })
}

fn read_tokenizer(folder: &Path, vocabulary: u32) -> Result<(Vec<u8>, Tokenizer), ModelError> {
    let path = folder.join(TOKENIZER_FILE);
    let json = super::read_needed(&path, "it turns text into ids; a Hugging Face model folder with a fast tokenizer holds it")?;
    let tokenizer = Tokenizer::from_bytes(&json, &path, vocabulary)?;
    Ok((json, tokenizer))
}

fn pretty(value: &impl serde::Serialize, path: &Path) -> Result<Vec<u8>, ModelError> {
    let mut json = serde_json::to_vec_pretty(value).map_err(ModelError::json(path))?;
    json.push(b'\n');
    Ok(json)
}

fn not_written(path: &Path) -> impl FnOnce(WriteError) -> ModelError {
    let path: PathBuf = path.to_owned();
    move |error| match error {
        WriteError::Io(error) => ModelError::write(path)(error),
        WriteError::Layout(error) => malformed(&path, &error),
    }
}

fn record(
    header: &Header,
    roots: &Roots,
    tokenizer_hash: B256,
    chat_hash: Option<B256>,
    with: Companions<'_>,
) -> Result<ConversionRecord, ModelError> {
    let specs = specs(header)?;
    let shapes = specs.iter().map(|spec| spec.shape.to_string());
    let tensors = roots.tensors.iter().zip(shapes).map(|((name, root), shape)| TensorRecord { name: name.to_string(), shape, root: *root });
    let tokenizer = (TOKENIZER_FILE.to_owned(), sha256_hex(with.tokenizer_json));
    let sources = with.files.into_iter().chain([tokenizer]).map(|(file, sha256)| SourceRecord { file, sha256 }).collect();
    Ok(ConversionRecord {
        format: RECORD_FORMAT,
        tool: concat!("quern ", env!("CARGO_PKG_VERSION")).to_owned(),
        package_root: roots.package,
        weights_root: roots.weights,
        tokenizer_hash,
        chat_hash,
        tensors: tensors.collect(),
        sources,
        notes: with.notes,
    })
}
