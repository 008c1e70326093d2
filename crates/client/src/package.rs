//! Model packages in the content store: each file on its own, and a manifest that lists them. The manifest's id is what a registration names.
//!
//! TRUST: none. What is fetched is opened and verified against the package root that the chain names, every hash of it, before it is used.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use quern_model::Package;
use quern_store::ContentStore;
use quern_types::{ContentId, PackageRoot};
use serde::{Deserialize, Serialize};

use crate::ClientError;

/// Version of the manifest.
const FORMAT: u32 = 1;
/// Most files of a package, many times what one has.
const MAX_FILES: usize = 16;
const HEADER_FILE: &str = "header.bin";
const WEIGHTS_FILE: &str = "weights.bin";
/// The files of a package in the order of fetching, each with the most bytes that it may have. (64 GiB: larger weights are brought by other means.)
const FILES: [(&str, u64); 5] =
    [(HEADER_FILE, 160), ("conversion.json", 16 << 20), ("tokenizer.json", 64 << 20), ("chat.json", 1 << 20), (WEIGHTS_FILE, 64 << 30)];
/// Longest manifest that is read, in bytes.
const MAX_MANIFEST: u64 = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    #[serde(rename = "quern-package")]
    format: u32,
    files: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    content: ContentId,
    bytes: u64,
}

/// Stores and pins every file of a package, and the manifest; returns the manifest's id. The same files give the same id.
///
/// # Errors
/// A file that cannot be read or a folder that holds something else than a package's files; the store's.
pub async fn publish_package(store: &dyn ContentStore, package: &Path) -> Result<ContentId, ClientError> {
    let failed = |source: io::Error| ClientError::PackageFile { action: "read", path: package.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(package).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type().map_err(failed)?.is_file() || !is_plain(&name) {
            return Err(ClientError::PackageForm {
                reason: format!("{} holds {name:?}, which is no file of a package", package.display()),
            });
        }
        names.push(name);
    }
    names.sort();
    if names.len() > MAX_FILES {
        return Err(ClientError::PackageForm {
            reason: format!("{} holds {} files, a package at most {MAX_FILES}", package.display(), names.len()),
        });
    }
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        let path = package.join(&name);
        let failed = |source: io::Error| ClientError::PackageFile { action: "read", path: path.clone(), source };
        let mut file = tokio::fs::File::open(&path).await.map_err(failed)?;
        let bytes = file.metadata().await.map_err(failed)?.len();
        let content = store.put_reader(&mut file).await?;
        store.pin(content).await?;
        files.push(Entry { name, content, bytes });
    }
    let manifest =
        serde_json::to_vec(&Manifest { format: FORMAT, files }).map_err(|error| ClientError::PackageForm { reason: error.to_string() })?;
    let id = store.put(&manifest).await?;
    store.pin(id).await?;
    Ok(id)
}

/// Fetches the package with this root into `to`, whole and verified or not at all. A folder that is there already is opened and verified.
///
/// # Errors
/// Content that cannot be fetched or is not a package with this root; a file that cannot be written.
pub async fn fetch_package(store: &dyn ContentStore, manifest: ContentId, root: PackageRoot, to: &Path) -> Result<Package, ClientError> {
    if to.is_dir() {
        return Ok(Package::open_verified(to, root)?);
    }
    let text = store.get(manifest, MAX_MANIFEST).await?;
    let bad = |reason: String| ClientError::PackageForm { reason };
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| bad(format!("{manifest} is no manifest of a package: {error}")))?;
    if manifest.format != FORMAT || manifest.files.len() > MAX_FILES {
        return Err(bad(format!("its manifest has format {} and {} files", manifest.format, manifest.files.len())));
    }
    if let Some(entry) = manifest.files.iter().find(|entry| FILES.iter().all(|(name, _)| entry.name != *name)) {
        return Err(bad(format!("{:?} is no file of a package", entry.name)));
    }
    let parent = to.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| ClientError::PackageFile { action: "write", path, source }
    };
    fs::create_dir_all(&parent).map_err(failed(&parent))?;
    let aside = tempfile::tempdir_in(&parent).map_err(failed(&parent))?;
    // TRUST: the header says how long the weights are, and constants how long everything else is; the publisher's own figures say nothing.
    let mut weights = None;
    for (name, most) in FILES {
        let Some(entry) = manifest.files.iter().find(|entry| entry.name == name) else { continue };
        let limit = if name == WEIGHTS_FILE { weights.ok_or_else(|| bad("it has weights and no header".to_owned()))? } else { most };
        if limit > most {
            return Err(bad(format!(
                "its header asks for {limit} bytes of weights, and at most {most} are fetched; bring it by other means"
            )));
        }
        let path = aside.path().join(name);
        let mut file = tokio::fs::File::create_new(&path).await.map_err(failed(&path))?;
        store.get_ours_to(entry.content, limit, &mut file).await?;
        file.sync_all().await.map_err(failed(&path))?;
        if name == HEADER_FILE {
            weights = Some(Package::weights_bytes_of(&fs::read(&path).map_err(failed(&path))?)?);
        }
    }
    Package::open_verified(aside.path(), root)?;
    match fs::rename(aside.path(), to) {
        Ok(()) => {}
        // Another process was faster; what it wrote is verified below like ours.
        Err(_) if to.is_dir() => {}
        Err(source) => return Err(failed(to)(source)),
    }
    Ok(Package::open_verified(to, root)?)
}

