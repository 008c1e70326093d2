//! From a checkpoint's floats to the integers of a package, exactly: docs/EXACT.md, "Conversion".
//!
//! Every float is taken as the dyadic rational that it is; there is no float operation here and no mathematical library, so the
//! result is the same to the byte on every machine.

mod constants;
mod decoder;
mod encoder;
mod importance;
mod number;
mod rotary;
mod row;
mod values;

use std::num::NonZeroUsize;

pub(crate) use constants::{Decimal, attention_scale, embedding_scale, norm_epsilon};
pub(crate) use decoder::convert_decoder;
pub(crate) use encoder::convert_encoder;
pub(crate) use number::{f32_bits_of_bf16, f32_bits_of_f16, is_finite};

use number::Dyadic;
use quern_exact::{
    bounds::GROUP,
    format::{FormatError, Q8Matrix},
    layout::{TensorName, TensorShape, TensorSpec},
};
use row::{WeightTooLarge, quantize_row};

use crate::{
    ModelError,
    source::{Floats, TensorSource},
};

/// Fraction bits of biases, norms and tables.
const FRACTION_BITS: u32 = 14;
const WEIGHT_LIMIT: &str = "63.5";
const FIXED_LIMIT: &str = "131072";
/// Elements of a matrix that are in memory as floats at a time.
const PIECE: usize = 4 << 20;

/// How many numbers the tensors of a package have.
pub(crate) fn elements(specs: &[TensorSpec]) -> u64 {
    specs.iter().map(|spec| elements_of(spec.shape)).sum()
}

fn elements_of(shape: TensorShape) -> u64 {
    let elements = match shape {
        TensorShape::Matrix { rows, cols, .. } => rows * cols,
        TensorShape::Table { rows, width } => rows * width,
        TensorShape::Vector { len } => len,
    };
    elements as u64
}

/// A matrix of a checkpoint, or some rows of one.
struct MatrixSource<'a> {
    tensors: &'a dyn TensorSource,
    /// Of the weights in the checkpoint.
    name: &'a str,
    /// Row of the checkpoint's matrix that is our first.
    first: usize,
    /// Rows of the checkpoint's matrix.
    of: usize,
    rows: usize,
    cols: usize,
    bias: Option<Vec<i32>>,
    importance: Option<&'a [u128]>,
}

/// int8 rows in groups; the bias in Q14. Read piece by piece, and the rows of a piece are converted by all cores, each by itself. `on_elements` is told
/// how many were converted, and may end the work.
fn matrix(
    name: TensorName,
    source: MatrixSource<'_>,
    on_elements: &mut dyn FnMut(u64) -> Result<(), ModelError>,
) -> Result<Q8Matrix, ModelError> {
    let MatrixSource { tensors, rows, cols, importance, .. } = source;
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let convert = |part: &[u32]| part.chunks(cols).map(|row| quantize_row(row, importance)).collect::<Vec<_>>();
    let mut elements = Vec::with_capacity(rows * cols);
    let mut mantissas = Vec::with_capacity(rows * cols.div_ceil(GROUP));
    let mut shifts = Vec::with_capacity(rows);
    let step = (PIECE / cols).max(1);
    for first in (0..rows).step_by(step) {
        let (first, end) = (source.first + first, source.first + rows.min(first + step));
        let piece = tensors.rows(source.name, &[source.of, cols], first..end)?;
        let rows_per_thread = (piece.bits.len() / cols).div_ceil(threads);
        let converted = std::thread::scope(|scope| {
            let parts: Vec<_> = piece.bits.chunks(rows_per_thread * cols).map(|part| scope.spawn(move || convert(part))).collect();
            parts.into_iter().flat_map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect::<Vec<_>>()
        });
        for (at, row) in converted.into_iter().enumerate() {
            let row = row.map_err(|WeightTooLarge { index }| ModelError::TooLarge {
                path: piece.path.clone(),
                tensor: piece.name.clone(),
                index: vec![first + at, index],
                limit: WEIGHT_LIMIT,
            })?;
            elements.extend(row.weights);
            mantissas.extend(row.mantissas);
            shifts.push(row.shift);
        }
        on_elements(piece.bits.len() as u64)?;
    }
    Q8Matrix::new(rows, cols, elements, mantissas, shifts, source.bias).map_err(malformed(name))
}

/// Q14, to nearest, ties away from zero.
fn fixed(floats: &Floats) -> Result<Vec<i32>, ModelError> {
    fixed_by(floats, |x| x.to_fixed(FRACTION_BITS))
}

/// One more than each, in Q14, to nearest, ties away from zero.
fn fixed_of_one_more(floats: &Floats) -> Result<Vec<i32>, ModelError> {
    fixed_by(floats, |x| x.to_fixed_of_one_more(FRACTION_BITS))
}

fn fixed_by(floats: &Floats, rule: impl Fn(Dyadic) -> Option<i32>) -> Result<Vec<i32>, ModelError> {
    let to_fixed = |(at, bits): (usize, &u32)| {
        rule(Dyadic::from_f32_bits(*bits)).ok_or_else(|| ModelError::TooLarge {
            path: floats.path.clone(),
            tensor: floats.name.clone(),
            index: floats.index(at),
            limit: FIXED_LIMIT,
        })
    };
    floats.bits.iter().enumerate().map(to_fixed).collect()
}

fn malformed(name: TensorName) -> impl Fn(FormatError) -> ModelError {
    move |error| ModelError::Header { reason: format!("{name}: {error}") }
}
