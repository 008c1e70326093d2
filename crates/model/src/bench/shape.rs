//! Random models of the shapes that speed is measured on.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use quern_exact::{
    decoder::Decoder,
    encoder::Encoder,
    header::Header,
    kernels::Pool,
    sample::{self, Generator},
};

use crate::{ModelError, package::packed::Unpublished};

/// A shape that is measured with random weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// 135 million weights: 30 layers of 576, 9 heads over 3, ffn 1536, vocabulary 49,152.
    A,
    /// Half a billion: 24 layers of 896, 14 heads over 2, ffn 4864, vocabulary 151,936.
    B,
    /// 1.2 billion: 16 layers of 2048, 32 heads over 8, ffn 8192, vocabulary 128,256.
    C,
}

impl Shape {
    /// The header of the shape, head tied, context 2048.
    #[must_use]
    pub fn header(self) -> Header {
        match self {
            Self::A => sample::decoder_header(30, 576, [9, 3, 64], 1536, 49_152, 2048),
            Self::B => sample::decoder_header(24, 896, [14, 2, 64], 4864, 151_936, 2048),
            Self::C => sample::decoder_header(16, 2048, [32, 8, 64], 8192, 128_256, 2048),
        }
    }

    /// A decoder of this shape with random weights, mapped from a packed file as a package's is, and how long the mapping took. The file is written
    /// first, tensor by tensor: into `folder`, where it stays for the next time, or into a temporary one, which is gone when this returns.
    ///
    /// # Errors
    /// The file cannot be written or mapped.
    pub fn decoder(self, pool: Arc<Pool>, folder: Option<&Path>) -> Result<(Decoder, Duration), ModelError> {
        let header = self.header();
        let temporary = std::env::temp_dir();
        let temporary = match folder {
            Some(_) => None,
            None => Some(tempfile::tempdir_in(&temporary).map_err(ModelError::write(&temporary))?),
        };
        let folder = folder.or(temporary.as_ref().map(tempfile::TempDir::path)).unwrap_or(Path::new("."));
        let mut generator = Generator::new(1);
        let name = format!("random-{self:?}").to_lowercase();
        let weights = Unpublished::new(folder, &name, &header, |spec| sample::decoder_tensor(&mut generator, spec))?;
        let start = Instant::now();
        let decoder = Decoder::from_packed(weights.open()?, pool);
        Ok((decoder, start.elapsed()))
    }

    /// An encoder of the shape of all-MiniLM-L6-v2 with random weights.
    ///
    /// # Errors
    /// None for this shape.
    pub fn minilm() -> Result<Encoder, ModelError> {
        sample::encoder(&sample::minilm_header(), 1).map_err(|error| ModelError::Header { reason: error.to_string() })
    }
}
