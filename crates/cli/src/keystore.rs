//! Encrypted keys on disk: one file per key (Web3 Secret Storage, version 3, scrypt), named by the user, readable by its owner only.
//!
//! A key leaves its file only as a signer in memory. Passwords come from a file, the environment or a prompt, and are never logged.

use std::{
    fs,
    io::{self, BufRead, Read, Write},
    path::{Path, PathBuf},
};

use alloy::signers::{
    k256::elliptic_curve::rand_core::OsRng,
    local::{LocalSignerError, PrivateKeySigner},
};
use quern_telemetry::Secret;
use quern_types::Address;
use serde::Serialize;

use crate::{config::Config, failure::Failure, output};

/// A key that can be named in `--key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyEntry {
    /// Its name: the file's without `.json`.
    pub name: String,
    /// Its address, as the file says. Checked against the key whenever the key is opened.
    pub address: Address,
    /// Its file.
    pub file: PathBuf,
}

/// A directory of encrypted keys.
#[derive(Debug, Clone)]
pub struct Keystore {
    dir: PathBuf,
}

impl Keystore {
    /// The keystore in `dir`, which need not exist yet.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// All keys, by name.
    ///
    /// # Errors
    /// The directory or one of its key files cannot be read.
    pub fn list(&self) -> Result<Vec<KeyEntry>, Failure> {
        let files = match fs::read_dir(&self.dir) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.unusable(&error)),
        };
        let mut keys = Vec::new();
        for file in files {
            let path = file.map_err(|error| self.unusable(&error))?.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
            {
                keys.push(self.entry(name)?);
            }
        }
        keys.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(keys)
    }

    /// The key of this name.
    ///
    /// # Errors
    /// There is none, or its file is damaged.
    pub fn entry(&self, name: &str) -> Result<KeyEntry, Failure> {
        check_name(name)?;
        let file = self.file(name);
        let text = fs::read_to_string(&file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::new(
                format!("no key is named {name:?} in {}", self.dir.display()),
                format!("list keys with `quern key list`, or make this one with `quern key new {name}`"),
            ),
            _ => Failure::new(format!("cannot read {}: {error}", file.display()), "make the file readable to you"),
        })?;
        let address = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|json| json.get("address")?.as_str().map(|text| format!("0x{}", text.trim_start_matches("0x"))))
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| {
                Failure::new(
                    format!("{} is not a key file (Web3 Secret Storage with an address)", file.display()),
                    "restore it from a backup, or move it away and import the key again with `quern key import`",
                )
            })?;
        Ok(KeyEntry { name: name.to_owned(), address, file })
    }

    /// Makes a new random key.
    ///
    /// # Errors
    /// The name is taken or unusable, or the file cannot be written.
    pub fn create(&self, name: &str, password: &Secret<String>) -> Result<KeyEntry, Failure> {
        self.write(name, &PrivateKeySigner::random(), password)
    }

    /// Stores a key that was made elsewhere: 64 hexadecimal digits, with or without 0x.
    ///
    /// # Errors
    /// Not a private key; the name is taken or unusable; the file cannot be written. No message repeats the key.
    pub fn import(&self, name: &str, private_key: &Secret<String>, password: &Secret<String>) -> Result<KeyEntry, Failure> {
        let signer: PrivateKeySigner = private_key.expose().trim().parse().map_err(|_| {
            Failure::usage("what was given is not a private key", "give 64 hexadecimal digits on one line, with or without 0x")
        })?;
        self.write(name, &signer, password)
    }

    /// Decrypts a key.
    ///
    /// # Errors
    /// No such key, a wrong password, a damaged file, or a file whose address is not the key's.
    pub fn open(&self, name: &str, password: &Secret<String>) -> Result<PrivateKeySigner, Failure> {
        let entry = self.entry(name)?;
        let signer = PrivateKeySigner::decrypt_keystore(&entry.file, password.expose()).map_err(|error| match error {
            LocalSignerError::EthKeystoreError(inner) if inner.to_string().contains("Mac") => Failure::new(
                format!("the password of key {name:?} is wrong"),
                "type it again, or check --password-file, QUERN_PASSWORD_FILE and QUERN_PASSWORD",
            ),
            other => {
                Failure::new(format!("cannot open key {name:?} ({}): {other}", entry.file.display()), "restore the file from a backup")
            }
        })?;
        if signer.address() != entry.address {
            return Err(Failure::new(
                format!("{} says address {}, but holds the key of {}", entry.file.display(), entry.address, signer.address()),
                "somebody edited the file: do not pay to the address it showed; import the key again under another name",
            ));
        }
        Ok(signer)
    }

    fn write(&self, name: &str, signer: &PrivateKeySigner, password: &Secret<String>) -> Result<KeyEntry, Failure> {
        check_name(name)?;
        if password.expose().is_empty() {
            return Err(Failure::usage("the password is empty", "choose one; for tests any word will do"));
        }
        let file = self.file(name);
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(format!("cannot write {}: {error}", file.display()), "check the directory and its permissions")
        };
        create_private_dir(&self.dir).map_err(|error| failed(&error))?;
        // Written aside and linked into place: a crash leaves no half key, and an existing key is never replaced.
        let aside = tempfile::tempdir_in(&self.dir).map_err(|error| failed(&error))?;
        let secret = signer.to_bytes();
        PrivateKeySigner::encrypt_keystore(aside.path(), &mut OsRng, secret, password.expose(), Some("key"))
            .map_err(|error| failed(&error))?;
        let whole = aside.path().join("key");
        add_address(&whole, signer.address()).map_err(|error| failed(&error))?;
        match fs::hard_link(&whole, &file) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Failure::new(format!("a key named {name:?} exists"), "choose another name; quern never replaces a key"));
            }
            Err(error) => return Err(failed(&error)),
        }
        fs::File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(|error| failed(&error))?;
        Ok(KeyEntry { name: name.to_owned(), address: signer.address(), file })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }

    fn unusable(&self, error: &io::Error) -> Failure {
        Failure::new(format!("cannot read {}: {error}", self.dir.display()), "check the directory and its permissions")
    }
}