/// A name that stays in its folder.
fn is_plain(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !name.is_empty() && name.len() <= 64 && !name.starts_with('.') && name.chars().all(good)
}

#[cfg(test)]
mod tests {
    use quern_store::MemoryStore;
    use quern_types::B256;

    use super::*;

    #[tokio::test]
    async fn same_files_give_the_same_id_and_everything_is_pinned() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("header.bin"), [1; 160]).expect("written");
        fs::write(dir.path().join("weights.bin"), vec![2; 3 << 20]).expect("written");
        let (one, two) = (MemoryStore::new(), MemoryStore::new());
        let id = publish_package(&one, dir.path()).await.expect("published");
        assert_eq!(publish_package(&two, dir.path()).await.expect("published"), id);
        assert_eq!(one.pins().await.expect("pins").len(), 3);
    }

    #[tokio::test]
    async fn file_that_an_enemy_makes_longer_than_its_kind_is_refused_before_it_fills_the_disk() {
        let store = MemoryStore::new();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let long = store.put(&vec![1; 2 << 20]).await.expect("put");
        for name in ["header.bin", "chat.json"] {
            let files = vec![Entry { name: name.into(), content: long, bytes: 1 << 63 }];
            let id = store.put(&serde_json::to_vec(&Manifest { format: FORMAT, files }).expect("json")).await.expect("put");
            let error = fetch_package(&store, id, PackageRoot(B256::ZERO), &dir.path().join("package")).await.expect_err("too long");
            assert!(matches!(error, ClientError::Store(quern_store::StoreError::TooLarge { .. })), "{name}: {error}");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
    }

    #[tokio::test]
    async fn hostile_manifest_leaves_nothing_behind() {
        let store = MemoryStore::new();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let to = dir.path().join("package");
        let file = store.put(b"x").await.expect("put");
        for name in ["../escape", "/abs", ".hidden", "a/b", ""] {
            let manifest = Manifest { format: FORMAT, files: vec![Entry { name: name.into(), content: file, bytes: 1 }] };
            let id = store.put(&serde_json::to_vec(&manifest).expect("json")).await.expect("put");
            assert!(fetch_package(&store, id, PackageRoot(B256::ZERO), &to).await.is_err(), "{name}");
        }
        // A header of nothing, and weights that go on for ever: 2^63 bytes by the manifest, a few links by the blocks.
        let mut files = vec![Entry { name: "weights.bin".into(), content: file, bytes: 1 << 63 }];
        let manifest = |files: &[Entry]| serde_json::to_vec(&serde_json::json!({ "quern-package": FORMAT, "files": files })).expect("json");
        let headless = store.put(&manifest(&files)).await.expect("put");
        files.push(Entry { name: "header.bin".into(), content: store.put(&[0; 160]).await.expect("put"), bytes: 160 });
        let empty = store.put(&manifest(&files)).await.expect("put");
        for id in [headless, empty] {
            assert!(fetch_package(&store, id, PackageRoot(B256::ZERO), &to).await.is_err());
        }
        let id = store.put(b"not json").await.expect("put");
        assert!(matches!(fetch_package(&store, id, PackageRoot(B256::ZERO), &to).await, Err(ClientError::PackageForm { .. })));
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
    }
}
