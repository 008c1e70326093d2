//! The bytes of weights.bin: every tensor in the order that is hashed, each part at a multiple of 64 so that the file can be mapped.
//!
//! Little-endian throughout. Bytes that are not named are zero, and a reader refuses others.
//!
//! | offset | what |
//! |---|---|
//! | 0 | magic `QUERN\0WT` |
//! | 8 | version u32: 1 |
//! | 12 | number of tensors u32 |
//! | 64 | directory, 32 bytes per tensor: kind u32 (1 matrix, 2 matrix with bias, 3 table, 4 vector), rows u32, columns u32, 0 u32, offset u64, length u64 |
//! | next multiple of 64 | the tensors. A matrix is its int8 weights row by row, u16 mantissas row by row, u8 shifts, and int32 biases where it has them; a table or vector is its int32 |

use quern_exact::{
    bounds::GROUP,
    format::{FormatError, Q8Matrix, TableI32, VectorI32},
    header::Header,
    layout::{Tensor, TensorName, TensorRef, TensorShape, TensorSpec, WeightsError, tensor_specs},
};
use thiserror::Error;

const MAGIC: &[u8; 8] = b"QUERN\0WT";
const VERSION: u32 = 1;
const ALIGNMENT: usize = 64;
const ENTRY_BYTES: usize = 32;

/// Why bytes are not the weights of a header.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum LayoutError {
    #[error("it does not begin as a weights file does")]
    Magic,
    #[error("format version {found}; this release reads version {VERSION}")]
    Version { found: u32 },
    #[error("{found} bytes instead of {expected}")]
    Length { expected: u64, found: u64 },
    #[error("byte {at}, in the directory, differs from what the header implies")]
    Directory { at: usize },
    #[error("byte {at} is padding of tensor {tensor} and must be zero")]
    Padding { at: usize, tensor: TensorName },
    #[error("tensor {tensor}: {error}")]
    Tensor { tensor: TensorName, error: FormatError },
    #[error("{0}")]
    Weights(WeightsError),
}

/// Where the parts of a tensor lie.
struct Place {
    spec: TensorSpec,
    /// Offset and length of each part in bytes.
    parts: Vec<(usize, usize)>,
    end: usize,
}

/// Where everything lies in the weights file of a header.
struct Plan {
    places: Vec<Place>,
    /// Everything before the first tensor.
    head: Vec<u8>,
    length: usize,
}

impl Plan {
    /// The bounds of a header keep every sum here below 2^56.
    fn new(header: &Header) -> Result<Self, LayoutError> {
        let specs = tensor_specs(header).map_err(LayoutError::Weights)?;
        let mut at = (ALIGNMENT + specs.len() * ENTRY_BYTES).next_multiple_of(ALIGNMENT);
        let mut places = Vec::with_capacity(specs.len());
        for spec in specs {
            let mut parts = Vec::new();
            for bytes in part_sizes(spec.shape) {
                parts.push((at, bytes));
                at = (at + bytes).next_multiple_of(ALIGNMENT);
            }
            places.push(Place { spec, parts, end: at });
        }
        Ok(Self { head: head(&places), places, length: at })
    }
}

