//! The file beside a package that is packed for this machine's kernels: derived, never hashed, and mapped into memory as it is.
//!
//! | offset | what |
//! |---|---|
//! | 0 | magic `QUERN\0PK` |
//! | 8 | version u32: 1 |
//! | 12 | the packed matrices' layout u32 |
//! | 16 | package root |
//! | 64 | the tensors in the order that is hashed, each at a multiple of 64: a matrix as [`Packed`] has it, a table or vector as its int32, little-endian |
//!
//! The beginning is written last, so a file with another one is none. INVARIANT: a file that states a root was made of weights that had been
//! hashed to that root. TRUST: that nobody but this user writes to it afterwards; `Package::verify` compares it with the package.

use std::{
    fs::File,
    io::{BufWriter, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::{Advice, Mmap};
use quern_commit::model::package_root;
use quern_exact::{
    decoder::PackedWeights,
    format::{TableI32, VectorI32},
    header::Header,
    kernels::{Packed, PackedError},
    layout::{PackedTensor, Tensor, TensorRef, TensorShape, TensorSpec, tensor_specs},
};
use quern_types::{B256, PackageRoot};

use super::malformed;
use crate::ModelError;

const MAGIC: &[u8; 8] = b"QUERN\0PK";
const VERSION: u32 = 1;
const HEAD: usize = 64;
const ALIGNMENT: usize = 64;

/// Where the packed file of a package lies: beside it, so that nobody publishes it.
pub(super) fn path(package: &Path) -> PathBuf {
    let mut name = package.file_name().unwrap_or_default().to_owned();
    name.push(".packed");
    package.with_file_name(name)
}

fn head(root: PackageRoot) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..16].copy_from_slice(&Packed::LAYOUT.to_le_bytes());
    head[16..48].copy_from_slice(root.0.as_slice());
    head
}

/// Bytes of a tensor, without padding.
fn bytes(shape: TensorShape) -> usize {
    match shape {
        TensorShape::Matrix { rows, cols, .. } => Packed::bytes(rows, cols),
        TensorShape::Table { rows, width } => 4 * rows * width,
        TensorShape::Vector { len } => 4 * len,
    }
}

/// The bytes of a tensor, padded.
fn pack(tensor: TensorRef<'_>) -> Vec<u8> {
    let length = bytes(tensor.shape());
    let mut packed = vec![0; length.next_multiple_of(ALIGNMENT)];
    let numbers = |out: &mut [u8], numbers: &[i32]| {
        for (four, number) in out.as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
            *four = number.to_le_bytes();
        }
    };
    match tensor {
        TensorRef::Matrix(matrix) => Packed::write(matrix, &mut packed[..length]),
        TensorRef::Table(table) => numbers(&mut packed, table.data()),
        TensorRef::Vector(vector) => numbers(&mut packed, vector.as_slice()),
    }
    packed
}

/// Writes a packed file, tensor after tensor.
pub(super) struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Writer {
    pub(super) fn new(path: &Path) -> Result<Self, ModelError> {
        let file = File::create_new(path).map_err(ModelError::write(path))?;
        let mut file = BufWriter::new(file);
        file.write_all(&[0; HEAD]).map_err(ModelError::write(path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Packs the next tensor of the list.
    pub(super) fn tensor(&mut self, tensor: TensorRef<'_>) -> Result<(), ModelError> {
        self.file.write_all(&pack(tensor)).map_err(ModelError::write(&self.path))
    }

    /// Binds the file to a root and flushes it to the disk.
    pub(super) fn finish(self, root: PackageRoot) -> Result<(), ModelError> {
        let file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error);
        let bound = file.and_then(|mut file| {
            file.sync_all()?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&head(root))?;
            file.sync_all()
        });
        bound.map_err(ModelError::write(self.path))
    }
}

/// Bytes of the packed file of a model.
pub(crate) fn length(header: &Header) -> Result<usize, ModelError> {
    let specs = tensor_specs(header).map_err(|error| ModelError::Header { reason: error.to_string() })?;
    Ok(HEAD + specs.iter().map(|spec| bytes_padded(spec.shape)).sum::<usize>())
}

/// Random weights, for measuring: a packed file as a package has one beside it, of a root that no package has.
pub(crate) struct Unpublished<'a> {
    header: &'a Header,
    root: PackageRoot,
    /// Where the package would be.
    package: PathBuf,
}

