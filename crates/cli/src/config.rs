//! Configuration: the only reader of the environment and of the configuration file.
//!
//! Each setting is taken from the first place that has it: command line, environment (`QUERN_*`), file, default. An unknown key in the file is an
//! error, because a misspelt setting that is silently ignored costs money.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::Args;
use quern_telemetry::Secret;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Name of the configuration file in the home directory.
pub const FILE_NAME: &str = "config.toml";
/// RPC endpoint where none is configured: a local devnet.
const DEFAULT_RPC: &str = "http://127.0.0.1:8545";
/// Gateway address where none is configured. Loopback: serving to the world is a decision.
const DEFAULT_LISTEN: &str = "127.0.0.1:8480";
/// Size limit of the embedded store where none is configured: 10 GiB.
const DEFAULT_STORE_LIMIT_BYTES: u64 = 10 << 30;

/// Options that every command takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalArgs {
    /// Directory of configuration, keys, journal and content; default ~/.quern
    #[arg(long, global = true, value_name = "DIR", env = "QUERN_HOME")]
    pub home: Option<PathBuf>,
    /// Configuration file; default HOME/config.toml, which need not exist
    #[arg(long, global = true, value_name = "FILE", env = "QUERN_CONFIG")]
    pub config: Option<PathBuf>,
    /// RPC endpoint of the chain, http(s) or ws(s); repeat it to name more to fail over to
    #[arg(long, global = true, value_name = "URL", env = "QUERN_RPC", value_delimiter = ',', hide_env_values = true)]
    pub rpc: Vec<String>,
    /// Deployment file: chain id, addresses and code hashes of the contracts
    #[arg(long, global = true, value_name = "FILE", env = "QUERN_DEPLOYMENT")]
    pub deployment: Option<PathBuf>,
    /// Name of the key that signs, see `quern key list`
    #[arg(long, global = true, value_name = "NAME", env = "QUERN_KEY")]
    pub key: Option<String>,
    /// File whose first line is the password of the key; without it you are asked (or set QUERN_PASSWORD)
    #[arg(long, global = true, value_name = "FILE", env = "QUERN_PASSWORD_FILE")]
    pub password_file: Option<PathBuf>,
    /// Directory of the embedded content store; default HOME/store
    #[arg(long, global = true, value_name = "DIR", env = "QUERN_STORE")]
    pub store: Option<PathBuf>,
    /// Trustless gateway to fetch content from; repeatable
    #[arg(long, global = true, value_name = "URL", env = "QUERN_GATEWAYS", value_delimiter = ',')]
    pub gateway: Vec<String>,
    /// RPC API of a Kubo (IPFS) node, used in place of the embedded store; a worker keeps its store, copies outputs to the node, and fetches inputs through it where no gateway is named
    #[arg(long, global = true, value_name = "URL", env = "QUERN_KUBO")]
    pub kubo: Option<String>,
    /// Print results as JSON (one object per line) and errors as {"error":{"what","do","exit"}} on standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// Filter of the log on standard error, such as `info` or `quern_chain=debug,warn`
    #[arg(long, global = true, value_name = "FILTER", env = "QUERN_LOG")]
    pub log: Option<String>,
    /// Form of the log: text or json
    #[arg(long, global = true, value_name = "FORM", env = "QUERN_LOG_FORMAT")]
    pub log_format: Option<String>,
}

/// The configuration file. Every key may be left out. Relative paths are relative to the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// RPC endpoints, in order of preference.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rpc: Vec<String>,
    /// Deployment file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<PathBuf>,
    /// Name of the key that signs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// File that holds the password of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Trustless gateways to fetch from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    /// The content store.
    #[serde(skip_serializing_if = "StoreFile::is_empty")]
    pub store: StoreFile,
}

/// Section `[store]` of the configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreFile {
    /// Directory of the embedded store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Most bytes that the embedded store holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// Address on which this machine serves its content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// RPC API of a Kubo node, in place of the embedded store (beside it in a worker).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubo: Option<String>,
}

