//! `quern-train`: makes quern's own small model, and measures it.

use std::{
    fs::File,
    io::{BufWriter, Write, stdout},
    path::PathBuf,
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use quern_trainer::{Facts, Generator, Pace, Question, Report, Settings, Shape, Split, evaluate, load, train};

/// Makes a small model that turns business sentences into JSON, and measures it.
#[derive(Debug, Parser)]
#[command(name = "quern-train", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Trains a model into a Hugging Face folder; goes on where an earlier run into it was cut.
    Train {
        /// The folder.
        out: PathBuf,
        /// Seed of the data and of the first weights.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Steps of the optimiser.
        #[arg(long, default_value_t = 4000)]
        steps: usize,
        /// Sentences of a step.
        #[arg(long, default_value_t = 48)]
        batch: usize,
        /// Highest learning rate.
        #[arg(long, default_value_t = 3e-3)]
        rate: f64,
        /// Steps before the highest learning rate.
        #[arg(long, default_value_t = 100)]
        warm_up: usize,
        /// Threads; the weights do not depend on them. Default: all cores.
        #[arg(long)]
        threads: Option<usize>,
        /// Steps between checkpoints.
        #[arg(long, default_value_t = 100)]
        checkpoint_every: usize,
        /// Stop behind this step; the same command without this goes on.
        #[arg(long)]
        stop_after: Option<usize>,
    },
    /// Measures a folder's model on held-out sentences, and on some written by hand, in floats and by greedy decoding.
    Eval {
        /// The folder.
        model: PathBuf,
        /// Seed of the data.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Number of held-out sentences.
        #[arg(long, default_value_t = 2000)]
        count: u64,
        /// Measure on these instead: JSON Lines of {"prompt":…,"answer":…}.
        #[arg(long)]
        questions: Option<PathBuf>,
        /// Where to write the sentences with their right answers, as JSON Lines.
        #[arg(long)]
        out: Option<PathBuf>,
        /// How many wrong answers of each set to print.
        #[arg(long, default_value_t = 0)]
        errors: usize,
    },
    /// Prints sentences with their answers, as JSON Lines.
    Data {
        /// Seed of the data.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Number of sentences.
        #[arg(long, default_value_t = 20)]
        count: u64,
        /// The held-out sentences instead of the training ones.
        #[arg(long)]
        held_out: bool,
    },
}

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).init();
    match Arguments::parse().command {
        Command::Train { out, seed, steps, batch, rate, warm_up, threads, checkpoint_every, stop_after } => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let shape = Shape::shipped();
            let settings = Settings { seed, steps, batch, rate, warm_up, tokenizer_sentences: 40_000, watched_sentences: 512, shape };
            let pace = Pace { threads: threads.unwrap_or(cores).max(1), checkpoint_every: checkpoint_every.max(1), stop_after };
            train(&settings, &out, pace)?;
            Ok(())
        }
        Command::Eval { model, seed, count, questions, out, errors } => {
            let (model, vocabulary) = load(&model)?;
            let (name, held_out) = match questions {
                Some(path) => {
                    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                    (path.display().to_string(), parse(&text).with_context(|| format!("{} is not valid", path.display()))?)
                }
                None => ("held out".to_owned(), sentences(seed, Split::HeldOut, count)?),
            };
            if let Some(path) = out {
                let mut file = BufWriter::new(File::create(&path).with_context(|| format!("cannot write {}", path.display()))?);
                print_lines(&mut file, &held_out)?;
            }
            print_report(&name, &held_out, &evaluate(&model, &vocabulary, &held_out)?, errors)?;
            let by_hand = parse(BY_HAND)?;
            print_report("by hand", &by_hand, &evaluate(&model, &vocabulary, &by_hand)?, errors)
        }
        Command::Data { seed, count, held_out } => {
            print_lines(&mut stdout().lock(), &sentences(seed, if held_out { Split::HeldOut } else { Split::Train }, count)?)
        }
    }
}

/// Sentences that no template made.
const BY_HAND: &str = include_str!("../data/by_hand.jsonl");

fn sentences(seed: u64, split: Split, count: u64) -> Result<Vec<Question>> {
    let generator = Generator::new(seed, split)?;
    (0..count).map(|index| Ok(Question::from(&generator.sample(index)?))).collect()
}

fn parse(lines: &str) -> Result<Vec<Question>> {
    lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn print_lines(out: &mut impl Write, questions: &[Question]) -> Result<()> {
    for question in questions {
        writeln!(out, "{}", serde_json::to_string(question)?)?;
    }
    Ok(out.flush()?)
}

fn print_report(name: &str, questions: &[Question], report: &Report, errors: usize) -> Result<()> {
    let mut screen = stdout().lock();
    let count = questions.len();
    writeln!(screen, "{name}, {count} sentences")?;
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let mut row = |name: &str, right: usize| writeln!(screen, "  {name:<9}{right:>6}{:>8.2} %", 100.0 * right as f64 / count as f64);
    row("exact", report.exact())?;
    for (place, field) in Facts::FIELDS.iter().enumerate() {
        row(field, report.field(place))?;
    }
    for (question, scored) in questions.iter().zip(&report.scored).filter(|(_, scored)| !scored.exact).take(errors) {
        writeln!(screen, "\n  {}\n    right {}\n    given {}", question.sentence, question.answer, scored.answer)?;
    }
    Ok(writeln!(screen)?)
}
