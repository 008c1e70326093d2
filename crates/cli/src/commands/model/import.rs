//! `quern model import`: from a checkpoint to a package.

use std::path::PathBuf;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use quern_model::{ImportOptions, ModelError, Package};

use super::show;
use crate::{
    app::Context,
    failure::{Exit, Failure},
};

/// Arguments of `quern model import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of an encoder or a decoder, or GGUF file of a decoder
    dir: PathBuf,
    /// Folder to write; it is there whole or not at all. A decoder's file for this machine's kernels is written beside it, as PACKAGE.packed
    #[arg(long, value_name = "PACKAGE")]
    out: PathBuf,
    /// Replace PACKAGE if it is a package; anything else is never replaced
    #[arg(long)]
    force: bool,
    /// Positions of a decoder's context, where fewer are enough: another model with another root [default: the checkpoint's, at most 32768]
    #[arg(long, value_name = "N")]
    context: Option<u32>,
    /// Do not write PACKAGE.packed: it is made when the model first runs
    #[arg(long)]
    no_packed: bool,
    /// Take no notice of a field or a tensor that the importer does not know and would refuse; may be repeated. The package's record says so
    #[arg(long, value_name = "NAME")]
    ignore: Vec<String>,
}

pub(super) fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let options = ImportOptions { replace: args.force, context: args.context, packed: !args.no_packed, ignore: args.ignore.clone() };
    let bar = if context.out.json { ProgressBar::hidden() } else { ProgressBar::no_length() };
    bar.set_style(ProgressStyle::with_template("{bar:40} {percent:>3} %, {eta} left").unwrap_or_else(|_| ProgressStyle::default_bar()));
    let imported = Package::import_with(&args.dir, &args.out, &options, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        !context.cancel.is_cancelled()
    });
    bar.finish_and_clear();
    match imported {
        Err(ModelError::Interrupted) => {
            Err(Failure::new("the import was interrupted; nothing was left behind", "").with_exit(Exit::Interrupted).into())
        }
        imported => show::show(context, &imported.with_context(|| format!("cannot import {}", args.dir.display()))?),
    }
}