impl StoreFile {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The validated configuration of one run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Data directory.
    pub home: PathBuf,
    /// The configuration file that was read, or that would be.
    pub file: PathBuf,
    /// Whether that file exists.
    pub file_exists: bool,
    /// RPC endpoints; at least one.
    pub rpc: Vec<String>,
    /// Deployment file, where one is configured.
    pub deployment: Option<PathBuf>,
    /// Name of the key that signs, where one is configured.
    pub key: Option<String>,
    /// Password from QUERN_PASSWORD.
    pub password: Option<Secret<String>>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
    /// Gateways to fetch from.
    pub gateways: Vec<String>,
    /// The content store.
    pub store: StoreConfig,
    /// Whether results are JSON.
    pub json: bool,
    /// Filter of the log; none: the default of the command.
    pub log: Option<String>,
    /// `text` or `json`.
    pub log_format: Option<String>,
}

/// Where content is kept and served.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Directory of the embedded store.
    pub dir: PathBuf,
    /// Most bytes that it holds.
    pub limit_bytes: u64,
    /// Address on which this machine serves its content. Default 127.0.0.1:8480.
    pub listen: SocketAddr,
    /// A Kubo node in its place; beside it in a worker, whose promises do not hang on another process.
    pub kubo: Option<String>,
}

impl Config {
    /// Puts command line, environment, file and defaults together.
    ///
    /// # Errors
    /// A file that was named and is not there, that does not parse, or that holds an unknown key; no home directory.
    pub fn load(args: &GlobalArgs) -> Result<Self, Failure> {
        let password = env::var("QUERN_PASSWORD").ok().map(Secret::new);
        Self::merge(args, password, env::home_dir())
    }

    fn merge(args: &GlobalArgs, password: Option<Secret<String>>, user_home: Option<PathBuf>) -> Result<Self, Failure> {
        let home = match &args.home {
            Some(dir) => dir.clone(),
            None => user_home
                .map(|dir| dir.join(".quern"))
                .ok_or_else(|| Failure::usage("this user has no home directory", "name a data directory with --home DIR or QUERN_HOME"))?,
        };
        let file = args.config.clone().unwrap_or_else(|| home.join(FILE_NAME));
        let read = read_file(&file, args.config.is_some())?;
        let file_exists = read.is_some();
        let from_file = read.unwrap_or_default();
        let base = file.parent().unwrap_or(Path::new("")).to_owned();
        let rooted = |path: PathBuf| if path.is_absolute() { path } else { base.join(path) };

        let rpc = first_list(&args.rpc, from_file.rpc, || vec![DEFAULT_RPC.into()]);
        let gateways = first_list(&args.gateway, from_file.gateways, Vec::new);
        for url in &gateways {
            check_url("gateway", url)?;
        }
        let kubo = args.kubo.clone().or(from_file.store.kubo);
        let listen = match from_file.store.listen {
            Some(address) => address,
            None => DEFAULT_LISTEN.parse().map_err(|error| Failure::usage(format!("default address: {error}"), ""))?,
        };
        Ok(Self {
            rpc,
            deployment: args
                .deployment
                .clone()
                .or_else(|| from_file.deployment.map(rooted))
                .or_else(|| existing(home.join("deployment.json"))),
            key: args.key.clone().or(from_file.key),
            password,
            password_file: args.password_file.clone().or_else(|| from_file.password_file.map(rooted)),
            gateways,
            store: StoreConfig {
                dir: args.store.clone().or_else(|| from_file.store.dir.map(rooted)).unwrap_or_else(|| home.join("store")),
                limit_bytes: from_file.store.limit_bytes.unwrap_or(DEFAULT_STORE_LIMIT_BYTES),
                listen,
                kubo,
            },
            json: args.json,
            log: args.log.clone(),
            log_format: args.log_format.clone(),
            home,
            file,
            file_exists,
        })
    }

    /// Directory of the encrypted keys.
    pub fn keys_dir(&self) -> PathBuf {
        self.home.join("keys")
    }

    /// Directory of the journals of clients: one folder per deployment and account below it.
    pub fn journal_dir(&self) -> PathBuf {
        self.home.join("journal")
    }