/// The name of the key to use: the configured one, or the only one there is.
///
/// # Errors
/// None is configured and there is none, or more than one.
pub fn choose(config: &Config) -> Result<KeyEntry, Failure> {
    let keystore = Keystore::new(config.keys_dir());
    if let Some(name) = &config.key {
        return keystore.entry(name);
    }
    let mut keys = keystore.list()?;
    match keys.len() {
        1 => Ok(keys.remove(0)),
        0 => Err(Failure::new("there is no key yet", "make one with `quern key new NAME`, or bring one with `quern key import NAME`")),
        _ => {
            let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
            Err(Failure::usage(
                format!("which key? There are {}", names.join(", ")),
                "pass --key NAME, or set `key` in the configuration file",
            ))
        }
    }
}

/// The password of a key: from the configured file, the environment, or a person.
///
/// # Errors
/// No source has one.
pub fn password(config: &Config, prompt: &str) -> Result<Secret<String>, Failure> {
    if let Some(file) = &config.password_file {
        return read_password_file(file);
    }
    if let Some(password) = &config.password {
        return Ok(password.clone());
    }
    if !output::is_interactive() {
        return Err(Failure::usage(
            "a password is needed and there is no terminal to ask on",
            "pass --password-file FILE, or set QUERN_PASSWORD_FILE or QUERN_PASSWORD",
        ));
    }
    ask(prompt)
}

/// The password for a key that is made now: as [`password`], and asked for twice.
///
/// # Errors
/// As [`password`], or the two answers differ.
pub fn new_password(config: &Config, name: &str) -> Result<Secret<String>, Failure> {
    let first = password(config, &format!("Password for the new key {name:?}: "))?;
    if config.password_file.is_none() && config.password.is_none() && ask("The same again: ")? != first {
        return Err(Failure::usage("the two passwords differ", "start again"));
    }
    Ok(first)
}

/// A secret from standard input: asked for on a terminal, else the first line.
///
/// # Errors
/// Nothing can be read.
pub fn secret_from_stdin(prompt: &str) -> Result<Secret<String>, Failure> {
    if output::is_interactive() {
        return ask(prompt);
    }
    let mut line = String::new();
    let read = io::stdin().lock().take(4096).read_line(&mut line);
    read.map_err(|error| Failure::new(format!("cannot read standard input: {error}"), "pipe the private key in, on one line"))?;
    Ok(Secret::new(line.trim().to_owned()))
}

