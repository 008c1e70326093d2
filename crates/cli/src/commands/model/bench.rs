//! `quern model bench`: how fast a model runs on this machine.

use std::{fmt::Write as _, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Instant};

use anyhow::Context as _;
use clap::ValueEnum;
use quern_exact::{
    decoder::Decoder,
    encoder::Encoder,
    kernels::{Isa, Pool},
};
use quern_model::{BenchReport, Package, Part, Shape, bench, bench_encoder};
use serde_json::{Value, json};

use crate::app::Context;

/// Arguments of `quern model bench`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
JSON of a decoder: {\"model\":TEXT,\"isa\":TEXT,\"threads\":N,\"decode_tps\",\"prefill512_tps\",\"check_tps\",\"check_ids\",\"batch8_tps\",\"dram_gbps\",\"dram_share\",\
\"int8_peak_gops\",\"int8_kernel_gops\",\"bytes_per_token\",\"packed_bytes\",\"kv_bytes\",\"resident_bytes\",\"resident_ratio\",\"open_seconds\",\
\"profile\":[{\"step\":TEXT,\"op\":TEXT,\"seconds\",\"share\",\"gbps\",\"gops\"}]}; null is what was not asked for or the system does not say. _tps are tokens \
per second, medians of the runs: decode 48 behind a prompt of 16; prefill 512 and the choice behind it; check check_ids (512, or what the context has room for) \
behind 16, generated before and fed back; batch8 the sum of 8 sequences of 48 behind 16. dram_gbps is the best that the threads read from memory, dram_share the part of it that decoding reads. \
int8_peak_gops is the best of the instructions that the kernels use (VNNI or AVX2, not AMX), in registers; int8_kernel_gops what the product kernel does of it in \
the cache. resident_bytes is the most memory that the process had until it had generated and checked; resident_ratio is that by packed_bytes and kv_bytes.

JSON of an encoder: {\"model\":TEXT,\"isa\":TEXT,\"threads\":N,\"sentences\":32,\"tokens\":N,\"sentences_per_second\"}.")]
pub struct Args {
    /// Folder of a package
    #[arg(required_unless_present = "shape")]
    package: Option<PathBuf>,
    /// Random weights of a shape instead
    #[arg(long, conflicts_with = "package")]
    shape: Option<ShapeName>,
    /// Folder that keeps the packed file of a shape for the next time [default: a temporary one, which is removed]
    #[arg(long, value_name = "FOLDER", requires = "shape")]
    dir: Option<PathBuf>,
    /// Threads [default: all cores]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Runs of which a figure is the median, behind one that does not count
    #[arg(long, default_value = "3")]
    runs: NonZeroUsize,
    /// What is measured of a decoder
    #[arg(long, value_delimiter = ',', default_value = "decode,prefill,check,batch,limits")]
    parts: Vec<PartName>,
    /// Measure the time per kind of op of a decoder, too
    #[arg(long)]
    profile: bool,
    /// Tokens of each of the 32 sentences of an encoder's batch
    #[arg(long, default_value = "20")]
    tokens: NonZeroUsize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ShapeName {
    /// A decoder of 135 million weights: 30 layers of 576
    A,
    /// A decoder of half a billion: 24 layers of 896
    B,
    /// A decoder of 1.2 billion: 16 layers of 2048
    C,
    /// The encoder all-MiniLM-L6-v2: 6 layers of 384
    Minilm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PartName {
    /// One sequence
    Decode,
    /// A prompt of 512
    Prefill,
    /// An output of 512 that is checked
    Check,
    /// 8 sequences together
    Batch,
    /// What the machine can do at most
    Limits,
}

impl From<PartName> for Part {
    fn from(name: PartName) -> Self {
        match name {
            PartName::Decode => Self::Decode,
            PartName::Prefill => Self::Prefill,
            PartName::Check => Self::Check,
            PartName::Batch => Self::Batch,
            PartName::Limits => Self::Limits,
        }
    }
}

/// What is measured.
enum Model {
    Decoder { decoder: Decoder, open_seconds: f64 },
    Encoder(Box<Encoder>),
}

pub(super) fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let threads = match args.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism().context("cannot tell the number of cores; give --threads")?,
    };
    let pool = Arc::new(Pool::new(Isa::detect(), threads));
    let name = match (&args.package, args.shape) {
        (Some(path), _) => path.display().to_string(),
        (None, shape) => format!("shape {}, random weights", format!("{:?}", shape.unwrap_or(ShapeName::A)).to_lowercase()),
    };
    match open(args, &pool)? {
        Model::Decoder { decoder, open_seconds } => {
            let parts = args.parts.iter().map(|&part| part.into()).chain(args.profile.then_some(Part::Profile));
            let report = bench(&decoder, &pool, &parts.collect::<Vec<_>>(), args.runs)?;
            context.out.result(&object(&name, open_seconds, &report), || text(&name, &report))?;
        }
        Model::Encoder(encoder) => {
            let tokens = args.tokens.get();
            let figure = bench_encoder(&encoder, threads, tokens, args.runs)?;
            let isa = format!("{:?}", pool.isa()).chars().take_while(|c| c.is_alphanumeric()).collect::<String>();
            let object =
                json!({ "model": name, "isa": isa, "threads": threads, "sentences": 32, "tokens": tokens, "sentences_per_second": figure });
            context.out.result(&object, || {
                format!("{name}, {threads} threads, {isa}\nembed         {figure:.1} sentences/s, 32 of {tokens} tokens at a time")
            })?;
        }
    }
    Ok(())
}

