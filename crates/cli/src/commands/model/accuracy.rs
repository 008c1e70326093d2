//! `quern model accuracy`: how many questions a decoder answers right.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use anyhow::Context as _;
use quern_exact::kernels::{Isa, Pool};
use quern_model::{Answer, DecoderReference, ModelError, Package, Question, accuracy, right};
use serde_json::json;

use crate::{
    app::Context,
    commands::buy::{read_text, source},
    failure::{Exit, Failure},
    output::harmless,
};

/// Arguments of `quern model accuracy`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  quern-train data --held-out --count 2000 | quern model accuracy crates/trainer/extractor.quern - --at-least 95

JSON: {\"root\":HASH,\"questions\":N,\"right\":N,\"percent\":P,\"floatRight\":N,\"floatPercent\":P,\"differing\":N,\"seconds\":S,\"wrong\":[{\"line\":N,\"answer\":TEXT}]}. \
percent is of all questions; the float fields are null without --reference; differing counts the answers in which the two differ; wrong is of the exact ones.")]
pub struct Args {
    /// Folder of a decoder's package
    package: PathBuf,
    /// Questions as JSON lines, {\"prompt\":TEXT,\"answer\":TEXT}; - reads standard input
    file: PathBuf,
    /// The Hugging Face folder, or the GGUF file, that the package was made of: answer in floats too, and compare
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,
    /// End 3 if fewer percent of the answers are right
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    at_least: Option<f64>,
    /// End 3 if exact and float accuracy are further apart, in points of percent
    #[arg(long, value_name = "POINTS", value_parser = percent, requires = "reference")]
    within: Option<f64>,
    /// Most tokens of an answer
    #[arg(long, default_value = "128", value_name = "N")]
    max_tokens: NonZeroU32,
    /// Threads; any number gives the same answers [default: all cores]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Print the questions whose answers are wrong
    #[arg(long)]
    wrong: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let questions = questions(args)?;
    let package = Package::open(&args.package)?;
    let reference = args.reference.as_deref().map(DecoderReference::open).transpose()?;
    let threads = match args.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism().context("cannot tell the number of cores; give --threads")?,
    };
    let pool = Arc::new(Pool::new(Isa::detect(), threads));
    let start = Instant::now();
    let wanted = || !context.cancel.is_cancelled();
    let measured = match accuracy(&package, reference.as_ref(), &questions, args.max_tokens, &pool, &wanted) {
        Err(ModelError::Interrupted) => {
            return Err(Failure::new("stopped before all were answered", "").with_exit(Exit::Interrupted).into());
        }
        measured => measured?,
    };
    let seconds = start.elapsed().as_secs_f64();
    let percent = |answers: &[Answer]| 100.0 * right(answers) as f64 / answers.len() as f64;
    let exact = percent(&measured.exact);
    let float = measured.float.as_deref().map(percent);
    let differing = measured.float.as_ref().map(|float| float.iter().zip(&measured.exact).filter(|(a, b)| a.text != b.text).count());
    let wrong: Vec<_> = measured.exact.iter().enumerate().filter(|(_, answer)| !answer.right).collect();
    let object = json!({
        "root": package.root(), "questions": questions.len(), "right": right(&measured.exact), "percent": exact,
        "floatRight": measured.float.as_deref().map(right), "floatPercent": float, "differing": differing, "seconds": seconds,
        "wrong": wrong.iter().map(|(at, answer)| json!({ "line": at + 1, "answer": answer.text })).collect::<Vec<_>>(),
    });
    context.out.result(&object, || {
        let mut lines = vec![format!("{} of {} answers are right to the letter: {exact:.2} %", right(&measured.exact), questions.len())];
        if let (Some(float), Some(differing)) = (float, differing) {
            lines.push(format!("in floats {float:.2} %; {differing} answers differ"));
        }
        if args.wrong {
            lines.extend(wrong.iter().map(|(at, answer)| {
                let Question { prompt, answer: right } = &questions[*at];
                format!("\nline {}: {}\n  right {}\n  given {}", at + 1, harmless(prompt), harmless(right), harmless(&answer.text))
            }));
        }
        lines.join("\n")
    })?;
    let short = args.at_least.is_some_and(|bound| exact < bound);
    let apart = args.within.zip(float).is_some_and(|(bound, float)| (exact - float).abs() > bound);
    let what = match (short, apart) {
        (false, false) => return Ok(()),
        (true, _) => format!("{exact:.2} % are right, fewer than --at-least"),
        (_, true) => "exact and float accuracy are further apart than --within".to_owned(),
    };
    Err(Failure::new(what, "is FILE of the kind that the model was made for?").with_exit(Exit::Difference).into())
}

fn questions(args: &Args) -> anyhow::Result<Vec<Question>> {
    let text = read_text(&args.file)?;
    let parse = |(at, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| {
            let what = format!("{}, line {}: {error}", source(&args.file), at + 1);
            Failure::usage(what, "write a JSON object per line: {\"prompt\":\"…\",\"answer\":\"…\"}")
        })
    };
    let questions: Vec<Question> = text.lines().enumerate().map(parse).collect::<Result<_, _>>()?;
    if questions.is_empty() {
        return Err(Failure::usage(format!("{} has no question", source(&args.file)), "write a JSON object per line").into());
    }
    Ok(questions)
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=100.0).contains(&number) => Ok(number),
        _ => Err("write a number from 0 to 100".to_owned()),
    }
}
