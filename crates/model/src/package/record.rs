//! conversion.json: the roots of a package, and where it came from.

use quern_types::{B256, PackageRoot};
use serde::{Deserialize, Serialize};

/// What an import writes beside the weights. The roots are checked when a package is opened and verified; sources and notes inform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConversionRecord {
    /// Version of this file: 1.
    pub format: u32,
    /// What converted the weights.
    pub tool: String,
    /// Names the arithmetic: two packages with equal roots give equal bits.
    pub package_root: PackageRoot,
    /// Root over all tensors.
    pub weights_root: B256,
    /// keccak of tokenizer.json.
    pub tokenizer_hash: B256,
    /// keccak of chat.json, where the package has one; informative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_hash: Option<B256>,
    /// Root of every tensor, in the order that is hashed.
    pub tensors: Vec<TensorRecord>,
    /// The files that were converted.
    pub sources: Vec<SourceRecord>,
    /// What was assumed or ignored.
    pub notes: Vec<String>,
}

/// One tensor of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TensorRecord {
    /// Its name in a package.
    pub name: String,
    /// Kind and size, for a reader.
    pub shape: String,
    /// Its root.
    pub root: B256,
}

/// One file that was converted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceRecord {
    /// Its name in the folder.
    pub file: String,
    /// Its sha256, hexadecimal.
    pub sha256: String,
}
