//! `quern run`: a model on this machine continues a text.

use std::{
    io::Read as _,
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use quern_exact::{
    decoder::Rule,
    kernels::{Isa, Pool},
};
use quern_model::{Generation, Message, Package, PackedOrigin, Session, TextStream};
use rand::Rng as _;
use serde_json::json;

use crate::{
    app::Context,
    failure::{Exit, Failure},
    output::{harmless, warn},
};

/// Arguments of `quern run`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The text goes to standard output as it is made, figures to standard error.
JSON: {\"root\":HASH,\"text\":TEXT,\"ids\":[...],\"reason\":TEXT,\"promptTokens\":N,\"seed\":HEX,\"prefillSeconds\":S,\"decodeSeconds\":S,\
\"prefillTps\":N,\"decodeTps\":N}. The reason is stop, max_output or context, null if you stopped it. \
The output is that of a job with the same parameters, to the bit.")]
pub struct Args {
    /// Folder of the package
    model: PathBuf,
    /// The text to continue; - reads standard input
    prompt: String,
    /// Put the text through the model's chat template first, as one message of a user
    #[arg(long)]
    chat: bool,
    /// How to choose, and where to end
    #[command(flatten)]
    options: Options,
}

/// What `quern run` and `quern chat` have in common.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Most tokens of an answer
    #[arg(long, default_value = "512", value_name = "N")]
    max_tokens: NonZeroU32,
    /// 0 always takes the likeliest token; 1 draws as the model was trained to
    #[arg(long, default_value = "0", value_parser = fraction, value_name = "T")]
    temperature: f64,
    /// Tokens less likely than this part of the likeliest one are not drawn
    #[arg(long, default_value = "0.05", value_parser = fraction, value_name = "P")]
    min_p: f64,
    /// A number from which draws follow; the same number draws the same [default: a new one, told on standard error]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Threads; any number gives the same tokens [default: all cores]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

impl Options {
    /// The rule of a job with these parameters, and the seed's number.
    pub(super) fn rule(&self, package: &Package) -> (Rule, u64) {
        let number = self.seed.unwrap_or_else(|| rand::rng().random());
        let mut seed = [0; 32];
        seed[24..].copy_from_slice(&number.to_be_bytes());
        let stop_ids = package.header().stop_ids;
        let rule = Rule { max_output: self.max_tokens, stop_ids, temperature: q16(self.temperature), min_p: q16(self.min_p), seed };
        (rule, number)
    }

    pub(super) fn pool(&self) -> anyhow::Result<Arc<Pool>> {
        let threads = match self.threads {
            Some(threads) => threads,
            None => std::thread::available_parallelism().context("cannot tell the number of cores; give --threads")?,
        };
        Ok(Arc::new(Pool::new(Isa::detect(), threads)))
    }

    pub(super) fn max_tokens(&self) -> usize {
        self.max_tokens.get() as usize
    }
}

/// A number from 0 to 100.
fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=100.0).contains(&number) => Ok(number),
        _ => Err("write a number from 0 to 100".to_owned()),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
fn q16(number: f64) -> u32 {
    (number * 65_536.0).round() as u32
}

/// Opens the weights of a decoder, and says where they are if that costs time.
pub(super) fn session(package: &Package, options: &Options, positions: usize) -> anyhow::Result<Session> {
    let packed = package.packed()?;
    match &packed.origin {
        PackedOrigin::Mapped => {}
        PackedOrigin::Rebuilt { because } => {
            warn(&format!("made {} anew: {because}", package.packed_path().display()));
        }
        PackedOrigin::InMemory { because } => {
            warn(&format!("packed the model into memory, which takes long each time; {}: {because}", package.packed_path().display()));
        }
    }
    let decoder = quern_exact::decoder::Decoder::from_packed(packed.weights, options.pool()?);
    Ok(Session::new(decoder, positions)?)
}

/// Generates, and hands out text as it comes. Ids that only end the output have no text.
pub(super) fn generate(
    context: &Context,
    session: &mut Session,
    mut stream: TextStream<'_>,
    prompt: &[u32],
    rule: &Rule,
    on_text: &mut dyn FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<(Generation, String)> {
    let mut text = String::new();
    let mut failed = None;
    let generation = session.generate(prompt, rule, &mut |id| {
        if context.cancel.is_cancelled() {
            return false;
        }
        if rule.stop_ids.contains(&id) {
            return true;
        }
        let told = stream.push(id).map_err(anyhow::Error::from).and_then(|piece| {
            text.push_str(&piece);
            on_text(&piece)
        });
        failed = told.err();
        failed.is_none()
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let rest = stream.finish()?;
    on_text(&rest)?;
    text.push_str(&rest);
    Ok((generation, text))
}

/// One line of figures.
pub(super) fn stats(prompt: usize, generation: &Generation) -> String {
    format!(
        "{prompt} tokens of prompt, {} computed at {:.1}/s; {} tokens of output at {:.1}/s",
        generation.prompt_computed,
        generation.prefill_per_second(),
        generation.ids.len(),
        generation.decode_per_second()
    )
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let package = Package::open(&args.model)?;
    let text = read_prompt(&args.prompt)?;
    let ids = if args.chat {
        let template = package.chat_template()?.ok_or_else(|| no_template(&args.model))?;
        package.tokenizer().encode_prompt(&template.render(&[Message { role: "user".to_owned(), content: text }])?)?
    } else {
        package.tokenizer().encode(&text)?
    };
    let (rule, seed) = args.options.rule(&package);
    let context_len = package.header().context as usize;
    if ids.len() > context_len {
        return Err(quern_model::ModelError::PromptTooLong { tokens: ids.len(), room: context_len }.into());
    }
    let mut session = session(&package, &args.options, ids.len() + args.options.max_tokens())?;
    let json = context.out.json;
    let (generation, text) = generate(context, &mut session, package.tokenizer().stream(), &ids, &rule, &mut |piece| {
        if !json {
            context.out.piece(&harmless(piece))?;
        }
        Ok(())
    })?;
    if json {
        context.out.json_line(&json!({
            "root": package.root(),
            "text": text,
            "ids": generation.ids,
            "reason": generation.reason,
            "promptTokens": ids.len(),
            "seed": format!("{seed:#x}"),
            "prefillSeconds": generation.prefill.as_secs_f64(),
            "decodeSeconds": generation.decode.as_secs_f64(),
            "prefillTps": generation.prefill_per_second(),
            "decodeTps": generation.decode_per_second(),
        }))?;
    } else {
        context.out.piece("\n")?;
        let seed = if rule.temperature > 0 { format!("; --seed {seed}") } else { String::new() };
        warn(&format!("{}{seed}", stats(ids.len(), &generation)));
    }
    if generation.reason.is_none() {
        return Err(Failure::new(format!("stopped after {} tokens", generation.ids.len()), "").with_exit(Exit::Interrupted).into());
    }
    Ok(())
}

pub(super) fn no_template(model: &Path) -> Failure {
    Failure::usage(format!("{} has no chat template", model.display()), "use `quern run MODEL PROMPT`, which continues a text as it is")
}

fn read_prompt(prompt: &str) -> anyhow::Result<String> {
    if prompt != "-" {
        return Ok(prompt.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text).context("cannot read the prompt from standard input; it must be UTF-8")?;
    Ok(text)
}
