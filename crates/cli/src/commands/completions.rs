//! `quern completions`.

use clap::CommandFactory as _;

use crate::{app::Cli, output::Output};

/// Arguments of `quern completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quern completions bash > ~/.local/share/bash-completion/completions/quern")]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Prints the script.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "quern", &mut script);
    Output { json: false }.text(&String::from_utf8(script)?)?;
    Ok(())
}
