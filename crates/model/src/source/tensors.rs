//! The tensors of a Hugging Face folder, read with candle-core: one safetensors file or several with an index.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, safetensors::BufferedSafetensors};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    ModelError,
    convert::{f32_bits_of_bf16, f32_bits_of_f16, is_finite},
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// One safetensors file in memory.
struct File {
    path: PathBuf,
    tensors: BufferedSafetensors,
}

/// The weights of a folder.
pub(crate) struct SourceTensors {
    /// The file that names them all: the only one, or the index.
    path: PathBuf,
    files: Vec<File>,
    /// Which file holds a tensor.
    holder: BTreeMap<String, usize>,
    /// Name and sha256 of each file that was read.
    pub(crate) sources: Vec<(String, String)>,
}

/// A tensor of finite floats, as bits of f32. Whatever the file's type, each element is exactly the file's number.
#[derive(Debug)]
pub(crate) struct Floats {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) bits: Vec<u32>,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl SourceTensors {
    /// Reads every safetensors file of a folder and the list of their tensors.
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

        let mut source = Self { path, files: Vec::new(), holder: BTreeMap::new(), sources: index_hash.into_iter().collect() };
        for name in names {
            source.add(folder, &name)?;
        }
        Ok(source)
    }

    fn add(&mut self, folder: &Path, name: &str) -> Result<(), ModelError> {
        let path = folder.join(name);
        let content = std::fs::read(&path).map_err(ModelError::read(&path))?;
        let bytes = content.len() as u64;
        self.sources.push((name.to_owned(), sha256_hex(&content)));
        let tensors = BufferedSafetensors::new(content).map_err(|error| ModelError::SafeTensors {
            path: path.clone(),
            bytes,
            reason: first_line(&error),
        })?;
        for (tensor, _) in tensors.tensors() {
            self.holder.insert(tensor, self.files.len());
        }
        self.files.push(File { path, tensors });
        Ok(())
    }

    /// All names, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.holder.keys().map(String::as_str)
    }

    /// A float tensor of exactly this shape, every element finite.
    pub(crate) fn floats(&self, name: &str, expected: &[usize]) -> Result<Floats, ModelError> {
        let file = self.file_of(name, expected)?;
        let corrupt = |reason| ModelError::SafeTensors { path: file.path.clone(), bytes: 0, reason };
        let view = file.tensors.get(name).map_err(|error| corrupt(first_line(&error)))?;
        if view.shape() != expected {
            return Err(ModelError::Shape {
                path: file.path.clone(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: view.shape().to_vec(),
            });
        }
        let halves = |bits: fn(u16) -> u32| view.data().as_chunks::<2>().0.iter().map(|two| bits(u16::from_le_bytes(*two))).collect();
        let bits: Vec<u32> = match DType::try_from(view.dtype()) {
            Ok(DType::F32) => view.data().as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect(),
            Ok(DType::F16) => halves(f32_bits_of_f16),
            Ok(DType::BF16) => halves(f32_bits_of_bf16),
            _ => {
                return Err(ModelError::ElementType {
                    path: file.path.clone(),
                    tensor: name.to_owned(),
                    found: format!("{:?}", view.dtype()),
                });
            }
        };
        // The parser has checked that the data of a tensor is as long as its shape says; a short one must not pass as a small tensor.
        if bits.len() != expected.iter().product::<usize>() {
            return Err(corrupt(format!("tensor {name} has {} elements for shape {expected:?}", bits.len())));
        }
        let floats = Floats { path: file.path.clone(), name: name.to_owned(), shape: expected.to_vec(), bits };
        match floats.bits.iter().position(|bits| !is_finite(*bits)) {
            None => Ok(floats),
            Some(at) => Err(ModelError::NotFinite {
                value: if floats.bits[at] & 0x7f_ffff == 0 { "infinity" } else { "NaN" },
                index: floats.index(at),
                path: floats.path,
                tensor: floats.name,
            }),
        }
    }

    /// The same tensor for the float reference.
    pub(crate) fn candle(&self, name: &str, expected: &[usize]) -> Result<Tensor, ModelError> {
        let file = self.file_of(name, expected)?;
        let failed = |error: candle_core::Error| ModelError::Reference { doing: format!("loading {name}"), reason: first_line(&error) };
        let tensor = file.tensors.load(name, &Device::Cpu).and_then(|tensor| tensor.to_dtype(DType::F32)).map_err(failed)?;
        if tensor.dims() != expected {
            return Err(ModelError::Shape {
                path: file.path.clone(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: tensor.dims().to_vec(),
            });
        }
        Ok(tensor)
    }

    fn file_of(&self, name: &str, expected: &[usize]) -> Result<&File, ModelError> {
        let missing = || ModelError::MissingTensor { path: self.path.clone(), tensor: name.to_owned(), expected: expected.to_vec() };
        self.holder.get(name).and_then(|at| self.files.get(*at)).ok_or_else(missing)
    }
}

impl Floats {
    /// The place of an element: row and column in a matrix.
    pub(crate) fn index(&self, at: usize) -> Vec<usize> {
        match self.shape[..] {
            [_, columns] => vec![at / columns, at % columns],
            _ => vec![at],
        }
    }
}

/// sha256 in lowercase hexadecimal.
pub(crate) fn sha256_hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// candle's errors may carry a backtrace behind their message.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or("unknown error").to_owned()
}