fn head(places: &[Place]) -> Vec<u8> {
    // Sizes are at most 2^24 rows or columns, by the header's bounds.
    let word = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    let mut head = MAGIC.to_vec();
    head.extend(VERSION.to_le_bytes());
    head.extend(word(places.len()));
    head.resize(ALIGNMENT, 0);
    for place in places {
        let (kind, rows, columns) = match place.spec.shape {
            TensorShape::Matrix { rows, cols, bias: false } => (1, rows, cols),
            TensorShape::Matrix { rows, cols, bias: true } => (2, rows, cols),
            TensorShape::Table { rows, width } => (3, rows, width),
            TensorShape::Vector { len } => (4, 1, len),
        };
        head.extend([kind, rows, columns, 0].into_iter().flat_map(word));
        let offset = place.parts.first().map_or(place.end, |(offset, _)| *offset);
        head.extend((offset as u64).to_le_bytes());
        head.extend(((place.end - offset) as u64).to_le_bytes());
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
    head
}

fn part_sizes(shape: TensorShape) -> Vec<usize> {
    match shape {
        TensorShape::Matrix { rows, cols, bias } => {
            let mut sizes = vec![rows * cols, 2 * rows * cols.div_ceil(GROUP), rows];
            if bias {
                sizes.push(4 * rows);
            }
            sizes
        }
        TensorShape::Table { rows, width } => vec![4 * rows * width],
        TensorShape::Vector { len } => vec![4 * len],
    }
}

/// The file of these tensors, which must be those of the header, in order.
pub(crate) fn write<'a>(header: &Header, tensors: impl Iterator<Item = TensorRef<'a>>) -> Result<Vec<u8>, LayoutError> {
    let plan = Plan::new(header)?;
    let mut file = Vec::with_capacity(plan.length);
    file.extend_from_slice(&plan.head);
    for tensor in tensors {
        match tensor {
            TensorRef::Matrix(matrix) => {
                append(&mut file, matrix.weights().iter().map(|w| w.cast_unsigned()));
                append(&mut file, matrix.mantissas().iter().flat_map(|m| m.to_le_bytes()));
                append(&mut file, matrix.shifts().iter().copied());
                if let Some(bias) = matrix.bias() {
                    append(&mut file, bias.iter().flat_map(|b| b.to_le_bytes()));
                }
            }
            TensorRef::Table(table) => append(&mut file, table.data().iter().flat_map(|x| x.to_le_bytes())),
            TensorRef::Vector(vector) => append(&mut file, vector.as_slice().iter().flat_map(|x| x.to_le_bytes())),
        }
    }
    if file.len() == plan.length { Ok(file) } else { Err(LayoutError::Length { expected: plan.length as u64, found: file.len() as u64 }) }
}

fn append(file: &mut Vec<u8>, part: impl Iterator<Item = u8>) {
    file.extend(part);
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
}

/// The tensors in a file, each well formed. Every byte of the file is accounted for.
pub(crate) fn read(header: &Header, file: &[u8]) -> Result<Vec<Tensor>, LayoutError> {
    let plan = Plan::new(header)?;
    let Some((magic, rest)) = file.split_first_chunk::<8>() else { return Err(LayoutError::Magic) };
    if magic != MAGIC {
        return Err(LayoutError::Magic);
    }
    if let Some(found) = rest.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)).filter(|found| *found != VERSION) {
        return Err(LayoutError::Version { found });
    }
    if file.len() != plan.length {
        return Err(LayoutError::Length { expected: plan.length as u64, found: file.len() as u64 });
    }
    if let Some(at) = plan.head.iter().zip(file).position(|(expected, found)| expected != found) {
        return Err(LayoutError::Directory { at });
    }
    plan.places.iter().map(|place| tensor(place, file)).collect()
}

fn tensor(place: &Place, file: &[u8]) -> Result<Tensor, LayoutError> {
    let name = place.spec.name;
    for (start, bytes) in &place.parts {
        let end = start + bytes;
        let padding = &file[end..end.next_multiple_of(ALIGNMENT)];
        if let Some(at) = padding.iter().position(|byte| *byte != 0) {
            return Err(LayoutError::Padding { at: end + at, tensor: name });
        }
    }
    let part = |at: usize| {
        let (start, bytes) = place.parts[at];
        &file[start..start + bytes]
    };
    let i32s = |at| part(at).as_chunks::<4>().0.iter().map(|four| i32::from_le_bytes(*four)).collect::<Vec<_>>();
    let malformed = |error| LayoutError::Tensor { tensor: name, error };
    match place.spec.shape {
        TensorShape::Matrix { rows, cols, bias } => {
            let weights: Vec<i8> = part(0).iter().map(|w| w.cast_signed()).collect();
            let mantissas = part(1).as_chunks::<2>().0.iter().map(|two| u16::from_le_bytes(*two)).collect();
            let bias = bias.then(|| i32s(3));
            Q8Matrix::new(rows, cols, weights, mantissas, part(2).to_vec(), bias).map(Tensor::Matrix).map_err(malformed)
        }
        TensorShape::Table { rows, width } => TableI32::new(rows, width, i32s(0)).map(Tensor::Table).map_err(malformed),
        TensorShape::Vector { .. } => Ok(Tensor::Vector(VectorI32::from(i32s(0)))),
    }
}