fn ask(prompt: &str) -> Result<Secret<String>, Failure> {
    rpassword::prompt_password(prompt)
        .map(Secret::new)
        .map_err(|error| Failure::new(format!("cannot ask for a password: {error}"), "pass --password-file FILE"))
}

fn read_password_file(path: &Path) -> Result<Secret<String>, Failure> {
    let failed = |error: io::Error| {
        Failure::usage(
            format!("cannot read the password file {}: {error}", path.display()),
            "check --password-file and QUERN_PASSWORD_FILE",
        )
    };
    let file = fs::File::open(path).map_err(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
            output::warn(&format!("warning: other users can read the password file {0}: chmod 600 {0}", path.display()));
        }
    }
    let mut line = String::new();
    io::BufReader::new(file).take(4096).read_line(&mut line).map_err(failed)?;
    Ok(Secret::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}

/// A name becomes a file name: nothing else is let through.
fn check_name(name: &str) -> Result<(), Failure> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        return Err(Failure::usage(format!("{name:?} cannot name a key"), "use 1 to 64 letters, digits, - and _"));
    }
    Ok(())
}

fn create_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(dir)
}

/// Adds the address to the key file, as geth does: keys can be listed without a password. Readable by the owner only, on disk when this returns.
fn add_address(path: &Path, address: Address) -> io::Result<()> {
    let mut json: serde_json::Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    json["address"] = serde_json::Value::String(format!("{address:#x}").trim_start_matches("0x").to_owned());
    fs::remove_file(path)?;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    file.write_all(serde_json::to_string_pretty(&json)?.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[test]
    fn key_round_trips_and_lists_its_address_without_a_password() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let keystore = Keystore::new(dir.path().join("keys"));
        assert_eq!(keystore.list().expect("empty"), []);
        let made = keystore.create("alice", &secret("pw")).expect("created");
        assert_eq!(keystore.list().expect("listed"), std::slice::from_ref(&made));
        assert_eq!(keystore.open("alice", &secret("pw")).expect("opened").address(), made.address);
    }

    #[test]
    fn wrong_password_is_named_as_such() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let keystore = Keystore::new(dir.path().to_owned());
        keystore.create("alice", &secret("pw")).expect("created");
        let failure = keystore.open("alice", &secret("other")).expect_err("wrong");
        assert_eq!(failure.what, "the password of key \"alice\" is wrong");
    }

    #[test]
    fn key_is_never_replaced_and_never_readable_by_others() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let keystore = Keystore::new(dir.path().to_owned());
        let made = keystore.create("alice", &secret("pw")).expect("created");
        assert!(keystore.create("alice", &secret("pw")).expect_err("taken").what.contains("exists"));
        assert_eq!(keystore.entry("alice").expect("there").address, made.address);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&made.file).expect("there").permissions().mode() & 0o777, 0o600);
        }
        let left: Vec<_> = fs::read_dir(dir.path()).expect("readable").collect();
        assert_eq!(left.len(), 1, "nothing is left aside");
    }

    #[test]
    fn import_takes_the_well_known_key_and_repeats_no_bad_one() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let keystore = Keystore::new(dir.path().to_owned());
        let known = secret("0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80");
        let made = keystore.import("dev", &known, &secret("pw")).expect("imported");
        assert_eq!(made.address.to_string(), "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
        let failure = keystore.import("bad", &secret("deadbeef00"), &secret("pw")).expect_err("too short");
        assert!(!failure.to_string().contains("deadbeef"));
    }

    #[test]
    fn edited_address_is_noticed_when_the_key_is_opened() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let keystore = Keystore::new(dir.path().to_owned());
        let made = keystore.create("alice", &secret("pw")).expect("created");
        let mut json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&made.file).expect("text")).expect("json");
        json["address"] = "00000000000000000000000000000000deadbeef".into();
        fs::write(&made.file, json.to_string()).expect("written");
        assert!(keystore.open("alice", &secret("pw")).expect_err("edited").what.contains("holds the key of"));
    }

    #[test]
    fn name_that_leaves_the_directory_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let keystore = Keystore::new(dir.path().to_owned());
        for name in ["", "../x", "a/b", "a.b", "a b"] {
            assert_eq!(keystore.create(name, &secret("pw")).expect_err(name).exit, crate::failure::Exit::Usage);
        }
    }
}
