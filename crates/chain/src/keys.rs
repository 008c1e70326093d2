//! Signing keys in encrypted files (Web3 Secret Storage, the keystore format of geth). A key is never printed, logged or sent.

use std::{
    fmt, fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use alloy::{primitives::Address, signers::local::PrivateKeySigner};

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read, or written.
    #[error("key file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// There is a key already; it is never overwritten, since money may hang on it.
    #[error("key file {} exists already and is never overwritten: choose another name, or move it away and keep it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Wrong password, or not a key file.
    #[error("key file {} does not open: the password is wrong, or the file is damaged ({what})", path.display())]
    DoesNotOpen {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        what: String,
    },
    /// An empty password protects nothing.
    #[error("the password of a key file must not be empty")]
    EmptyPassword,
}

/// The account whose key signed a digest (r ‖ s ‖ v, 65 bytes), by the rules of the contracts: s in the lower half, v 27 or 28. `None` for no
/// signature.
pub fn signer_of(digest: alloy::primitives::B256, signature: &[u8]) -> Option<Address> {
    let parity = match signature {
        [.., 27] if signature.len() == 65 => false,
        [.., 28] if signature.len() == 65 => true,
        _ => return None,
    };
    let signature = alloy::primitives::Signature::from_bytes_and_parity(&signature[..64], parity);
    // A signature with s in the upper half changes when it is brought into its one form.
    signature.normalize_s().is_none().then(|| signature.recover_address_from_prehash(&digest).ok()).flatten()
}

/// A password. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps a password.
    ///
    /// # Errors
    /// [`KeyError::EmptyPassword`].
    pub fn new(text: impl Into<String>) -> Result<Self, KeyError> {
        let text = text.into();
        if text.is_empty() {
            return Err(KeyError::EmptyPassword);
        }
        Ok(Self(text))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

/// An opened key: signs transactions and receipts. Its `Debug` shows only the address.
#[derive(Clone)]
pub struct Key(PrivateKeySigner);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.address()).finish()
    }
}

impl From<PrivateKeySigner> for Key {
    fn from(signer: PrivateKeySigner) -> Self {
        Self(signer)
    }
}

impl Key {
    /// A new random key, not stored anywhere.
    pub fn random() -> Self {
        Self(PrivateKeySigner::random())
    }

    /// The key with these 32 bytes: development accounts of test chains.
    ///
    /// # Errors
    /// `None` where the bytes are no key of secp256k1.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        PrivateKeySigner::from_slice(bytes).ok().map(Self)
    }

    /// The account.
    pub fn address(&self) -> Address {
        self.0.address()
    }

    /// Signs a 32-byte digest: r ‖ s ‖ v, 65 bytes, v 27 or 28. For EIP-712 digests such as `Receipt::digest`.
    pub fn sign_digest(&self, digest: alloy::primitives::B256) -> [u8; 65] {
        use alloy::signers::SignerSync as _;
        match self.0.sign_hash_sync(&digest) {
            Ok(signature) => signature.as_bytes(),
            Err(error) => unreachable!("a local key signs any digest: {error}"),
        }
    }

    pub(crate) fn signer(&self) -> &PrivateKeySigner {
        &self.0
    }

    /// Makes a random key and stores it encrypted.
    ///
    /// # Errors
    /// [`KeyError::Exists`] before anything is written; [`KeyError::Io`].
    pub fn create(path: &Path, password: &Password) -> Result<Self, KeyError> {
        let key = Self::random();
        key.store(path, password)?;
        Ok(key)
    }

    /// Stores the key encrypted (scrypt, AES-128-CTR), readable by the owner alone, whole or not at all.
    ///
    /// # Errors
    /// As [`Key::create`].
    pub fn store(&self, path: &Path, password: &Password) -> Result<(), KeyError> {
        let io = |source| KeyError::Io { path: path.into(), source };
        if path.exists() {
            return Err(KeyError::Exists { path: path.into() });
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(io)?;
        // The library writes a file of its own; it is made in a private folder beside the target and linked into place, which fails if the target exists.
        let private = folder.join(format!(".key-{:016x}", rand::random::<u64>()));
        make_private_folder(&private).map_err(io)?;
        let written = self.store_in(&private, password).and_then(|inner| {
            make_private_file(&inner).map_err(io)?;
            fs::hard_link(&inner, path).map_err(|source| match source.kind() {
                std::io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.into() },
                _ => io(source),
            })?;
            fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
        });
        let _ = fs::remove_dir_all(&private);
        written
    }

    fn store_in(&self, folder: &Path, password: &Password) -> Result<PathBuf, KeyError> {
        let path = folder.join("key");
        let mut rng = alloy::signers::k256::elliptic_curve::rand_core::OsRng;
        PrivateKeySigner::encrypt_keystore(folder, &mut rng, self.0.to_bytes(), &password.0, Some("key"))
            .map_err(|error| KeyError::DoesNotOpen { path: path.clone(), what: error.to_string() })?;
        fs::File::options()
            .append(true)
            .open(&path)
            .and_then(|mut file| {
                file.flush()?;
                file.sync_all()
            })
            .map_err(|source| KeyError::Io { path: path.clone(), source })?;
        Ok(path)
    }

    /// Opens a stored key. Takes about a second: the password is stretched on purpose.
    ///
    /// # Errors
    /// [`KeyError::Io`] where the file is missing, [`KeyError::DoesNotOpen`] for a wrong password or a damaged file.
    pub fn load(path: &Path, password: &Password) -> Result<Self, KeyError> {
        fs::File::open(path).map_err(|source| KeyError::Io { path: path.into(), source })?;
        PrivateKeySigner::decrypt_keystore(path, &password.0)
            .map(Self)
            .map_err(|error| KeyError::DoesNotOpen { path: path.into(), what: error.to_string() })
    }
}

