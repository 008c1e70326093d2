//! The models that this worker holds: verified before the first claim, then kept packed for the machine.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use quern_exact::{
    decoder::Decoder,
    encoder::Encoder,
    header::Header,
    kernels::{Isa, Pool},
};
use quern_model::{Package, PackedOrigin};
use quern_types::PackageRoot;

use crate::{Error, Result, load::Speed};

/// A model that can compute.
#[derive(Debug, Clone)]
pub(crate) enum Engine {
    Encoder(Arc<Encoder>),
    /// With the pool that it computes on.
    Decoder(Decoder),
}

impl Engine {
    pub(crate) fn header(&self) -> &Header {
        match self {
            Self::Encoder(encoder) => encoder.header(),
            Self::Decoder(decoder) => decoder.header(),
        }
    }
}

/// A model that can be served.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) engine: Engine,
    pub(crate) speed: Speed,
}

/// Models by package root.
#[derive(Debug, Default)]
pub(crate) struct Models(HashMap<PackageRoot, Held>);

impl Models {
    /// Opens, verifies (every hash) and packs each package, and measures how fast it runs. Takes seconds; call it where blocking is allowed.
    ///
    /// # Errors
    /// The first package that is not sound: a worker that computes with other weights than a root names would be convicted.
    pub(crate) fn load(packages: &[PathBuf], threads: NonZeroUsize) -> Result<Self> {
        let mut models = HashMap::new();
        let pool = pool(threads);
        for path in packages {
            let (root, engine) = load(path, &pool)?;
            let speed = match &engine {
                Engine::Encoder(encoder) => Speed::of_encoder(encoder, threads),
                Engine::Decoder(decoder) => Speed::of_decoder(decoder)?,
            };
            tracing::info!(package = %root, path = %path.display(), macs_per_sec = speed.macs_per_sec(), "model.ready");
            models.insert(root, Held { engine, speed });
        }
        Ok(Self(models))
    }

    pub(crate) fn get(&self, root: PackageRoot) -> Option<&Held> {
        self.0.get(&root)
    }

    pub(crate) fn get_mut(&mut self, root: PackageRoot) -> Option<&mut Held> {
        self.0.get_mut(&root)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PackageRoot, &Held)> {
        self.0.iter().map(|(root, held)| (*root, held))
    }
}

/// The threads that decoders compute on, the calling one among them.
pub(crate) fn pool(threads: NonZeroUsize) -> Arc<Pool> {
    Arc::new(Pool::new(Isa::detect(), threads))
}

/// A package, opened and verified, ready to compute.
pub(crate) fn load(path: &Path, pool: &Arc<Pool>) -> Result<(PackageRoot, Engine)> {
    let package = Package::open(path)?;
    let root = package.verify()?;
    if root != package.root() {
        return Err(Error::Config {
            option: "--package",
            fault: format!("{} states root {} and has {root}", path.display(), package.root()),
        });
    }
    Ok((root, engine(&package, pool)?))
}

fn engine(package: &Package, pool: &Arc<Pool>) -> Result<Engine> {
    if !package.is_decoder() {
        return Ok(Engine::Encoder(Arc::new(package.encoder()?)));
    }
    let packed = package.packed()?;
    if packed.origin != PackedOrigin::Mapped {
        tracing::warn!(path = %package.path().display(), origin = ?packed.origin, "model.packed_anew");
    }
    Ok(Engine::Decoder(Decoder::from_packed(packed.weights, pool.clone())))
}
