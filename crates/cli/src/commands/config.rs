//! `quern config`.

use std::{net::SocketAddr, path::PathBuf};

use clap::Subcommand;
use serde::Serialize;

use crate::{app::Context, config::Config};

/// Commands of `quern config`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show every setting in force, from wherever it was taken; never a password
    #[command(
        after_long_help = "JSON: {\"home\",\"file\",\"fileExists\",\"rpc\":[URL],\"deployment\",\"key\",\"passwordFrom\":\"file\"|\"environment\"|\"prompt\",\
        \"gateways\":[URL],\"storeDir\",\"storeLimitBytes\",\"listen\",\"kubo\"}. RPC URLs are cut to scheme, host and port: paths may hold access keys."
    )]
    Show,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    home: PathBuf,
    file: PathBuf,
    file_exists: bool,
    rpc: Vec<String>,
    deployment: Option<PathBuf>,
    key: Option<String>,
    password_from: &'static str,
    gateways: Vec<String>,
    store_dir: PathBuf,
    store_limit_bytes: u64,
    listen: SocketAddr,
    kubo: Option<String>,
}

impl Shown {
    fn new(config: &Config) -> Self {
        Self {
            home: config.home.clone(),
            file: config.file.clone(),
            file_exists: config.file_exists,
            rpc: config.rpc.iter().map(|url| quern_telemetry::endpoint(url)).collect(),
            deployment: config.deployment.clone(),
            key: config.key.clone(),
            password_from: match (&config.password_file, &config.password) {
                (Some(_), _) => "file",
                (None, Some(_)) => "environment",
                (None, None) => "prompt",
            },
            gateways: config.gateways.clone(),
            store_dir: config.store.dir.clone(),
            store_limit_bytes: config.store.limit_bytes,
            listen: config.store.listen,
            kubo: config.store.kubo.clone(),
        }
    }

    fn text(&self) -> String {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".into());
        let missing = if self.file_exists { "" } else { " (does not exist)" };
        [
            format!("home         {}", self.home.display()),
            format!("file         {}{missing}", self.file.display()),
            format!("rpc          {}", self.rpc.join(", ")),
            format!("deployment   {}", or_none(self.deployment.as_ref().map(|path| path.display().to_string()))),
            format!("key          {}", or_none(self.key.clone())),
            format!("password     from {}", self.password_from),
            format!("gateways     {}", if self.gateways.is_empty() { "none".into() } else { self.gateways.join(", ") }),
            format!("store        {} (at most {} bytes)", self.store_dir.display(), self.store_limit_bytes),
            format!("listen       {}", self.listen),
            format!("kubo         {}", or_none(self.kubo.clone())),
        ]
        .join("\n")
    }
}

/// Runs `quern config`.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(context: &Context, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Show => {
            let shown = Shown::new(&context.config);
            context.out.result(&shown, || shown.text())?;
        }
    }
    Ok(())
}
