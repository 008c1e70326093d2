//! The roots of a package (docs/PROTOCOL.md, section 2), with the tensors' own ones so that a difference can be named.

use quern_commit::model::{package_root, tensor_root, weights_root};
use quern_exact::{encoder::EncoderWeights, header::Header, layout::TensorName};
use quern_types::{B256, PackageRoot};

use crate::ModelError;

pub(super) struct Roots {
    pub(super) tensors: Vec<(TensorName, B256)>,
    pub(super) weights: B256,
    pub(super) package: PackageRoot,
}

impl Roots {
    pub(super) fn of(header: &Header, weights: &EncoderWeights, tokenizer_hash: B256) -> Result<Self, ModelError> {
        let tensors: Vec<_> = weights.tensors().map(|(name, tensor)| (name, tensor_root(tensor))).collect();
        let weights = weights_root(tensors.iter().map(|(_, root)| *root).collect())
            .map_err(|error| ModelError::Header { reason: error.to_string() })?;
        Ok(Self { tensors, weights, package: package_root(header, &weights, &tokenizer_hash) })
    }
}
