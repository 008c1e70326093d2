//! The roots of a package (docs/PROTOCOL.md, section 2), with the tensors' own ones so that a difference can be named.

use quern_commit::model::{package_root, tensor_root, weights_root};
use quern_exact::{
    header::Header,
    layout::{TensorName, TensorRef},
};
use quern_types::{B256, PackageRoot};

use crate::ModelError;

/// Roots of the tensors so far, in the order that is hashed.
#[derive(Default)]
pub(super) struct TensorRoots(Vec<(TensorName, B256)>);

pub(super) struct Roots {
    pub(super) tensors: Vec<(TensorName, B256)>,
    pub(super) weights: B256,
    pub(super) package: PackageRoot,
}

impl TensorRoots {
    /// Hashes the next tensor; its root.
    pub(super) fn push(&mut self, name: TensorName, tensor: TensorRef<'_>) -> B256 {
        let root = tensor_root(tensor);
        self.0.push((name, root));
        root
    }

    pub(super) fn finish(self, header: &Header, tokenizer_hash: B256) -> Result<Roots, ModelError> {
        let weights = weights_root(self.0.iter().map(|(_, root)| *root).collect())
            .map_err(|error| ModelError::Header { reason: error.to_string() })?;
        Ok(Roots { tensors: self.0, weights, package: package_root(header, &weights, &tokenizer_hash) })
    }
}
