//! Writing a package so that it is there whole or not at all.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{HEADER_FILE, RECORD_FILE, WEIGHTS_FILE};
use crate::ModelError;

/// Refuses what [`write_folder`] would refuse, before the work is done.
pub(super) fn check_destination(out: &Path, replace: bool) -> Result<(), ModelError> {
    if out.symlink_metadata().is_err() {
        return Ok(());
    }
    if !replace {
        return Err(ModelError::Exists { path: out.to_owned() });
    }
    let is_package = [HEADER_FILE, WEIGHTS_FILE, RECORD_FILE].iter().all(|name| out.join(name).is_file());
    if is_package { Ok(()) } else { Err(ModelError::NotReplaced { path: out.to_owned() }) }
}

/// A package that is being written: a temporary folder beside its place, which is removed unless [`Staging::commit`] is reached.
pub(super) struct Staging {
    parent: PathBuf,
    staging: TempDir,
    folder: PathBuf,
}

impl Staging {
    pub(super) fn new(out: &Path) -> Result<Self, ModelError> {
        let parent = parent_of(out);
        fs::create_dir_all(&parent).map_err(ModelError::write(&parent))?;
        let staging = tempfile::Builder::new().prefix(".quern-import-").tempdir_in(&parent).map_err(ModelError::write(&parent))?;
        let folder = staging.path().join("new");
        fs::create_dir(&folder).map_err(ModelError::write(&folder))?;
        Ok(Self { parent, staging, folder })
    }

    /// Where a file of the package is now.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where the packed file is now.
    pub(super) fn packed_path(&self) -> PathBuf {
        self.staging.path().join("packed")
    }

    /// Writes a whole file and flushes it to the disk.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), ModelError> {
        let path = self.path(name);
        let written = File::create_new(&path).and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
        written.map_err(ModelError::write(path))
    }

    /// Renames the folder to its place, and the packed file, where there is one, to its own. Where a package is replaced there is a moment with
    /// none under the name, never a mixture.
    pub(super) fn commit(self, out: &Path, replace: bool, packed: &Path) -> Result<(), ModelError> {
        sync_folder(&self.folder)?;
        check_destination(out, replace)?;
        let old = self.staging.path().join("old");
        let replaces = out.symlink_metadata().is_ok();
        if replaces {
            fs::rename(out, &old).map_err(ModelError::write(out))?;
        }
        if let Err(error) = fs::rename(&self.folder, out) {
            if replaces {
                fs::rename(&old, out).map_err(ModelError::write(out))?;
            }
            return Err(ModelError::write(out)(error));
        }
        if self.packed_path().exists() {
            fs::rename(self.packed_path(), packed).map_err(ModelError::write(packed))?;
        }
        sync_folder(&self.parent)
    }
}

pub(super) fn parent_of(out: &Path) -> PathBuf {
    match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A rename is on the disk when its folder is. Windows has no handle for a folder and does this by itself.
fn sync_folder(folder: &Path) -> Result<(), ModelError> {
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(ModelError::write(folder))?;
    }
    Ok(())
}
