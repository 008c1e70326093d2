//! `quern model bench`: how fast a decoder runs on this machine.

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use clap::ValueEnum;
use quern_exact::kernels::{Isa, Pool};
use quern_model::{Package, Shape, bench};
use serde_json::json;

use crate::app::Context;

/// Arguments of `quern model bench`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
JSON: {\"model\":TEXT,\"isa\":TEXT,\"threads\":N,\"decode_tps\",\"prefill512_tps\",\"check_tps\",\"batch8_tps\",\"dram_gbps\",\"dram_share\",\
\"int8_peak_gops\",\"bytes_per_token\",\"open_seconds\",\"resident_bytes\"}. _tps are tokens per second, medians of 3 runs; dram_share is the part of dram_gbps that \
decoding reads; resident_bytes is the most memory that the process had (Linux).")]
pub struct Args {
    /// Folder of a decoder's package
    #[arg(required_unless_present = "shape")]
    package: Option<PathBuf>,
    /// Random weights of a shape instead: a has 135 million, b half a billion, c 1.2 billion
    #[arg(long, conflicts_with = "package")]
    shape: Option<ShapeName>,
    /// Threads [default: all cores]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ShapeName {
    /// 30 layers of 576
    A,
    /// 24 layers of 896
    B,
    /// 16 layers of 2048
    C,
}

pub(super) fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let threads = match args.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism().context("cannot tell the number of cores; give --threads")?,
    };
    let pool = Arc::new(Pool::new(Isa::detect(), threads));
    let start = std::time::Instant::now();
    let (name, decoder) = match (&args.package, args.shape) {
        (Some(path), _) => (path.display().to_string(), Package::open(path)?.decoder(Arc::clone(&pool))?),
        (None, shape) => {
            let shape = match shape {
                Some(ShapeName::B) => Shape::B,
                Some(ShapeName::C) => Shape::C,
                _ => Shape::A,
            };
            (format!("shape {shape:?}, random weights"), shape.decoder(Arc::clone(&pool))?)
        }
    };
    let open_seconds = start.elapsed().as_secs_f64();
    let report = bench(&decoder, &pool)?;
    let object = json!({
        "model": name,
        "isa": report.isa,
        "threads": report.threads,
        "decode_tps": report.decode_tps,
        "prefill512_tps": report.prefill512_tps,
        "check_tps": report.check_tps,
        "batch8_tps": report.batch8_tps,
        "dram_gbps": report.dram_gbps,
        "dram_share": report.dram_share,
        "int8_peak_gops": report.int8_peak_gops,
        "bytes_per_token": report.bytes_per_token,
        "open_seconds": open_seconds,
        "resident_bytes": resident_bytes(),
    });
    context.out.result(&object, || {
        format!(
            "{name}, {} threads, {}\ndecode        {:.1} tokens/s, {:.0} % of the {:.1} GB/s of this machine's memory\nprefill 512   {:.1} tokens/s\n\
             check         {:.1} tokens/s\nbatch of 8    {:.1} tokens/s\nint8 products {:.0} Gop/s at most",
            report.threads,
            report.isa,
            report.decode_tps,
            100.0 * report.dram_share,
            report.dram_gbps,
            report.prefill512_tps,
            report.check_tps,
            report.batch8_tps,
            report.int8_peak_gops,
        )
    })?;
    Ok(())
}

/// The most memory that this process had; `None` where the system does not say.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(1024 * kib)
}
