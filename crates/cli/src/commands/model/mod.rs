//! `quern model`: make, look at, check and run model packages on this machine; register them on the chain and list those that are.

mod accuracy;
mod bench;
mod embed;
mod fidelity;
mod import;
mod show;

use std::path::PathBuf;

use clap::Subcommand;
use quern_model::{ModelError, Package};
use quern_types::PackageRoot;
use serde_json::json;

use crate::{
    app::Context,
    commands::registry,
    failure::{Exit, Failure, one_line},
};

/// Commands of `quern model`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Convert a Hugging Face folder (config.json, safetensors, tokenizer.json) or a GGUF file into a package
    ///
    /// Encoders: BERT. Decoders: Llama 2 and 3, SmolLM2, Mistral, Qwen2, Qwen2.5, Qwen3, Gemma (the first), Phi-3 and Phi-4 without longrope; from GGUF those
    /// of the architectures llama, qwen2, qwen3 and gemma. A configuration that asks for other arithmetic is refused by field, and so is a field or a tensor
    /// that is not known. The conversion is exact integer arithmetic: whoever imports the same files gets the same root, on any machine.
    #[command(after_long_help = show::JSON)]
    Import(import::Args),
    /// Show a package's header, roots, sizes and where it came from
    #[command(after_long_help = show::JSON)]
    Show {
        /// Folder of the package
        package: PathBuf,
    },
    /// Hash a package and compare with the roots that it states, or with one of your choice
    ///
    /// Ends 0 only if every tensor, the tokenizer, the header and the file packed for this machine are those of the root, and 3 if one is not, whatever is
    /// wrong with it.
    #[command(after_long_help = "JSON: {\"package\":FOLDER,\"root\":HASH,\"verified\":true}")]
    Verify {
        /// Folder of the package
        package: PathBuf,
        /// The root that it must have, for instance the one that is registered on chain
        #[arg(long)]
        root: Option<PackageRoot>,
    },
    /// Embed a text, one vector per line, exactly as a provider must
    ///
    /// A line with more tokens than the model reads is an error; nothing is cut. An empty line is embedded as the model's special tokens alone.
    Embed(embed::Args),
    /// Compare a package with the float model that it was made of, over a corpus
    ///
    /// Prints 1 - cosine of an encoder's vectors, or the divergence of a decoder's distributions, per stratum with its bounds. Ends 3 if a bound is broken.
    Fidelity(fidelity::Args),
    /// Count the questions that a decoder answers right, to the letter
    ///
    /// Answers greedily, through the model's chat template where there is one; with --reference also by the float model that the package was made of.
    Accuracy(accuracy::Args),
    /// Measure how fast a model runs on this machine
    Bench(bench::Args),
    /// Register a package on the chain, so that jobs can name it
    Register(registry::RegisterArgs),
    /// List the models on the chain; needs no key
    #[command(after_long_help = registry::LIST_JSON)]
    List,
}

/// Runs `quern model`.
///
/// # Errors
/// Whatever keeps the command from doing its work; a check that does not hold.
pub async fn run(context: &Context, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Import(args) => import::run(context, args),
        Command::Show { package } => show::show(context, &Package::open(package)?),
        Command::Verify { package, root } => verify(context, package.clone(), *root),
        Command::Embed(args) => embed::run(context, args),
        Command::Fidelity(args) => fidelity::run(context, args),
        Command::Accuracy(args) => accuracy::run(context, args),
        Command::Bench(args) => bench::run(context, args),
        Command::Register(args) => registry::register(context, args).await,
        Command::List => registry::list(context).await,
    }
}

fn verify(context: &Context, package: PathBuf, root: Option<PackageRoot>) -> anyhow::Result<()> {
    let checked = match root {
        Some(root) => Package::open_verified(&package, root).map(|package| package.root()),
        None => Package::open(&package).and_then(|package| package.verify()),
    };
    let root = checked.map_err(|error| match remedy(&error) {
        Some(remedy) => anyhow::Error::new(Failure::new(one_line(&error), remedy).with_exit(Exit::Difference)),
        None => anyhow::Error::new(error),
    })?;
    let object = json!({ "package": package, "root": root, "verified": true });
    context.out.result(&object, || format!("{} is package {root}: every hash holds", package.display()))?;
    Ok(())
}

/// What to do about files that are there and are not those of the root; `None` where nothing could be compared.
const fn remedy(error: &ModelError) -> Option<&'static str> {
    match error {
        ModelError::Hash { .. }
        | ModelError::OtherPackage { .. }
        | ModelError::Malformed { .. }
        | ModelError::FileSize { .. }
        | ModelError::Json { .. } => Some("import the model that has the root you expect"),
        // Its own text says that the file is to be removed.
        ModelError::Packed { .. } => Some(""),
        _ => None,
    }
}
