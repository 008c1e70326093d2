//! `quern-train`: makes quern's own small model, and measures it.

use std::{
    fs::File,
    io::{BufWriter, Write, stdout},
    path::PathBuf,
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use quern_trainer::{Facts, Generator, Pace, Settings, Shape, Split, evaluate, load, train};

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
        #[arg(long, default_value_t = 3000)]
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
    /// Measures a folder's model on held-out sentences, in floats and by greedy decoding.
    Eval {
        /// The folder.
        model: PathBuf,
        /// Seed of the data.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Number of sentences.
        #[arg(long, default_value_t = 2000)]
        count: u64,
        /// Where to write the sentences with right and given answers, as JSON Lines.
        #[arg(long)]
        out: Option<PathBuf>,
        /// How many wrong answers to print.
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
        Command::Eval { model, seed, count, out, errors } => measure(&model, seed, count, out, errors),
        Command::Data { seed, count, held_out } => {
            let generator = Generator::new(seed, if held_out { Split::HeldOut } else { Split::Train })?;
            for index in 0..count {
                let sample = generator.sample(index)?;
                let line = serde_json::json!({ "sentence": sample.sentence, "answer": sample.facts.answer() });
                writeln!(stdout(), "{line}")?;
            }
            Ok(())
        }
    }
}

fn measure(folder: &std::path::Path, seed: u64, count: u64, out: Option<PathBuf>, errors: usize) -> Result<()> {
    let (model, vocabulary) = load(folder)?;
    let generator = Generator::new(seed, Split::HeldOut)?;
    let samples = (0..count).map(|index| generator.sample(index)).collect::<Result<Vec<_>, _>>()?;
    let report = evaluate(&model, &vocabulary, &samples)?;
    let mut screen = stdout().lock();
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let mut row =
        |name: &str, right: usize| writeln!(screen, "{name:<9} {right:>6} of {count}  {:>6.2} %", 100.0 * right as f64 / count as f64);
    row("exact", report.exact())?;
    for (place, field) in Facts::FIELDS.iter().enumerate() {
        row(field, report.field(place))?;
    }
    for (sample, scored) in samples.iter().zip(&report.scored).filter(|(_, scored)| !scored.exact).take(errors) {
        writeln!(screen, "\n{}\n  right {}\n  given {}", sample.sentence, sample.facts.answer(), scored.answer)?;
    }
    if let Some(path) = out {
        let mut file = BufWriter::new(File::create(&path).with_context(|| format!("cannot write {}", path.display()))?);
        for (sample, scored) in samples.iter().zip(&report.scored) {
            let line = serde_json::json!({
                "sentence": sample.sentence, "language": sample.language, "answer": sample.facts.answer(), "given": scored.answer, "exact": scored.exact,
            });
            writeln!(file, "{line}")?;
        }
        file.flush()?;
    }
    Ok(())
}
