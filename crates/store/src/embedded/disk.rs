//! The files of an [`super::EmbeddedStore`]. Everything here blocks.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use quern_types::ContentId;

use super::KIND;
use crate::{
    MAX_BLOCK_BYTES, StoreError,
    block::{check_offered, check_read},
};

const VERSION: &str = "quern content store 1\n";
/// What may be there where a crash came before `VERSION` was written.
const OWN_NAMES: [&str; 6] = ["LOCK", "USED", "USED.lock", "blocks", "pins", "tmp"];

/// A lock on the directory, given up on drop.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its drop")] File);

#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    max_bytes: u64,
    grace: Duration,
    writes: AtomicU64,
}

impl Disk {
    pub(super) fn open(root: PathBuf, max_bytes: u64, grace: Duration) -> Result<Self, StoreError> {
        fs::create_dir_all(&root).map_err(at("create", &root, 0))?;
        let disk = Self { root, max_bytes, grace, writes: AtomicU64::new(0) };
        let exclusive = disk.lock_exclusive()?;
        disk.check_version()?;
        for name in ["blocks", "pins", "tmp"] {
            let directory = disk.root.join(name);
            fs::create_dir_all(&directory).map_err(at("create", &directory, 0))?;
        }
        disk.clean(&exclusive)?;
        disk.write_version()?;
        sync_directory(&disk.root)?;
        Ok(disk)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn grace(&self) -> Duration {
        self.grace
    }

    pub(super) fn block_path(&self, id: ContentId) -> PathBuf {
        let name = id.to_string();
        let shard = &name[name.len() - 3..name.len() - 1];
        self.root.join("blocks").join(shard).join(&name)
    }

    fn pin_path(&self, id: ContentId) -> PathBuf {
        self.root.join("pins").join(id.to_string())
    }

    // Locks

    pub(super) fn lock_shared(&self) -> Result<Lock, StoreError> {
        let (path, file) = self.lock_file("LOCK")?;
        file.lock_shared().map_err(at("lock", &path, 0))?;
        Ok(Lock(file))
    }

    pub(super) fn lock_exclusive(&self) -> Result<Lock, StoreError> {
        let (path, file) = self.lock_file("LOCK")?;
        file.lock().map_err(at("lock", &path, 0))?;
        Ok(Lock(file))
    }

    fn lock_used(&self) -> Result<Lock, StoreError> {
        let (path, file) = self.lock_file("USED.lock")?;
        file.lock().map_err(at("lock", &path, 0))?;
        Ok(Lock(file))
    }

    // A handle of its own for each lock: the operating system counts locks by handle, so threads exclude each other as processes do.
    fn lock_file(&self, name: &str) -> Result<(PathBuf, File), StoreError> {
        let path = self.root.join(name);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(at("open", &path, 0))?;
        Ok((path, file))
    }

    // Version

    fn check_version(&self) -> Result<(), StoreError> {
        let path = self.root.join("VERSION");
        match fs::read_to_string(&path) {
            Ok(found) if found == VERSION => Ok(()),
            Ok(found) => Err(StoreError::Layout { path, reason: format!("found {found:?}, want {VERSION:?}") }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                for entry in list(&self.root)? {
                    if !OWN_NAMES.iter().any(|own| entry.file_name() == *own) {
                        let reason = "the directory holds files that are not of a store; name an empty one".into();
                        return Err(StoreError::Layout { path: entry.path(), reason });
                    }
                }
                Ok(())
            }
            Err(error) => Err(at("read", &path, 0)(error)),
        }
    }

    fn write_version(&self) -> Result<(), StoreError> {
        let path = self.root.join("VERSION");
        if path.try_exists().map_err(at("find", &path, 0))? {
            return Ok(());
        }
        let temporary = self.write_temporary(VERSION.as_bytes())?;
        fs::rename(&temporary, &path).map_err(at("rename", &path, 0))
    }

    // Blocks

    pub(super) fn get(&self, id: ContentId) -> Result<Bytes, StoreError> {
        let path = self.block_path(id);
        let block = read_bounded(&path)?.ok_or(StoreError::NotFound { id, store: KIND })?;
        check_read(id, block.into(), KIND, || path.display().to_string())
    }

    pub(super) fn has(&self, id: ContentId) -> Result<bool, StoreError> {
        let path = self.block_path(id);
        path.try_exists().map_err(at("find", &path, 0))
    }

    pub(super) fn put(&self, id: ContentId, bytes: &[u8]) -> Result<(), StoreError> {
        check_offered(id, bytes)?;
        let _shared = self.lock_shared()?;
        let path = self.block_path(id);
        let shard = self.make_shard(&path)?;
        if read_bounded(&path)?.is_some_and(|found| found == bytes) {
            // Restarts its grace period: from here on this caller relies on it.
            let file = OpenOptions::new().write(true).open(&path).map_err(at("open", &path, 0))?;
            file.set_modified(SystemTime::now()).map_err(at("touch", &path, 0))?;
            return sync_directory(&shard);
        }
        let needed = bytes.len() as u64;
        self.check_room(self.used()?, needed)?;
        let temporary = self.write_temporary(bytes)?;
        let placed = self.place(&temporary, &path, bytes);
        if !matches!(placed, Ok(true)) {
            fs::remove_file(&temporary).map_err(at("remove", &temporary, 0))?;
        }
        placed?;
        sync_directory(&shard)
    }

    /// Moves a finished block to its name and counts it; false where another writer was faster.
    fn place(&self, temporary: &Path, path: &Path, bytes: &[u8]) -> Result<bool, StoreError> {
        let counting = self.lock_used()?;
        let (used, needed) = (self.read_used(&counting)?, bytes.len() as u64);
        let replaced = match read_bounded(path)? {
            Some(found) if found == bytes => return Ok(false),
            Some(damaged) => damaged.len() as u64,
            None => 0,
        };
        self.check_room(used.saturating_sub(replaced), needed)?;
        self.set_used(used.saturating_sub(replaced) + needed, &counting)?;
        fs::rename(temporary, path).map_err(at("rename", path, 0))?;
        Ok(true)
    }

    fn check_room(&self, used: u64, needed: u64) -> Result<(), StoreError> {
        if used.saturating_add(needed) > self.max_bytes {
            return Err(StoreError::Full { store: KIND, used, needed, limit: self.max_bytes });
        }
        Ok(())
    }

    fn make_shard(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let blocks = self.root.join("blocks");
        let shard = path.parent().unwrap_or(&blocks).to_owned();
        if !shard.try_exists().map_err(at("find", &shard, 0))? {
            fs::create_dir_all(&shard).map_err(at("create", &shard, 0))?;
            sync_directory(&blocks)?;
        }
        Ok(shard)
    }

    fn write_temporary(&self, bytes: &[u8]) -> Result<PathBuf, StoreError> {
        let directory = self.root.join("tmp");
        loop {
            let number = self.writes.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{}-{number}", process::id()));
            let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                opened => opened.map_err(at("create", &path, bytes.len()))?,
            };
            let written = file.write_all(bytes).and_then(|()| file.sync_all());
            match written {
                Ok(()) => return Ok(path),
                Err(error) => {
                    // The first error is the one to tell; what stays behind goes when the store is opened next.
                    if let Err(left) = fs::remove_file(&path) {
                        tracing::warn!(path = %path.display(), error = %left, "store.temporary_left");
                    }
                    return Err(at("write", &path, bytes.len())(error));
                }
            }
        }
    }

