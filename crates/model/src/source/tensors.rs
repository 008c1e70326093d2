//! The tensors of a Hugging Face folder: one safetensors file or several with an index. Files stay on the disk; a tensor is read piece by
//! piece, so that no more of it than its reader wants is in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Floats, TensorSource};
use crate::{
    ModelError,
    convert::{f32_bits_of_bf16, f32_bits_of_f16},
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Longest header of a safetensors file, by the format's definition.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes that are hashed between two looks at whether to go on.
const HASHED_AT_ONCE: usize = 4 << 20;

/// The weights of a folder.
pub(crate) struct SafeTensors {
    /// The file that names them all: the only one, or the index.
    path: PathBuf,
    tensors: BTreeMap<String, Place>,
    /// Name and sha256 of the index, where there is one.
    pub(crate) index: Option<(String, String)>,
    /// The files that hold tensors.
    pub(crate) files: Vec<FileToHash>,
}

/// A file that is too long to be read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileToHash {
    /// In its folder.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

impl FileToHash {
    pub(crate) fn new(path: PathBuf) -> Result<Self, ModelError> {
        let bytes = std::fs::metadata(&path).map_err(ModelError::read(&path))?.len();
        Ok(Self { name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path, bytes })
    }
}

/// Where a tensor lies.
struct Place {
    path: PathBuf,
    kind: String,
    shape: Vec<usize>,
    /// Bytes from the start of the file.
    bytes: Range<u64>,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// A tensor's line in the header of a file.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl SafeTensors {
    /// Reads the list of tensors of every safetensors file of a folder.
    pub(crate) fn read(folder: &Path) -> Result<Self, ModelError> {
        let single = folder.join(SINGLE);
        let index = folder.join(INDEX);
        let mut index_hash = None;
        let (path, names) = if single.exists() {
            (single, vec![SINGLE.to_owned()])
        } else if index.exists() {
            let text = std::fs::read(&index).map_err(ModelError::read(&index))?;
            index_hash = Some((INDEX.to_owned(), sha256_hex(&text)));
            let parsed: ShardIndex = serde_json::from_slice(&text).map_err(ModelError::json(&index))?;
            let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
            if let Some(outside) = names.iter().find(|name| Path::new(name).components().count() != 1 || name.starts_with('.')) {
                return Err(ModelError::Field {
                    path: index,
                    field: "weight_map".to_owned(),
                    found: format!("{outside:?}"),
                    expected: "names of files in the same folder".to_owned(),
                });
            }
            (index, names.into_iter().collect())
        } else {
            return Err(ModelError::MissingFile {
                path: single,
                needed_for: "it holds the weights; folders with only pytorch_model.bin must be saved as safetensors first",
            });
        };

        let mut source = Self { path, tensors: BTreeMap::new(), index: index_hash, files: Vec::new() };
        for name in names {
            let path = folder.join(&name);
            for (tensor, place) in list(&path)? {
                source.tensors.insert(tensor, place);
            }
            source.files.push(FileToHash::new(path)?);
        }
        Ok(source)
    }
}

impl TensorSource for SafeTensors {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn rows(&self, name: &str, expected: &[usize], rows: Range<usize>) -> Result<Floats, ModelError> {
        let Some(place) = self.tensors.get(name) else {
            return Err(ModelError::MissingTensor { path: self.path.clone(), tensor: name.to_owned(), expected: expected.to_vec() });
        };
        if place.shape != expected {
            return Err(ModelError::Shape {
                path: place.path.clone(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: place.shape.clone(),
            });
        }
        let Some(size) = float_size(&place.kind) else {
            return Err(ModelError::ElementType { path: place.path.clone(), tensor: name.to_owned(), found: place.kind.clone() });
        };
        let width: usize = expected.iter().skip(1).product();
        let start = place.bytes.start + (rows.start * width * size) as u64;
        let mut data = vec![0; rows.len() * width * size];
        let mut file = File::open(&place.path).map_err(ModelError::read(&place.path))?;
        file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut data)).map_err(ModelError::read(&place.path))?;
        let halves = |bits: fn(u16) -> u32| data.as_chunks::<2>().0.iter().map(|two| bits(u16::from_le_bytes(*two))).collect();
        let bits = match place.kind.as_str() {
            "F16" => halves(f32_bits_of_f16),
            "BF16" => halves(f32_bits_of_bf16),
            _ => data.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect(),
        };
        Floats { path: place.path.clone(), name: name.to_owned(), shape: expected.to_vec(), first: rows.start * width, bits }.finite()
    }
}