fn open(args: &Args, pool: &Arc<Pool>) -> anyhow::Result<Model> {
    let shape = match (&args.package, args.shape) {
        (Some(path), _) => {
            let start = Instant::now();
            let package = Package::open(path)?;
            return Ok(if package.is_decoder() {
                let decoder = package.decoder(Arc::clone(pool))?;
                Model::Decoder { decoder, open_seconds: start.elapsed().as_secs_f64() }
            } else {
                Model::Encoder(Box::new(package.encoder()?))
            });
        }
        (None, Some(ShapeName::Minilm)) => return Ok(Model::Encoder(Box::new(Shape::minilm()?))),
        (None, Some(ShapeName::B)) => Shape::B,
        (None, Some(ShapeName::C)) => Shape::C,
        (None, Some(ShapeName::A) | None) => Shape::A,
    };
    let (decoder, open) = shape.decoder(Arc::clone(pool), args.dir.as_deref())?;
    Ok(Model::Decoder { decoder, open_seconds: open.as_secs_f64() })
}

fn object(name: &str, open_seconds: f64, report: &BenchReport) -> Value {
    let profile = report.profile.iter().map(|line| {
        json!({ "step": line.step, "op": line.op.name(), "seconds": line.seconds, "share": line.share, "gbps": line.gbps, "gops": line.gops })
    });
    json!({
        "model": name,
        "isa": report.isa,
        "threads": report.threads,
        "decode_tps": report.decode_tps,
        "prefill512_tps": report.prefill512_tps,
        "check_tps": report.check_tps,
        "check_ids": report.check_ids,
        "batch8_tps": report.batch8_tps,
        "dram_gbps": report.limits.map(|limits| limits.dram_gbps),
        "dram_share": report.dram_share,
        "int8_peak_gops": report.limits.map(|limits| limits.int8_peak_gops),
        "int8_kernel_gops": report.limits.map(|limits| limits.int8_kernel_gops),
        "bytes_per_token": report.bytes_per_token,
        "packed_bytes": report.packed_bytes,
        "kv_bytes": report.kv_bytes,
        "resident_bytes": report.resident_bytes,
        "resident_ratio": report.resident_ratio,
        "open_seconds": open_seconds,
        "profile": profile.collect::<Vec<_>>(),
    })
}

fn text(name: &str, report: &BenchReport) -> String {
    let mut text = format!("{name}, {} threads, {}", report.threads, report.isa);
    let mut line = |what: &str, figure: Option<f64>, unit: &str| {
        if let Some(figure) = figure {
            // Writing to a text cannot fail.
            let _ = write!(text, "\n{what:<14}{figure:.1} {unit}");
        }
    };
    line("decode", report.decode_tps, "tokens/s");
    line("prefill 512", report.prefill512_tps, "tokens/s");
    line("check", report.check_tps, &format!("tokens/s, an output of {}", report.check_ids));
    line("batch of 8", report.batch8_tps, "tokens/s");
    if let Some(limits) = report.limits {
        line("memory", Some(limits.dram_gbps), "GB/s at most");
        line("decode reads", report.dram_share.map(|share| 100.0 * share), "% of that");
        line("int8", Some(limits.int8_peak_gops), "Gop/s at most, in registers");
        line("int8 products", Some(limits.int8_kernel_gops), "Gop/s, in the cache");
    }
    line("resident", report.resident_ratio.map(|ratio| 100.0 * ratio), "% of packed file, keys and values");
    for line in &report.profile {
        let rates = line.gbps.zip(line.gops).map_or_else(String::new, |(gbps, gops)| format!("  {gbps:>6.1} GB/s {gops:>7.1} Gop/s"));
        let _ =
            write!(text, "\n{:<11} {:<17}{:>10.1} us  {:>5.1} %{rates}", line.step, line.op.name(), 1e6 * line.seconds, 100.0 * line.share);
    }
    text
}
