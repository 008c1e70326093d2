//! `quern key`.

use clap::Subcommand;

use crate::{
    app::Context,
    keystore::{self, KeyEntry, Keystore},
    output,
};

/// Commands of `quern key`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "A provider keeps two keys apart: the owner (stakes, withdraws) and the operator (works, can move no money).",
    after_long_help = "Keys are encrypted files (Web3 Secret Storage, scrypt) in HOME/keys, readable by you alone. The password comes from --password-file, \
        QUERN_PASSWORD_FILE, QUERN_PASSWORD, or a prompt. Lose the file or the password and what the key owns is lost: keep a copy.

Examples:
  quern key new alice
  echo 0xac09… | quern key import dev --password-file pw
  quern key address alice

JSON: {\"name\":TEXT,\"address\":ADDRESS,\"file\":PATH}; `list`: an array of these."
)]
pub enum Command {
    /// Make a new random key
    New {
        /// What to call it: letters, digits, - and _
        name: String,
    },
    /// List all keys with their addresses; needs no password
    List,
    /// Print the address of a key; needs no password
    #[command(visible_alias = "export-address")]
    Address {
        /// The key; default: the configured one
        name: Option<String>,
    },
    /// Store a private key that was made elsewhere, read from standard input
    Import {
        /// What to call it: letters, digits, - and _
        name: String,
    },
}

/// Runs `quern key`.
///
/// # Errors
/// See [`Keystore`].
pub fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    let config = &context.config;
    let keystore = Keystore::new(config.keys_dir());
    let made = |key: &KeyEntry| {
        format!("{}\nkey {} is in {}: keep a copy of the file, and the password", key.address, key.name, key.file.display())
    };
    match command {
        Command::New { name } => {
            let key = keystore.create(&name, &keystore::new_password(config, &name)?)?;
            context.out.result(&key, || made(&key))?;
        }
        Command::Import { name } => {
            let private_key = keystore::secret_from_stdin("Private key (hexadecimal, not shown): ")?;
            let key = keystore.import(&name, &private_key, &keystore::new_password(config, &name)?)?;
            context.out.result(&key, || made(&key))?;
        }
        Command::List => {
            let keys = keystore.list()?;
            context.out.result(&keys, || {
                if keys.is_empty() {
                    return "no keys yet: make one with `quern key new NAME`".into();
                }
                let rows: Vec<Vec<String>> = keys.iter().map(|key| vec![key.name.clone(), key.address.to_string()]).collect();
                output::table(&["name", "address"], &rows)
            })?;
        }
        Command::Address { name } => {
            let key = match name {
                Some(name) => keystore.entry(&name)?,
                None => keystore::choose(config)?,
            };
            context.out.result(&key, || key.address.to_string())?;
        }
    }
    Ok(())
}
