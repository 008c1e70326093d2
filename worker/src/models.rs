//! The models that this worker holds: opened at once, mapped as they are packed for the machine, and verified before the first claim.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use quern_exact::{
    decoder::Decoder,
    encoder::Encoder,
    header::Header,
    kernels::{Isa, Pool},
};
use quern_model::{Package, PackedOrigin};
use quern_types::PackageRoot;

use crate::{
    Error, Result,
    load::{Load, Speed},
};

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

/// What this worker has of a package.
#[derive(Debug, Clone)]
pub(crate) enum Holding {
    /// Its files, which are being verified.
    Unverified,
    /// Every hash of it was checked.
    Verified(Held),
}

/// Models by package root.
#[derive(Debug, Default)]
pub(crate) struct Models(HashMap<PackageRoot, Holding>);

impl Models {
    /// Opens each package, which takes a moment; [`verify`] says whether one may be used.
    ///
    /// # Errors
    /// The first package whose files are not those of a package.
    pub(crate) fn open(packages: &[PathBuf]) -> Result<(Self, Vec<Package>)> {
        let opened = packages.iter().map(|path| Package::open(path)).collect::<Result<Vec<_>, _>>()?;
        let models = opened.iter().map(|package| (package.root(), Holding::Unverified)).collect();
        Ok((Self(models), opened))
    }

    /// Takes a package that was verified.
    pub(crate) fn take(&mut self, root: PackageRoot, held: Held) {
        self.0.insert(root, Holding::Verified(held));
    }

    /// Whether every package was verified. Before, no job is claimed: a package that is not sound stops the worker, and must stop it before it owes anything.
    pub(crate) fn are_verified(&self) -> bool {
        self.0.values().all(|holding| matches!(holding, Holding::Verified(_)))
    }

    pub(crate) fn get(&self, root: PackageRoot) -> Option<&Holding> {
        self.0.get(&root)
    }

    /// Takes a job that was computed into account.
    pub(crate) fn learn(&mut self, root: PackageRoot, load: &Load, took: Duration) {
        if let Some(Holding::Verified(held)) = self.0.get_mut(&root) {
            held.speed.learn(load, took);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PackageRoot, &Holding)> {
        self.0.iter().map(|(root, holding)| (*root, holding))
    }
}

/// Verifies a package (every hash), and measures how fast it runs. Takes as long as reading all of it does; call it where blocking is allowed.
///
/// # Errors
/// The package is not sound: a worker that computes with other weights than a root names would be convicted.
pub(crate) fn verify(package: &Package, pool: &Arc<Pool>, threads: NonZeroUsize) -> Result<Held> {
    let engine = engine(package, pool)?;
    let root = verified_root(package)?;
    let speed = match &engine {
        Engine::Encoder(encoder) => Speed::of_encoder(encoder, threads),
        Engine::Decoder(decoder) => Speed::of_decoder(decoder)?,
    };
    tracing::info!(package = %root, path = %package.path().display(), macs_per_sec = speed.macs_per_sec(), "model.verified");
    Ok(Held { engine, speed })
}

/// The threads that decoders compute on, the calling one among them.
pub(crate) fn pool(threads: NonZeroUsize) -> Arc<Pool> {
    Arc::new(Pool::new(Isa::detect(), threads))
}

/// A package, opened and verified, ready to compute.
pub(crate) fn load(path: &Path, pool: &Arc<Pool>) -> Result<(PackageRoot, Engine)> {
    let package = Package::open(path)?;
    let root = verified_root(&package)?;
    Ok((root, engine(&package, pool)?))
}

fn verified_root(package: &Package) -> Result<PackageRoot> {
    let root = package.verify()?;
    if root != package.root() {
        return Err(Error::Config {
            option: "--package",
            fault: format!("{} states root {} and has {root}", package.path().display(), package.root()),
        });
    }
    Ok(root)
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