    /// Directory of model packages that were fetched or registered here, by model id.
    pub fn packages_dir(&self) -> PathBuf {
        self.home.join("packages")
    }
}

/// The configuration file, `None` where it does not exist and need not.
///
/// # Errors
/// It cannot be read or is not a valid configuration.
pub fn read_file(path: &Path, must_exist: bool) -> Result<Option<ConfigFile>, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(None),
        Err(error) => {
            let remedy = "check --config (QUERN_CONFIG), or write one with `quern init`";
            return Err(Failure::usage(format!("cannot read the configuration file {}: {error}", path.display()), remedy));
        }
    };
    toml::from_str(&text).map(Some).map_err(|error| {
        let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let what = format!("{}, line {line}: {}", path.display(), error.message());
        Failure::usage(what, "correct the file; `quern config show` lists what is in force and `quern help init` names every key")
    })
}

fn first_list(args: &[String], file: Vec<String>, default: impl FnOnce() -> Vec<String>) -> Vec<String> {
    if !args.is_empty() {
        args.to_vec()
    } else if !file.is_empty() {
        file
    } else {
        default()
    }
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
}

fn check_url(what: &str, url: &str) -> Result<(), Failure> {
    if url.starts_with("http://") || url.starts_with("https://") {
        return Ok(());
    }
    Err(Failure::usage(format!("{what} {url:?} is not an http(s) URL"), "write something like http://127.0.0.1:8480"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    fn args(home: &Path) -> GlobalArgs {
        GlobalArgs { home: Some(home.to_owned()), ..GlobalArgs::default() }
    }

    #[test]
    fn unknown_key_is_an_error_that_names_file_and_line() {
        let home = home();
        std::fs::write(home.path().join(FILE_NAME), "key = \"a\"\nrcp = [\"http://x\"]\n").expect("write");
        let failure = Config::merge(&args(home.path()), None, None).expect_err("rcp is no key");
        assert!(failure.what.contains("line 2") && failure.what.contains("rcp"), "{failure}");
        std::fs::write(home.path().join(FILE_NAME), "[store]\nlimit = 3\n").expect("write");
        assert!(Config::merge(&args(home.path()), None, None).is_err());
    }

    #[test]
    fn flag_wins_over_file_and_file_over_default() {
        let home = home();
        let defaults = Config::merge(&args(home.path()), None, None).expect("an empty home is fine");
        assert_eq!(defaults.rpc, [DEFAULT_RPC]);
        assert_eq!(defaults.store.dir, home.path().join("store"));
        assert!(!defaults.file_exists && defaults.deployment.is_none());

        std::fs::write(home.path().join(FILE_NAME), "rpc = [\"http://file\"]\ndeployment = \"d.json\"\nkey = \"a\"\n").expect("write");
        let file = Config::merge(&args(home.path()), None, None).expect("valid");
        assert_eq!((file.rpc.as_slice(), file.key.as_deref()), (["http://file".to_owned()].as_slice(), Some("a")));
        assert_eq!(file.deployment, Some(home.path().join("d.json")), "relative to the file");

        let flags = GlobalArgs { rpc: vec!["http://flag".into()], key: Some("b".into()), ..args(home.path()) };
        let config = Config::merge(&flags, None, None).expect("valid");
        assert_eq!((config.rpc.as_slice(), config.key.as_deref()), (["http://flag".to_owned()].as_slice(), Some("b")));
    }

    #[test]
    fn named_file_that_is_missing_is_an_error_and_the_default_one_is_not() {
        let home = home();
        assert!(Config::merge(&args(home.path()), None, None).is_ok());
        let named = GlobalArgs { config: Some(home.path().join("other.toml")), ..args(home.path()) };
        assert!(Config::merge(&named, None, None).expect_err("missing").what.contains("other.toml"));
    }

    #[test]
    fn password_is_not_in_the_debug_form() {
        let home = home();
        let config = Config::merge(&args(home.path()), Some(Secret::new("hunter2".into())), None).expect("valid");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