/// Bytes of an element; `None` for types that are not converted.
fn float_size(kind: &str) -> Option<usize> {
    match kind {
        "F32" => Some(4),
        "F16" | "BF16" => Some(2),
        _ => None,
    }
}

/// Bits of an element of any type that the format has; `None` for names that it does not have.
fn bits(kind: &str) -> Option<u64> {
    Some(match kind {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

/// The tensors of a file. The data must be covered from end to end, without a gap or an overlap, by tensors as long as their shapes say.
fn list(path: &Path) -> Result<Vec<(String, Place)>, ModelError> {
    let mut file = File::open(path).map_err(ModelError::read(path))?;
    let length = file.metadata().map_err(ModelError::read(path))?.len();
    let corrupt = |reason: String| ModelError::SafeTensors { path: path.to_owned(), bytes: length, reason };
    let mut size = [0; 8];
    if length < 8 {
        return Err(corrupt("it ends before its header".to_owned()));
    }
    file.read_exact(&mut size).map_err(ModelError::read(path))?;
    let header_length = u64::from_le_bytes(size);
    if header_length > MAX_HEADER || header_length > length - 8 {
        return Err(corrupt(format!("its header claims {header_length} bytes")));
    }
    let mut header = vec![0; usize::try_from(header_length).unwrap_or(0)];
    file.read_exact(&mut header).map_err(ModelError::read(path))?;
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&header).map_err(|error| corrupt(format!("its header is no JSON object: {error}")))?;
    fields.remove("__metadata__");
    let data = 8 + header_length;
    let mut tensors = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        let Entry { dtype, shape, data_offsets: (start, end) } =
            serde_json::from_value(value).map_err(|error| corrupt(format!("tensor {name}: {error}")))?;
        let elements = shape.iter().try_fold(1u64, |product, n| product.checked_mul(*n as u64));
        let bits = elements.zip(bits(&dtype)).and_then(|(elements, bits)| elements.checked_mul(bits));
        if start > end || bits != (end - start).checked_mul(8) {
            return Err(corrupt(format!("tensor {name} has bytes {start} to {end} for shape {shape:?} of {dtype}")));
        }
        let bytes = data.saturating_add(start)..data.saturating_add(end);
        tensors.push((name, Place { path: path.to_owned(), kind: dtype, shape, bytes }));
    }
    tensors.sort_by_key(|(_, place)| (place.bytes.start, place.bytes.end));
    let mut at = data;
    for (name, place) in &tensors {
        if place.bytes.start != at {
            return Err(corrupt(format!("tensor {name} begins at byte {}, the one before it ends at {at}", place.bytes.start)));
        }
        at = place.bytes.end;
    }
    if at != length {
        return Err(corrupt(format!("its tensors end at byte {at}")));
    }
    Ok(tensors)
}

/// sha256 in lowercase hexadecimal.
pub(crate) fn sha256_hex(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// Name and sha256 of each file. `on_bytes` is told how many bytes were hashed, piece by piece, and may end the work.
pub(crate) fn sha256_files(
    files: &[FileToHash],
    on_bytes: &mut dyn FnMut(u64) -> Result<(), ModelError>,
) -> Result<Vec<(String, String)>, ModelError> {
    let mut piece = vec![0; HASHED_AT_ONCE];
    let mut hash = |FileToHash { name, path, .. }: &FileToHash| {
        let mut file = File::open(path).map_err(ModelError::read(path))?;
        let mut hasher = Sha256::new();
        loop {
            let read = file.read(&mut piece).map_err(ModelError::read(path))?;
            if read == 0 {
                return Ok((name.clone(), hex(&hasher.finalize())));
            }
            hasher.update(&piece[..read]);
            on_bytes(read as u64)?;
        }
    };
    files.iter().map(&mut hash).collect()
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
