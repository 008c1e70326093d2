//! `quern model embed`: text in, exact vectors out.

use std::{
    io::Read as _,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context as _;
use quern_client::{Item, Origin, Unit, items, pieces};
use quern_model::Package;
use serde_json::json;

use crate::{
    app::Context,
    failure::{Exit, Failure},
    output::warn,
};

/// Lines per thread that are computed before their vectors are printed: enough to keep every thread busy, few enough that Ctrl-C and a
/// reader of the output need not wait.
const LINES_PER_THREAD: usize = 64;

/// Arguments of `quern model embed`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Lines become items as for `quern embed`, and the vectors are the same to the bit: white space around a line does not count, and a line without text is an \
empty item, whose vector is zero.

JSON, one object per item: {\"line\":N,\"part\":N,\"parts\":N,\"tokens\":N,\"reason\":TEXT,\"vector\":[int16]}. Elements are Q15: divide by 32768. \
part and parts tell where a line was split; \
reason is complete for a computed vector, empty_item or unknown_id for a zero one.")]
pub struct Args {
    /// Folder of the package
    package: PathBuf,
    /// UTF-8 text, an item per line; - reads standard input
    file: PathBuf,
    /// Split what is longer than the model's context into several items, at white space where possible; without it that is an error
    #[arg(long)]
    split: bool,
    /// Threads; any number gives the same bits [default: all cores]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Say on standard error how long it took
    #[arg(long)]
    stats: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let package = Package::open(&args.package)?;
    let text = read_text(&args.file)?;
    // All of it first: a text with a line that is too long yields no vector at all rather than some.
    let encoder = package.encoder()?;
    let items = items(&pieces(&text, Unit::Lines)?, package.tokenizer(), (&package).into(), args.split)?;
    let threads = match args.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism().context("cannot tell the number of cores; give --threads")?,
    };

    let start = Instant::now();
    let batch_lines = LINES_PER_THREAD * threads.get();
    for (batch_at, batch) in items.chunks(batch_lines).enumerate() {
        if context.cancel.is_cancelled() {
            let done = format!("stopped after {} of {} lines", batch_at * batch_lines, items.len());
            return Err(Failure::new(done, "").with_exit(Exit::Interrupted).into());
        }
        let ids: Vec<&[u32]> = batch.iter().map(|item| item.ids.as_slice()).collect();
        let outputs = encoder.embed_map(&ids, threads, |_, output| (output.reason, output.vector));
        for (Item { origin: Origin { line, part, parts }, ids }, (reason, vector)) in batch.iter().zip(outputs) {
            let object = json!({ "line": line, "part": part, "parts": parts, "tokens": ids.len(), "reason": reason, "vector": vector });
            context.out.result(&object, || {
                let first: Vec<String> = vector.iter().take(6).map(|x| format!("{:+.4}", f32::from(*x) / 32768.0)).collect();
                format!("line {line}: {} tokens, [{} … {} elements]", ids.len(), first.join(" "), vector.len())
            })?;
        }
    }
    if args.stats {
        warn(&stats(items.len(), items.iter().map(|item| item.ids.len()).sum(), threads, start.elapsed().as_secs_f64()));
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "figures for a person")]
fn stats(lines: usize, tokens: usize, threads: NonZeroUsize, seconds: f64) -> String {
    let [lines_per_second, tokens_per_second] = [lines, tokens].map(|count| count as f64 / seconds);
    format!(
        "{lines} lines, {tokens} tokens in {seconds:.2} s on {threads} threads: {lines_per_second:.1} lines/s, {tokens_per_second:.0} tokens/s"
    )
}

fn read_text(file: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
    } else {
        bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Failure::new(format!("{}: line {line} is not UTF-8", file.display()), "convert the text first: iconv -t UTF-8").into()
    })
}