impl<'a> Unpublished<'a> {
    /// In `folder`, under this name. Writes the file tensor by tensor, unless one that fits is there.
    pub(crate) fn new(
        folder: &Path,
        name: &str,
        header: &'a Header,
        mut make: impl FnMut(TensorSpec) -> Tensor,
    ) -> Result<Self, ModelError> {
        let root = package_root(header, &B256::ZERO, &B256::ZERO);
        let unpublished = Self { header, root, package: folder.join(name) };
        if let Err(Unfit::Missing | Unfit::Stale(_)) = Mapped::open(&unpublished.package, header, root) {
            let path = path(&unpublished.package);
            let staging = tempfile::Builder::new().prefix(".quern-packed-").tempdir_in(folder).map_err(ModelError::write(folder))?;
            let new = staging.path().join("packed");
            let mut writer = Writer::new(&new)?;
            for spec in tensor_specs(header).map_err(|error| malformed(&path, &error))? {
                writer.tensor(make(spec).as_ref())?;
            }
            writer.finish(root)?;
            std::fs::rename(&new, &path).map_err(ModelError::write(&path))?;
        }
        Ok(unpublished)
    }

    /// Maps the file.
    pub(crate) fn open(&self) -> Result<PackedWeights, ModelError> {
        let mapped = Mapped::open(&self.package, self.header, self.root);
        mapped.map_err(|unfit| malformed(&path(&self.package), &unfit))?.weights(self.header)
    }
}

/// Why a packed file is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// There is none.
    Missing,
    /// Of another root, layout or length: ours, and of no use any more.
    Stale(String),
    /// No packed file at all: somebody else's, which is left alone.
    Foreign,
    /// It cannot be read.
    Unreadable(String),
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("there is none"),
            Self::Stale(why) => write!(f, "it is stale: {why}"),
            Self::Foreign => f.write_str("what is there is no packed file, and is left alone"),
            Self::Unreadable(why) => write!(f, "it cannot be read: {why}"),
        }
    }
}

/// A packed file in memory, of the right root and length.
pub(super) struct Mapped {
    path: PathBuf,
    bytes: Arc<Mmap>,
}

