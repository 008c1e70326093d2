//! `quern chat`: a conversation with a model on this machine.

use std::{
    io::{BufRead as _, IsTerminal as _},
    path::PathBuf,
};

use anyhow::Context as _;
use quern_model::{Message, Package};
use serde_json::json;

use super::run::{Options, generate, no_template, session, stats};
use crate::{
    app::Context,
    failure::{Exit, Failure},
    output::{harmless, warn},
};

/// Arguments of `quern chat`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Each line of standard input is a message; the end of the input ends the conversation. What was said before is not computed again.
JSON, one object per answer: {\"text\":TEXT,\"ids\":[...],\"reason\":TEXT,\"promptTokens\":N,\"computedTokens\":N,\"decodeTps\":N}")]
pub struct Args {
    /// Folder of the package
    model: PathBuf,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Tokens of the whole conversation that memory is taken for; at most the model's context
    #[arg(long, default_value_t = 4096, value_name = "N")]
    context: usize,
    /// How to choose, and where to end
    #[command(flatten)]
    options: Options,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let package = Package::open(&args.model)?;
    let template = package.chat_template()?.ok_or_else(|| no_template(&args.model))?;
    let (rule, _) = args.options.rule(&package);
    let mut session = session(&package, &args.options, args.context)?;
    let json = context.out.json;
    let is_terminal = std::io::stdin().is_terminal();
    let message = |role: &str, content: String| Message { role: role.to_owned(), content };
    let mut messages: Vec<Message> = args.system.iter().map(|text| message("system", text.clone())).collect();
    loop {
        if is_terminal && !json {
            context.out.piece("> ")?;
        }
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line).context("cannot read standard input; it must be UTF-8")? == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            continue;
        }
        messages.push(message("user", line.trim_end_matches(['\r', '\n']).to_owned()));
        let prompt = package.tokenizer().encode_prompt(&template.render(&messages)?)?;
        let (generation, text) = generate(context, &mut session, package.tokenizer().stream(), &prompt, &rule, &mut |piece| {
            if !json {
                context.out.piece(&harmless(piece))?;
            }
            Ok(())
        })?;
        if json {
            context.out.json_line(&json!({
                "text": text,
                "ids": generation.ids,
                "reason": generation.reason,
                "promptTokens": prompt.len(),
                "computedTokens": generation.prompt_computed,
                "decodeTps": generation.decode_per_second(),
            }))?;
        } else {
            context.out.piece("\n")?;
            warn(&stats(prompt.len(), &generation));
        }
        if generation.reason.is_none() {
            return Err(Failure::new("the conversation was interrupted", "").with_exit(Exit::Interrupted).into());
        }
        messages.push(message("assistant", text));
    }
}