#[cfg(unix)]
fn make_private_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(0o700).create(path)
}

#[cfg(not(unix))]
fn make_private_folder(path: &Path) -> std::io::Result<()> {
    fs::create_dir(path)
}

#[cfg(unix)]
fn make_private_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

#[cfg(not(unix))]
fn make_private_file(_: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text).expect("not empty")
    }

    #[test]
    fn signature_tells_its_signer_in_one_form_only() {
        let (key, digest) = (Key::random(), alloy::primitives::B256::repeat_byte(7));
        let signature = key.sign_digest(digest);
        assert_eq!(signer_of(digest, &signature), Some(key.address()));
        assert_ne!(signer_of(alloy::primitives::B256::repeat_byte(8), &signature), Some(key.address()));
        // The other form: s in the upper half, the other parity.
        let order: alloy::primitives::U256 =
            "0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141".parse().expect("a number");
        let s = alloy::primitives::U256::from_be_slice(&signature[32..64]);
        let mut other = signature;
        other[32..64].copy_from_slice(&(order - s).to_be_bytes::<32>());
        other[64] = 27 + 28 - other[64];
        for no in [other.as_slice(), &signature[..64], &[0; 65], &[]] {
            assert_eq!(signer_of(digest, no), None);
        }
    }

    #[test]
    fn stored_key_comes_back_with_its_password_only() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("keys").join("operator.json");
        let key = Key::create(&path, &password("correct horse")).expect("created");
        assert_eq!(Key::load(&path, &password("correct horse")).expect("opens").address(), key.address());
        assert!(matches!(Key::load(&path, &password("wrong")), Err(KeyError::DoesNotOpen { .. })));
        assert!(matches!(Key::load(&folder.path().join("none"), &password("x")), Err(KeyError::Io { .. })));
        std::fs::write(folder.path().join("junk"), "{}").expect("written");
        assert!(matches!(Key::load(&folder.path().join("junk"), &password("x")), Err(KeyError::DoesNotOpen { .. })));
        let beside: Vec<_> = std::fs::read_dir(folder.path().join("keys")).expect("folder").collect();
        assert_eq!(beside.len(), 1, "nothing is left over: {beside:?}");
    }

    #[test]
    fn key_is_never_overwritten_and_readable_by_its_owner_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("key.json");
        let first = Key::create(&path, &password("a")).expect("created");
        assert!(matches!(Key::create(&path, &password("b")), Err(KeyError::Exists { .. })));
        assert_eq!(Key::load(&path, &password("a")).expect("opens").address(), first.address());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn nothing_secret_shows_in_debug_output() {
        let key = Key::from_bytes(&[0x42; 32]).expect("a key");
        let shown = format!("{key:?} {:?}", password("hunter2"));
        assert!(!shown.contains("hunter2") && !shown.contains("4242"), "{shown}");
        assert!(matches!(Password::new(""), Err(KeyError::EmptyPassword)));
    }

    #[test]
    fn digest_signature_recovers_to_the_account() {
        let key = Key::from_bytes(&[0x42; 32]).expect("a key");
        let digest = alloy::primitives::B256::repeat_byte(9);
        let bytes = key.sign_digest(digest);
        assert!(bytes[64] == 27 || bytes[64] == 28);
        let signature = alloy::primitives::Signature::from_raw_array(&bytes).expect("a signature");
        assert_eq!(signature.recover_address_from_prehash(&digest).expect("recovers"), key.address());
    }
}