    // Pins

    pub(super) fn pin(&self, id: ContentId, _shared: &Lock) -> Result<(), StoreError> {
        let path = self.pin_path(id);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(at("create", &path, 0))?;
        file.sync_all().map_err(at("sync", &path, 0))?;
        sync_directory(&self.root.join("pins"))
    }

    pub(super) fn unpin(&self, id: ContentId) -> Result<bool, StoreError> {
        let _shared = self.lock_shared()?;
        let path = self.pin_path(id);
        match fs::remove_file(&path) {
            Ok(()) => sync_directory(&self.root.join("pins")).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(at("remove", &path, 0)(error)),
        }
    }

    /// Sorted. A pin that cannot be read is an error: taken for none, its blocks would be collected.
    pub(super) fn pins(&self) -> Result<Vec<ContentId>, StoreError> {
        let mut pins = Vec::new();
        for entry in list(&self.root.join("pins"))? {
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let reason = || "not the name of a pin; move it away, or unpin what it was meant to be".into();
            pins.push(id.ok_or_else(|| StoreError::Layout { path: entry.path(), reason: reason() })?);
        }
        pins.sort_unstable();
        Ok(pins)
    }

    // Counting

    pub(super) fn used(&self) -> Result<u64, StoreError> {
        let counting = self.lock_used()?;
        self.read_used(&counting)
    }