impl Mapped {
    pub(super) fn open(package: &Path, header: &Header, root: PackageRoot) -> Result<Self, Unfit> {
        let path = path(package);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Unfit::Missing),
            Err(error) => return Err(Unfit::Unreadable(error.to_string())),
        };
        let unreadable = |error: std::io::Error| Unfit::Unreadable(error.to_string());
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(Unfit::Foreign);
        }
        // SAFETY: a mapping is a slice of memory as long as nobody truncates or rewrites the file. Only this crate writes such files, and only under
        // another name, from which they are renamed; the module's TRUST line says the rest.
        #[expect(unsafe_code, reason = "memory-mapped, so that a model opens at once and processes share it")]
        let bytes = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        let length = length(header).map_err(|error| Unfit::Unreadable(error.to_string()))?;
        let expected = head(root);
        match bytes.get(..HEAD) {
            Some(found) if found == expected && bytes.len() == length => {}
            Some(found) if found[..8] != MAGIC[..] => return Err(Unfit::Foreign),
            Some(found) if found[..16] != expected[..16] => return Err(Unfit::Stale("another release wrote it".to_owned())),
            Some(found) if found != expected => return Err(Unfit::Stale("it is of another package".to_owned())),
            Some(_) => return Err(Unfit::Stale(format!("it has {} bytes instead of {length}", bytes.len()))),
            None => return Err(Unfit::Foreign),
        }
        // Speed only; systems that do not know the advice go without.
        #[cfg(target_os = "linux")]
        let _ = bytes.advise(Advice::HugePage);
        #[cfg(unix)]
        let _ = bytes.advise(Advice::WillNeed);
        Ok(Self { path, bytes: Arc::new(bytes) })
    }

    /// The weights, still in the file but for tables and vectors.
    pub(super) fn weights(&self, header: &Header) -> Result<PackedWeights, ModelError> {
        let specs = tensor_specs(header).map_err(|error| malformed(&self.path, &error))?;
        let mut at = HEAD;
        let tensor = |shape| {
            let start = at;
            at += bytes_padded(shape);
            let numbers =
                || self.bytes[start..start + bytes(shape)].as_chunks::<4>().0.iter().map(|four| i32::from_le_bytes(*four)).collect();
            Ok(match shape {
                TensorShape::Matrix { rows, cols, .. } => {
                    let buffer = Arc::clone(&self.bytes) as Arc<dyn AsRef<[u8]> + Send + Sync>;
                    PackedTensor::Matrix(
                        Packed::open(buffer, start, rows, cols).map_err(|error: PackedError| malformed(&self.path, &error))?,
                    )
                }
                TensorShape::Table { rows, width } => {
                    PackedTensor::Table(TableI32::new(rows, width, numbers()).map_err(|error| malformed(&self.path, &error))?)
                }
                TensorShape::Vector { .. } => PackedTensor::Vector(VectorI32::from(numbers())),
            })
        };
        let tensors = specs.iter().map(|spec| spec.shape).map(tensor).collect::<Result<Vec<_>, ModelError>>()?;
        PackedWeights::from_tensors(header, tensors).map_err(|error| malformed(&self.path, &error))
    }

    /// Compares the file with the tensors of the package, in order; the first that differs.
    pub(super) fn comparison(&self) -> Comparison<'_> {
        Comparison { mapped: self, at: HEAD }
    }
}

/// A packed file, being compared with the package that it was made of.
pub(super) struct Comparison<'a> {
    mapped: &'a Mapped,
    at: usize,
}

impl Comparison<'_> {
    /// Whether the next tensor is in the file as it must be.
    pub(super) fn agrees(&mut self, tensor: TensorRef<'_>) -> bool {
        let expected = pack(tensor);
        let start = self.at;
        self.at += expected.len();
        self.mapped.bytes.get(start..self.at) == Some(&expected[..])
    }
}

fn bytes_padded(shape: TensorShape) -> usize {
    bytes(shape).next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use quern_exact::sample::{self, Generator};

    use super::*;

    #[test]
    fn a_file_of_random_weights_is_written_once_and_mapped_again() {
        let (folder, header) = (tempfile::tempdir().unwrap(), sample::small_decoder_header());
        let (mut generator, mut made) = (Generator::new(1), 0);
        let mut unpublished = || {
            Unpublished::new(folder.path(), "random", &header, |spec| {
                made += 1;
                sample::decoder_tensor(&mut generator, spec)
            })
            .unwrap()
            .open()
            .unwrap()
        };
        let (first, second) = (unpublished(), unpublished());
        assert_eq!(made, tensor_specs(&header).unwrap().len());
        let expected = PackedWeights::new(&sample::decoder(&header, 1).unwrap());
        for weights in [first, second] {
            assert_eq!(weights.head().as_bytes(), expected.head().as_bytes());
            let mut layers = weights.layers().zip(expected.layers()).flat_map(|(found, expected)| found.into_iter().zip(expected));
            assert!(layers.all(|(found, expected)| found.as_bytes() == expected.as_bytes()));
        }
        let path = path(&folder.path().join("random"));
        assert_eq!(std::fs::metadata(path).unwrap().len(), length(&header).unwrap() as u64);
    }
}
