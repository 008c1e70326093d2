//! The hashes of a model, from weight rows to the id of an offer (PROTOCOL.md, section 2).

use alloy_primitives::{Address, B256, keccak256};
use quern_exact::{
    decoder::DecoderWeights,
    encoder::EncoderWeights,
    format::{Q8Matrix, Row},
    header::Header,
    layout::TensorRef,
};
use quern_types::{ModelId, PackageRoot};

use crate::{
    CommitError,
    error::as_u32,
    preimage::{Preimage, Tag},
    tensor::TensorTree,
    tree::Tree,
    vector::Elements,
};

/// Hash of one weight row: the leaf of a matrix.
#[must_use]
pub fn row_hash(row: Row<'_>) -> B256 {
    let head = Preimage::new(Tag::WeightRow).u8(row.shift).i32(row.bias);
    let preimage = row.mantissas.iter().fold(head, |preimage, &mantissa| preimage.u16(mantissa));
    let mut bytes = [0; 1024];
    let elements = row.weights.chunks(bytes.len()).fold(preimage, |preimage, chunk| {
        for (byte, weight) in bytes.iter_mut().zip(chunk) {
            *byte = weight.cast_unsigned();
        }
        preimage.bytes(&bytes[..chunk.len()])
    });
    elements.finish()
}

/// The tree over a matrix's rows, for openings.
#[must_use]
pub fn matrix_tree(matrix: &Q8Matrix) -> Tree {
    Tree::new(matrix.iter_rows().map(row_hash).collect()).unwrap_or_else(|error| unreachable!("a matrix has 1 to 2^24 rows: {error}"))
}

/// Root of a matrix from the top of the tree over its rows.
#[must_use]
pub fn matrix_root(rows: u32, columns: u32, top: &B256) -> B256 {
    Preimage::new(Tag::Matrix).u32(rows).u32(columns).hash(top).finish()
}

/// Root of one tensor of a model: a matrix, a table (a tensor of int32) or a vector (a vector hash of int32).
#[must_use]
pub fn tensor_root(tensor: TensorRef<'_>) -> B256 {
    match tensor {
        TensorRef::Matrix(matrix) => {
            // At most 2^24 rows and 2^15 columns.
            let [rows, columns] = [matrix.rows(), matrix.cols()].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
            matrix_root(rows, columns, &matrix_tree(matrix).top())
        }
        TensorRef::Table(table) => TensorTree::of_table(table).hash(),
        TensorRef::Vector(vector) => Elements::I32(vector.as_slice()).hash(),
    }
}

/// Weights root from the roots of all tensors in the family's order.
///
/// # Errors
/// No tensors, or too many.
pub fn weights_root(tensor_roots: Vec<B256>) -> Result<B256, CommitError> {
    let count = as_u32("tensors", tensor_roots.len())?;
    Ok(Preimage::new(Tag::Weights).u32(count).hash(&Tree::new(tensor_roots)?.top()).finish())
}

/// Weights root of an encoder.
#[must_use]
pub fn encoder_weights_root(weights: &EncoderWeights) -> B256 {
    let roots = weights.tensors().map(|(_, tensor)| tensor_root(tensor)).collect();
    weights_root(roots).unwrap_or_else(|error| unreachable!("an encoder has tensors: {error}"))
}

/// Weights root of a decoder.
#[must_use]
pub fn decoder_weights_root(weights: &DecoderWeights) -> B256 {
    let roots = weights.tensors().map(|(_, tensor)| tensor_root(tensor)).collect();
    weights_root(roots).unwrap_or_else(|error| unreachable!("a decoder has tensors: {error}"))
}

/// The tokenizer hash: keccak of tokenizer.json as it is.
#[must_use]
pub fn tokenizer_hash(tokenizer_json: &[u8]) -> B256 {
    keccak256(tokenizer_json)
}

/// Package root: it names the arithmetic.
#[must_use]
pub fn package_root(header: &Header, weights_root: &B256, tokenizer_hash: &B256) -> PackageRoot {
    PackageRoot(Preimage::new(Tag::Package).bytes(&header.to_bytes()).hash(weights_root).hash(tokenizer_hash).finish())
}

/// Model id: it names an offer.
#[must_use]
pub fn model_id(package: PackageRoot, publisher: Address, royalty_bps: u16) -> ModelId {
    ModelId(Preimage::new(Tag::ModelId).hash(&package.0).bytes(publisher.as_slice()).u16(royalty_bps).finish())
}