    fn read_used(&self, _counting: &Lock) -> Result<u64, StoreError> {
        let path = self.root.join("USED");
        let mut used = [0; 8];
        File::open(&path).and_then(|mut file| file.read_exact(&mut used)).map_err(at("read", &path, 0))?;
        Ok(u64::from_be_bytes(used))
    }

    fn set_used(&self, used: u64, _counting: &Lock) -> Result<(), StoreError> {
        let path = self.root.join("USED");
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(at("open", &path, 8))?;
        file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&used.to_be_bytes())).map_err(at("write", &path, 8))
    }

    /// Removes what crashed writes left and counts all blocks.
    fn clean(&self, exclusive: &Lock) -> Result<(), StoreError> {
        self.clear_temporary(exclusive)?;
        let mut used = 0;
        self.each_block(|_, bytes, _| {
            used += bytes;
            Ok(())
        })?;
        self.recount(used, exclusive)
    }

    pub(super) fn clear_temporary(&self, _exclusive: &Lock) -> Result<(), StoreError> {
        for entry in list(&self.root.join("tmp"))? {
            let path = entry.path();
            fs::remove_file(&path).map_err(at("remove", &path, 0))?;
            tracing::info!(path = %path.display(), "store.leftover_removed");
        }
        Ok(())
    }

    pub(super) fn recount(&self, used: u64, _exclusive: &Lock) -> Result<(), StoreError> {
        let counting = self.lock_used()?;
        self.set_used(used, &counting)
    }

    /// Calls `each` with every block's id, length in bytes and the time it was last put.
    pub(super) fn each_block(&self, mut each: impl FnMut(ContentId, u64, SystemTime) -> Result<(), StoreError>) -> Result<(), StoreError> {
        for shard in list(&self.root.join("blocks"))? {
            for entry in list(&shard.path())? {
                let path = entry.path();
                let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
                let Some(id) = id.filter(|id| self.block_path(*id) == path) else {
                    tracing::warn!(path = %path.display(), "store.foreign_file");
                    continue;
                };
                let metadata = entry.metadata().map_err(at("look at", &path, 0))?;
                let put_at = metadata.modified().map_err(at("look at", &path, 0))?;
                each(id, metadata.len(), put_at)?;
            }
        }
        Ok(())
    }

    pub(super) fn remove_block(&self, id: ContentId, _exclusive: &Lock) -> Result<(), StoreError> {
        let path = self.block_path(id);
        fs::remove_file(&path).map_err(at("remove", &path, 0))
    }
}

/// The error for a failed `action` on `path`, by which `needed` bytes were to be written.
fn at(action: &'static str, path: &Path, needed: usize) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::DiskFull { path, needed: needed as u64 },
        _ => StoreError::Io { action, path, source },
    }
}

/// The file's bytes, at most one more than a block may have; none where it is not there.
fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(at("open", path, 0))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_BLOCK_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(at("read", path, 0))?;
    Ok(Some(bytes))
}

fn list(directory: &Path) -> Result<Vec<fs::DirEntry>, StoreError> {
    let entries = fs::read_dir(directory).map_err(at("list", directory, 0))?;
    entries.collect::<Result<_, _>>().map_err(at("list", directory, 0))
}

/// Makes names in `directory` survive a power cut.
fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(at("sync", directory, 0))
}
