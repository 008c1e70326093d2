//! What a checkpoint says and no list of this importer has.

use std::path::{Path, PathBuf};

use crate::ModelError;

/// A field or a tensor that is not known. It may change the arithmetic, so an import refuses it unless it is told to ignore it by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    path: PathBuf,
    name: String,
    /// The value of a field; `None` is a tensor.
    found: Option<String>,
}

impl Unknown {
    pub(crate) fn field(path: &Path, name: &str, found: impl ToString) -> Self {
        Self { path: path.to_owned(), name: name.to_owned(), found: Some(found.to_string()) }
    }

    pub(crate) fn tensor(path: &Path, name: &str) -> Self {
        Self { path: path.to_owned(), name: name.to_owned(), found: None }
    }

    /// A note for the record if it is among the names that are to be ignored.
    pub(crate) fn heed(self, ignore: &[String]) -> Result<String, ModelError> {
        let Self { path, name, found } = self;
        match (ignore.contains(&name), found) {
            (true, Some(found)) => Ok(format!("field {name} ({found}) was ignored, as the import was told")),
            (true, None) => Ok(format!("tensor {name} was ignored, as the import was told")),
            (false, Some(found)) => Err(ModelError::UnknownField { path, field: name, found }),
            (false, None) => Err(ModelError::UnknownTensor { path, tensor: name }),
        }
    }
}
