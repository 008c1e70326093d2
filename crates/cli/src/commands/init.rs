//! `quern init`.

use std::{fs, io::Write as _, net::SocketAddr, path::PathBuf};

use serde_json::json;

use crate::{
    app::Context,
    config::{ConfigFile, StoreFile},
    failure::Failure,
};

/// Arguments of `quern init`. The network itself comes from the options of every command.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Write the configuration file.\n\nWhat is given on the command line or in the environment (--rpc, --deployment, --key, --password-file, \
        --gateway, --store, --kubo) is remembered in HOME/config.toml; the deployment file is copied beside it. An existing file is not replaced without --force.",
    after_long_help = "The file, with every key (all may be left out; an unknown key is an error):
  rpc = [\"http://127.0.0.1:8545\"]       # endpoints, in order of preference
  deployment = \"deployment.json\"        # relative to this file
  key = \"alice\"
  password_file = \"/path/only/you/can/read\"
  gateways = [\"http://127.0.0.1:8480\"]  # trustless gateways to fetch content from
  [store]
  dir = \"store\"
  limit_bytes = 10737418240
  listen = \"127.0.0.1:8480\"             # where this machine serves its content
  kubo = \"http://127.0.0.1:5001\"        # an IPFS node, in place of the embedded store

Example:
  quern init --rpc http://127.0.0.1:8545 --deployment deployments/31337.json

JSON: {\"file\":PATH,\"home\":PATH}"
)]
pub struct Args {
    /// Replace an existing configuration file
    #[arg(long)]
    force: bool,
    /// Address on which this machine serves its content; default 127.0.0.1:8480
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

/// Writes the file.
///
/// # Errors
/// The file exists already, the deployment file cannot be read, or the directory cannot be written.
pub fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let config = &context.config;
    if config.file_exists && !args.force {
        return Err(Failure::usage(format!("{} exists", config.file.display()), "edit it, or pass --force to replace it").into());
    }
    let dir = config.file.parent().map(PathBuf::from).unwrap_or_default();
    let failed = |what: &str, error: std::io::Error| {
        Failure::new(format!("cannot write {what}: {error}"), "check the directory and its permissions, or choose another with --home")
    };
    fs::create_dir_all(&dir).map_err(|error| failed(&dir.display().to_string(), error))?;
    let deployment = match &config.deployment {
        None => None,
        Some(from) => {
            let content = fs::read(from).map_err(|error| {
                Failure::usage(
                    format!("cannot read the deployment file {}: {error}", from.display()),
                    "pass --deployment FILE; whoever deployed the contracts has it",
                )
            })?;
            fs::write(dir.join("deployment.json"), content).map_err(|error| failed("deployment.json", error))?;
            Some(PathBuf::from("deployment.json"))
        }
    };
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let file = ConfigFile {
        rpc: config.rpc.clone(),
        deployment,
        key: config.key.clone(),
        password_file: config.password_file.as_ref().map(absolute),
        gateways: config.gateways.clone(),
        store: StoreFile {
            dir: (config.store.dir != config.home.join("store")).then(|| absolute(&config.store.dir)),
            limit_bytes: None,
            listen: args.listen,
            kubo: config.store.kubo.clone(),
        },
    };
    let text = toml::to_string(&file)?;
    // Written aside and renamed: a crash leaves the old file or the new one.
    let mut aside = tempfile::NamedTempFile::new_in(&dir).map_err(|error| failed(&dir.display().to_string(), error))?;
    aside
        .write_all(text.as_bytes())
        .and_then(|()| aside.as_file().sync_all())
        .map_err(|error| failed(&config.file.display().to_string(), error))?;
    aside.persist(&config.file).map_err(|error| failed(&config.file.display().to_string(), error.error))?;
    let shown = json!({ "file": config.file, "home": config.home });
    context.out.result(&shown, || {
        let next = if file.deployment.is_some() { "quern key new NAME" } else { "quern init --force --deployment FILE" };
        format!("wrote {}\nnext: {next}", config.file.display())
    })?;
    Ok(())
}
