use quern_types::FinishReason;

use super::DecoderWeights;
use crate::{format::TableI32, header::Header, layout::WeightsError};

/// A decoder as it is hashed: a valid header and weights that fit it.
#[derive(Debug, Clone)]
pub struct Model {
    header: Header,
    weights: DecoderWeights,
}

impl Model {
    /// Checks that the weights fit the header.
    ///
    /// # Errors
    /// The header is invalid or unsupported, or the weights do not fit it.
    pub fn new(header: Header, weights: DecoderWeights) -> Result<Self, WeightsError> {
        weights.check(&header)?;
        Ok(Self { header, weights })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The weights.
    #[must_use]
    pub const fn weights(&self) -> &DecoderWeights {
        &self.weights
    }
}

/// What a decoder makes of one item and sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// Why it ended, or why nothing was computed.
    pub reason: FinishReason,
    /// The ids of the output.
    pub ids: Vec<u32>,
    /// N, the rows of the final norm in Q14, one per position that was computed: those of the item and of all output ids but the last.
    pub norm_rows: TableI32,
}
