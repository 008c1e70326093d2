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

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom, Write},
};

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
    #[error("tensor {at} of the list is not the next one, or not of its shape")]
    Order { at: usize },
}

/// Where the parts of a tensor lie.
#[derive(Debug)]
struct Place {
    spec: TensorSpec,
    /// Offset and length of each part in bytes.
    parts: Vec<(usize, usize)>,
    end: usize,
}

/// Where everything lies in the weights file of a header.
#[derive(Debug)]
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

/// Bytes of the weights file of a header.
pub(crate) fn file_bytes(header: &Header) -> Result<u64, LayoutError> {
    Ok(Plan::new(header)?.length as u64)
}

/// Writes the file of a header's tensors, one after the other.
pub(crate) struct Writer<W> {
    plan: Plan,
    out: W,
    /// Tensors written.
    tensors: usize,
}

impl<W: Write> Writer<W> {
    /// Writes everything that stands before the first tensor.
    pub(crate) fn new(header: &Header, mut out: W) -> Result<Self, WriteError> {
        let plan = Plan::new(header)?;
        out.write_all(&plan.head)?;
        Ok(Self { plan, out, tensors: 0 })
    }

    /// Writes the next tensor of the list.
    pub(crate) fn tensor(&mut self, tensor: TensorRef<'_>) -> Result<(), WriteError> {
        match self.plan.places.get(self.tensors) {
            Some(place) if place.spec.shape == tensor.shape() => {}
            _ => return Err(WriteError::Layout(LayoutError::Order { at: self.tensors })),
        }
        self.tensors += 1;
        match tensor {
            TensorRef::Matrix(matrix) => {
                self.part(matrix.weights().iter().map(|w| w.to_le_bytes()))?;
                self.part(matrix.mantissas().iter().map(|m| m.to_le_bytes()))?;
                self.part(matrix.shifts().iter().map(|t| t.to_le_bytes()))?;
                matrix.bias().map_or(Ok(()), |bias| self.part(bias.iter().map(|b| b.to_le_bytes())))
            }
            TensorRef::Table(table) => self.part(table.data().iter().map(|x| x.to_le_bytes())),
            TensorRef::Vector(vector) => self.part(vector.as_slice().iter().map(|x| x.to_le_bytes())),
        }
    }

    fn part<const N: usize>(&mut self, mut elements: impl ExactSizeIterator<Item = [u8; N]>) -> Result<(), WriteError> {
        const CHUNK: usize = 1 << 18;
        let bytes = elements.len() * N;
        let mut chunk = Vec::with_capacity(CHUNK * N);
        while elements.len() > 0 {
            chunk.clear();
            chunk.extend(elements.by_ref().take(CHUNK).flatten());
            self.out.write_all(&chunk)?;
        }
        let padding = [0; ALIGNMENT];
        Ok(self.out.write_all(&padding[..bytes.next_multiple_of(ALIGNMENT) - bytes])?)
    }

    /// What was written to, and its length; every tensor of the header must have been written.
    pub(crate) fn finish(self) -> Result<(W, u64), WriteError> {
        if self.tensors != self.plan.places.len() {
            return Err(WriteError::Layout(LayoutError::Order { at: self.tensors }));
        }
        Ok((self.out, self.plan.length as u64))
    }
}

/// Why a file was not written.
#[derive(Debug, Error)]
pub(crate) enum WriteError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Why a tensor was not read.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A weights file whose length and directory are those of a header. Tensors are read one at a time.
#[derive(Debug)]
pub(crate) struct Reader {
    plan: Plan,
    file: File,
}

impl Reader {
    /// Checks everything but the tensors.
    pub(crate) fn new(header: &Header, mut file: File) -> Result<Self, ReadError> {
        let plan = Plan::new(header)?;
        let length = file.metadata()?.len();
        let mut head = Vec::new();
        (&mut file).take(plan.head.len() as u64).read_to_end(&mut head)?;
        let Some((magic, rest)) = head.split_first_chunk::<8>() else { return Err(LayoutError::Magic.into()) };
        if magic != MAGIC {
            return Err(LayoutError::Magic.into());
        }
        if let Some(found) = rest.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)).filter(|found| *found != VERSION) {
            return Err(LayoutError::Version { found }.into());
        }
        if length != plan.length as u64 {
            return Err(LayoutError::Length { expected: plan.length as u64, found: length }.into());
        }
        if let Some(at) = plan.head.iter().zip(&head).position(|(expected, found)| expected != found) {
            return Err(LayoutError::Directory { at }.into());
        }
        Ok(Self { plan, file })
    }

    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.plan.length as u64
    }

    /// The tensors in order, each well formed. Together they account for every byte behind the directory.
    pub(crate) fn tensors(&mut self) -> impl Iterator<Item = Result<(TensorName, Tensor), ReadError>> {
        let Self { plan, file } = self;
        plan.places.iter().map(|place| {
            let start = place.parts.first().map_or(place.end, |(start, _)| *start);
            let mut bytes = vec![0; place.end - start];
            file.seek(SeekFrom::Start(start as u64))?;
            file.read_exact(&mut bytes)?;
            Ok((place.spec.name, tensor(place, start, &bytes)?))
        })
    }
}

fn tensor(place: &Place, first: usize, bytes: &[u8]) -> Result<Tensor, LayoutError> {
    let name = place.spec.name;
    for (start, length) in &place.parts {
        let end = start + length;
        let padding = &bytes[end - first..end.next_multiple_of(ALIGNMENT) - first];
        if let Some(at) = padding.iter().position(|byte| *byte != 0) {
            return Err(LayoutError::Padding { at: end + at, tensor: name });
        }
    }
    let part = |at: usize| {
        let (start, length) = place.parts[at];
        &bytes[start - first..start - first + length]
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
