//! The models that this worker holds: verified before the first claim, then kept packed for the machine.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use quern_exact::encoder::Encoder;
use quern_model::Package;
use quern_types::PackageRoot;

use crate::{Error, Result, compute::Speed};

/// A model that can be served.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) encoder: Arc<Encoder>,
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
        for path in packages {
            let (root, encoder) = load(path)?;
            let speed = Speed::measure(&encoder, threads);
            tracing::info!(package = %root, path = %path.display(), macs_per_sec = speed.macs_per_sec(), "model.ready");
            models.insert(root, Held { encoder: Arc::new(encoder), speed });
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

/// A package, opened and verified, as an encoder.
pub(crate) fn load(path: &Path) -> Result<(PackageRoot, Encoder)> {
    let package = Package::open(path)?;
    let root = package.verify()?;
    if root != package.root() {
        return Err(Error::Config {
            option: "--package",
            fault: format!("{} states root {} and has {root}", path.display(), package.root()),
        });
    }
    Ok((root, package.encoder()?))
}
