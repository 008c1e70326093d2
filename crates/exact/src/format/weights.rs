//! The int8 elements of a matrix, wherever they lie: in a vector of ours or in a file that somebody mapped.

use std::{fmt, ops::Range, sync::Arc};

use super::FormatError;

/// Elements that may be owned or shared; a clone is a reference.
#[derive(Clone)]
pub struct Weights {
    buffer: Arc<dyn AsRef<[i8]> + Send + Sync>,
    window: Range<usize>,
}

impl Weights {
    /// A window into a buffer that others share, for instance a mapped package file.
    ///
    /// TRUST: the buffer must not change while it is in use. A mapped file that somebody truncates or rewrites breaks that promise,
    /// so a package's files are read-only and content-addressed.
    ///
    /// # Errors
    /// [`FormatError::Window`] if the buffer does not cover the window.
    pub fn shared(buffer: Arc<dyn AsRef<[i8]> + Send + Sync>, window: Range<usize>) -> Result<Self, FormatError> {
        let len = (*buffer).as_ref().len();
        if window.start > window.end || window.end > len {
            return Err(FormatError::Window { start: window.start, end: window.end, len });
        }
        Ok(Self { buffer, window })
    }

    /// The elements.
    #[must_use]
    pub fn as_slice(&self) -> &[i8] {
        // A buffer that broke its promise and shrank yields nothing rather than a panic here.
        (*self.buffer).as_ref().get(self.window.clone()).unwrap_or_default()
    }
}

impl From<Vec<i8>> for Weights {
    fn from(elements: Vec<i8>) -> Self {
        let window = 0..elements.len();
        Self { buffer: Arc::new(elements), window }
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weights({} elements)", self.window.len())
    }
}

impl PartialEq for Weights {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Weights {}
