//! `quern model fidelity`: how far the exact results are from the float model's.

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc};

use quern_exact::kernels::{Isa, Pool};
use quern_model::{Corpus, DecoderReference, DivergenceReport, Package, Reference, StratumReport, divergence, fidelity};
use serde_json::{Value, json};

use crate::{
    app::Context,
    failure::{Exit, Failure},
    output::table,
};

/// Arguments of `quern model fidelity`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
JSON: {\"root\":HASH,\"holds\":BOOL,\"strata\":[{\"stratum\",\"texts\",\"tokens\",\"mean\",\"meanBound\",\"worst\",\"worstBound\",\
\"worstAt\",\"holds\",\"exactSeconds\",\"referenceSeconds\",\"textsPerSecond\"}]}. The exact machine runs on one thread. \
Of a decoder the first 256 tokens of each text are compared, and a stratum is {\"stratum\",\"texts\",\"positions\",\"meanKl\",\"meanKlBound\",\"worstKl\",\"worstAt\",\
\"top1Agreement\",\"top1AgreementBound\",\"holds\"}, in nats.")]
pub struct Args {
    /// Folder of the package
    package: PathBuf,
    /// The Hugging Face folder, or the GGUF file, that the package was made of
    #[arg(long, value_name = "DIR")]
    reference: PathBuf,
    /// Folder with lines/, words/ and long/
    #[arg(long, default_value = "tests/corpus")]
    corpus: PathBuf,
}

pub(super) fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let package = Package::open(&args.package)?;
    let corpus = Corpus::read(&args.corpus)?;
    if package.is_decoder() {
        return run_decoder(context, args, &package, &corpus);
    }
    let reference = Reference::open(&args.reference)?;
    let reports = fidelity(&package, &reference, &corpus)?;
    let broken: Vec<&str> = reports.iter().filter(|report| !report.holds()).map(|report| report.name).collect();
    let strata: Vec<Value> = reports.iter().map(report_json).collect();
    let object = json!({ "root": package.root(), "holds": broken.is_empty(), "strata": strata });
    context.out.result(&object, || {
        let title = format!("1 - cosine against the float model, package {}", package.root());
        format!("{title}\n{}", text(&reports))
    })?;
    if broken.is_empty() {
        return Ok(());
    }
    let what = format!("the exact vectors are too far from the float model's: {}", broken.join(", "));
    Err(Failure::new(what, "is DIR the folder that PACKAGE was made of?").with_exit(Exit::Difference).into())
}

fn run_decoder(context: &Context, args: &Args, package: &Package, corpus: &Corpus) -> anyhow::Result<()> {
    let reference = DecoderReference::open(&args.reference)?;
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let reports = divergence(package, &reference, corpus, &Arc::new(Pool::new(Isa::detect(), threads)))?;
    let broken: Vec<&str> = reports.iter().filter(|report| !report.holds()).map(|report| report.name).collect();
    let strata: Vec<Value> = reports.iter().map(divergence_json).collect();
    let object = json!({ "root": package.root(), "holds": broken.is_empty(), "strata": strata });
    context.out.result(&object, || {
        let row = |r: &DivergenceReport| {
            vec![
                r.name.to_owned(),
                r.texts.to_string(),
                r.positions.to_string(),
                format!("{:.2e}", r.mean),
                format!("{:.0e}", r.mean_bound),
                format!("{:.2e}", r.worst),
                format!("{:.2} %", 100.0 * r.agreement),
                format!("{:.0} %", 100.0 * r.agreement_bound),
                if r.holds() { "holds" } else { "BROKEN" }.to_owned(),
                r.worst_at.clone(),
            ]
        };
        let header = ["stratum", "texts", "positions", "mean KL", "bound", "worst", "same top id", "bound", "", "worst text"];
        let rows = table(&header, &reports.iter().map(row).collect::<Vec<_>>());
        format!("divergence from the float model in nats, package {}\n{rows}", package.root())
    })?;
    if broken.is_empty() {
        return Ok(());
    }
    let what = format!("the exact distributions are too far from the float model's: {}", broken.join(", "));
    Err(Failure::new(what, "is DIR what PACKAGE was made of?").with_exit(Exit::Difference).into())
}

fn divergence_json(report: &DivergenceReport) -> Value {
    json!({
        "stratum": report.name,
        "texts": report.texts,
        "positions": report.positions,
        "meanKl": report.mean,
        "meanKlBound": report.mean_bound,
        "worstKl": report.worst,
        "worstAt": report.worst_at,
        "top1Agreement": report.agreement,
        "top1AgreementBound": report.agreement_bound,
        "holds": report.holds(),
    })
}

fn text(reports: &[StratumReport]) -> String {
    let row = |r: &StratumReport| {
        vec![
            r.name.to_owned(),
            r.texts.to_string(),
            r.ids.to_string(),
            format!("{:.2e}", r.mean),
            format!("{:.0e}", r.mean_bound),
            format!("{:.2e}", r.worst),
            format!("{:.0e}", r.worst_bound),
            if r.holds() { "holds" } else { "BROKEN" }.to_owned(),
            format!("{:.1}", r.texts_per_second()),
            r.worst_at.clone(),
        ]
    };
    let header = ["stratum", "texts", "tokens", "mean", "bound", "worst", "bound", "", "texts/s on 1 core", "worst text"];
    table(&header, &reports.iter().map(row).collect::<Vec<_>>())
}

fn report_json(report: &StratumReport) -> Value {
    json!({
        "stratum": report.name,
        "texts": report.texts,
        "tokens": report.ids,
        "mean": report.mean,
        "meanBound": report.mean_bound,
        "worst": report.worst,
        "worstBound": report.worst_bound,
        "worstAt": report.worst_at,
        "holds": report.holds(),
        "exactSeconds": report.exact_time.as_secs_f64(),
        "referenceSeconds": report.reference_time.as_secs_f64(),
        "textsPerSecond": report.texts_per_second(),
    })
}
