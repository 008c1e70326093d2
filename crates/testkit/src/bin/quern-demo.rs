//! The main job from end to end on this machine: a chain, a market, a provider, a client with a text and one with sentences, an auditor. See
//! `scripts/demo`.
//!
//! Every step is a public command of `quern`, run by an actor with a home and a key of its own; nothing is shared but the chain and the
//! content gateways. Ends with status 0 only if every job was paid, the ledger audit is clean and every recomputation gave the same bits.
#![allow(clippy::print_stdout, reason = "a demo talks to a person")]

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use quern_testkit::{
    Actor, Devnet, DevnetOptions, Market, end_children_on_signal, eventually, extractor_package, interrupted, minilm_package, output,
    repository, text,
};
use serde_json::{Value, json};

/// Whole tokens that the client brings.
const CLIENT_TOKENS: u32 = 1_000;
/// Whole tokens that the provider stakes.
const STAKE_TOKENS: u32 = 1_000;
/// The publisher's royalty, in 1/10,000.
const ROYALTY_BPS: u16 = 250;
/// Lines nearest to the query that are shown.
const NEAREST: usize = 5;
/// What the client asks the extractor if the user has nothing to ask.
const SENTENCES: [&str; 4] = [
    "Please book the invoice from Kestenholz AG for CHF 12'800.00 dated 5 February 2025, payable within 30 days.",
    "we paid Maren Oduya 4.5k euros on 03.11.2024 for the new shelves",
    "Bitte überweisen Sie der Tollkien Elektrobau GmbH 1.249,90 € bis Ende des Monats.",
    "The refund of $75 to Alvarez & Sons went out on 2026-03-09.",
];
/// How long one job may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(240);

/// Runs the market's main job on this machine and shows what happened.
#[derive(Debug, Parser)]
struct Arguments {
    /// The text to embed, one item per line; default: the repository's README
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// What to look for in it
    #[arg(long, default_value = "who gets the money when a provider does not deliver?")]
    query: String,
    /// A business sentence that the extractor turns into JSON; repeatable. Default: four of our own
    #[arg(long = "sentence", value_name = "TEXT")]
    sentences: Vec<String>,
    /// Items per job
    #[arg(long, default_value_t = 64)]
    batch: u32,
    /// Where the report goes; default: target/demo/report.json of the repository
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let path = arguments.report.clone().unwrap_or_else(|| repository().join("target/demo/report.json"));
    let start = Instant::now();
    let ended = begin(&path).and_then(|()| demo(&arguments, start));
    let report = match &ended {
        Ok(report) => report.clone(),
        Err(error) => json!({"ok": false, "error": format!("{error:#}"), "seconds": start.elapsed().as_secs_f64()}),
    };
    let written = write(&path, &report);
    match (ended, written) {
        (Err(_), _) if interrupted() => {
            println!("\ninterrupted: nothing is left running");
            ExitCode::from(130)
        }
        (Err(error), _) | (Ok(_), Err(error)) => {
            println!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
        (Ok(report), Ok(())) => {
            println!("\n{:.1} s; report in {}", report["seconds"].as_f64().unwrap_or_default(), path.display());
            if report["ok"] == true { ExitCode::SUCCESS } else { ExitCode::from(3) }
        }
    }
}

/// From here on a signal ends what was started, and no report of an earlier run stands for this one.
fn begin(report: &Path) -> Result<()> {
    end_children_on_signal()?;
    match std::fs::remove_file(report) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing the report of an earlier run, {}", report.display()))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, report: &Value) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    std::fs::write(path, serde_json::to_string_pretty(report)? + "\n").with_context(|| format!("writing {}", path.display()))
}

/// Says what happens next.
fn step(start: Instant, what: &str) {
    println!("[{:5.1} s] {what}", start.elapsed().as_secs_f32());
    // A demo whose output nobody reads may go on.
    let _ = std::io::stdout().flush();
}

/// Does it all, and returns the report.
fn demo(arguments: &Arguments, start: Instant) -> Result<Value> {
    let file = arguments.text.clone().unwrap_or_else(|| repository().join("README.md"));
    let content = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;

    step(start, "starting an OP-mode L2 (anvil), deploying the contracts, registering all-MiniLM-L6-v2 and the extractor");
    let market = Market::start(DevnetOptions::default(), ROYALTY_BPS)?;
    let encoder = Model { id: market.model_id.clone(), package: utf8(&minilm_package()?)? };
    let package = extractor_package()?;
    let extractor = Model { id: market.register(&package, "extractor", ROYALTY_BPS)?, package: utf8(&package)? };
    println!("          models {}\n                 {}", encoder.id, extractor.id);

    step(start, "a client brings money; a provider stakes, names its operator key, starts its worker; the indexer follows");
    let client = market.client("client", market.devnet.account(0), CLIENT_TOKENS)?;
    let (owner, operator) = market.provider("provider", market.devnet.account(1), STAKE_TOKENS)?;
    let auditor = Actor::new("auditor", market.devnet.account(2), &market.devnet, market.devnet.folder())?;
    let worker = market.worker(&owner, &operator, &[&client], &["--package", &extractor.package, "--price-output", "0.0001"])?;
    let (indexer, api) = market.indexer()?;
    let actors = [("client", &client), ("provider", &owner), ("publisher", &market.publisher)];
    let before = balances(&actors)?;

    step(start, &format!("embedding {} through the market (inputs and outputs are public)", file.display()));
    let vectors = embed(&client, &encoder, &file, arguments.batch)?;
    step(start, &format!("{} vectors came back and were checked against the jobs' output roots", vectors.len()));
    let sentences = if arguments.sentences.is_empty() { SENTENCES.map(str::to_owned).to_vec() } else { arguments.sentences.clone() };
    step(start, &format!("paying the extractor, a model of 3.7 million parameters, for {} answers", sentences.len()));
    let answers = ask(&client, &extractor, &sentences)?;

    step(start, "waiting for the challenge windows to pass and the worker to be paid");
    let mut jobs = Vec::new();
    for (model, results) in [(&encoder, &vectors), (&extractor, &answers)] {
        for id in job_ids(results)? {
            let job = eventually(&format!("job {id} to be final in the index"), PATIENCE, || {
                let job: Value = api.get(&format!("/v1/jobs/{id}"))?;
                let state = job.pointer("/data/state").and_then(Value::as_str).unwrap_or_default();
                Ok(["completed", "refunded", "slashed"].contains(&state).then_some(job))
            })?;
            jobs.push((model, describe(&market.devnet, &job["data"])?));
        }
    }
    let after = balances(&actors)?;

    step(start, "auditing: the ledger from events alone, every job by recomputing it");
    let ledger = verdict(&auditor, &["audit", "ledger", "--head", "latest"])?;
    let mut recomputed = Vec::new();
    for (model, job) in &jobs {
        let id = text(job, "id")?;
        let gateways = ["--gateway", &operator.gateway, "--gateway", &client.gateway];
        let verdict = verdict(&auditor, &[&["audit", "job", &id, "--package", &model.package], &gateways[..]].concat())?;
        recomputed.push(json!({"job": id, "equal": verdict["equal"] == true, "difference": verdict["difference"]}));
    }
    let mut jobs: Vec<Value> = jobs.into_iter().map(|(_, job)| job).collect();
    share_gas(&mut jobs);

    drop((worker, indexer));
    show(&jobs, &before, &after);
    nearest(&client, &content, &vectors, &arguments.query, &encoder.package)?;
    println!("\nextracted:");
    for (sentence, answer) in sentences.iter().zip(&answers) {
        println!("  {sentence}\n    {}", answer["text"].as_str().unwrap_or_default());
    }

    let paid = jobs.iter().all(|job| job["state"] == "completed");
    let clean = ledger["ok"] == true;
    let equal = recomputed.iter().all(|one| one["equal"] == true);
    println!("\nledger audit: {} ({} entries)", if clean { "every wei accounted for" } else { "DIFFERENCE" }, ledger["entries"]);
    if !clean {
        println!("  {}", ledger["difference"]);
    }
    println!("recomputed: {} of {} jobs, {}", recomputed.len(), jobs.len(), if equal { "equal to the last bit" } else { "DIFFERENT" });
    Ok(json!({
        "ok": paid && clean && equal && !jobs.is_empty(), "seconds": start.elapsed().as_secs_f64(),
        "text": file, "query": arguments.query, "jobs": jobs,
        "answers": sentences.iter().zip(&answers).map(|(sentence, answer)| json!({"sentence": sentence, "answer": answer["text"]})).collect::<Vec<_>>(),
        "recomputed": recomputed, "balances": {"before": before, "after": after},
        "ledger_audit": {"ok": clean, "entries": ledger["entries"], "difference": ledger["difference"]},
    }))
}

/// A registered model, and the folder of its package.
struct Model {
    id: String,
    package: String,
}

fn utf8(path: &Path) -> Result<String> {
    Ok(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned())
}

/// Buys a vector for each line of a file.
fn embed(client: &Actor, model: &Model, file: &Path, batch: u32) -> Result<Vec<Value>> {
    let (file, batch) = (utf8(file)?, batch.to_string());
    let fixed = ["embed", &file, "--model", &model.id, "--package", &model.package, "--batch", &batch, "--split"];
    buy(client, &[&fixed, &["--item-price", "0.01"][..]].concat(), "")
}

/// Buys an answer to each sentence.
fn ask(client: &Actor, model: &Model, sentences: &[String]) -> Result<Vec<Value>> {
    // One line each, whatever was typed.
    let lines: String = sentences.iter().map(|sentence| sentence.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect();
    let fixed = ["generate", "-", "--model", &model.id, "--package", &model.package, "--chat", "--max-tokens", "96"];
    buy(client, &[&fixed, &["--output-price", "0.0001", "--item-price", "0.01"][..]].concat(), &lines)
}

/// Runs a command that buys, with its progress on the terminal, and returns the results.
fn buy(client: &Actor, args: &[&str], input: &str) -> Result<Vec<Value>> {
    let output = output(client.command(args)?.args(["--yes", "--json"]), input)?;
    ensure!(output.status.success(), "quern {} ended with {}", args[0], output.status);
    let lines = String::from_utf8(output.stdout)?;
    lines.lines().map(|line| serde_json::from_str(line).with_context(|| format!("quern {} printed {line:?}", args[0]))).collect()
}

/// The jobs of the results, in order.
fn job_ids(results: &[Value]) -> Result<Vec<String>> {
    let mut ids: Vec<String> = Vec::new();
    for result in results {
        let id = text(result, "job")?;
        if ids.last() != Some(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// What the report says of a job: id, state, items, price, and its history with the transactions and their gas.
fn describe(devnet: &Devnet, job: &Value) -> Result<Value> {
    let mut history = Vec::new();
    for entry in job["history"].as_array().context("a job without history")? {
        let (state, hash) = (text(entry, "state")?, text(entry, "tx_hash")?);
        let receipt = devnet.rpc("eth_getTransactionReceipt", &json!([hash]))?;
        let used = receipt["gasUsed"].as_str().and_then(|hex| u64::from_str_radix(hex.trim_start_matches("0x"), 16).ok());
        let used = used.with_context(|| format!("no gas in the receipt of {hash}"))?;
        history.push(json!({"state": state, "tx": hash, "gas": used}));
    }
    Ok(json!({
        "id": job["id"], "kind": job["kind"], "state": job["state"], "items": job.pointer("/spec/itemCount"), "history": history,
        "price": job["fee"], "energy_millijoules": job.pointer("/receipt/energyMillijoules"), "energy_method": job.pointer("/receipt/energyMethod"),
    }))
}

/// Adds the gas of each job by its steps. A transaction that moved several jobs, as one completion can: each bears its share, rounded up.
fn share_gas(jobs: &mut [Value]) {
    let hash = |entry: &Value| entry["tx"].as_str().unwrap_or_default().to_owned();
    let mut sharing: BTreeMap<String, u64> = BTreeMap::new();
    for entry in jobs.iter().filter_map(|job| job["history"].as_array()).flatten() {
        *sharing.entry(hash(entry)).or_default() += 1;
    }
    for job in jobs {
        let mut gas = BTreeMap::new();
        for entry in job["history"].as_array_mut().into_iter().flatten() {
            let jobs = sharing[&hash(entry)];
            let share = entry["gas"].as_u64().unwrap_or_default().div_ceil(jobs);
            entry["gas"] = json!(share);
            entry["jobs"] = json!(jobs);
            let step = match entry["state"].as_str().unwrap_or_default() {
                "open" => "post",
                "claimed" => "claim",
                "submitted" => "submit",
                "completed" => "complete",
                other => other,
            };
            gas.insert(step.to_owned(), share);
        }
        job["gas"] = json!(gas);
    }
}

/// An audit's verdict; exit code 3 is a verdict too.
fn verdict(auditor: &Actor, args: &[&str]) -> Result<Value> {
    let output = output(auditor.command(args)?.arg("--json").stderr(Stdio::piped()), "")?;
    let code = output.status.code();
    ensure!(
        code == Some(0) || code == Some(3),
        "quern {args:?} ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).with_context(|| format!("quern {args:?} printed {:?}", String::from_utf8_lossy(&output.stdout)))
}

/// What each actor has in the Ledger.
fn balances(actors: &[(&str, &Actor)]) -> Result<BTreeMap<String, Value>> {
    actors.iter().map(|(name, actor)| Ok(((*name).to_owned(), actor.quern_one(&["wallet", "balance"])?))).collect()
}

/// The jobs with their histories, and the balances.
fn show(jobs: &[Value], before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) {
    for job in jobs {
        println!(
            "\njob {}: {}, {} items, price {}",
            job["id"].as_str().unwrap_or_default(),
            job["kind"].as_str().unwrap_or_default(),
            job["items"],
            tokens(&job["price"])
        );
        for entry in job["history"].as_array().into_iter().flatten() {
            let shared = entry["jobs"].as_u64().filter(|jobs| *jobs > 1);
            let note = shared.map_or_else(String::new, |jobs| format!("  (its share of a transaction for {jobs} jobs)"));
            let (state, hash) = (entry["state"].as_str().unwrap_or_default(), entry["tx"].as_str().unwrap_or_default());
            println!("  {state:9} {hash} {:>7} gas{note}", entry["gas"]);
        }
    }
    println!("\nbalance            before            after  (tokens in the Ledger)");
    for (name, held) in before {
        for bucket in ["free", "escrow", "stake", "lock"] {
            let (old, new) = (tokens(&held[bucket]), tokens(&after[name][bucket]));
            if old != "0" || new != "0" {
                println!("{name:9} {bucket:6} {old:>8} {new:>16}");
            }
        }
    }
}

/// Smallest units as whole tokens.
fn tokens(units: &Value) -> String {
    let units = units.as_str().unwrap_or("0");
    let padded = format!("{units:0>19}");
    let (whole, part) = padded.split_at(padded.len() - 18);
    let part = part.trim_end_matches('0');
    if part.is_empty() { whole.to_owned() } else { format!("{whole}.{part}") }
}

/// Embeds the query on this machine and shows the items nearest to it.
fn nearest(client: &Actor, content: &str, results: &[Value], query: &str, package: &str) -> Result<()> {
    let question = client.quern_with_input(&["model", "embed", package, "-"], &format!("{query}\n"))?;
    let asked = vector(question.first().context("the query gave no vector")?)?;
    let lines: Vec<&str> = content.lines().collect();
    let mut scored = Vec::new();
    for result in results {
        let score: i64 = vector(result)?.iter().zip(&asked).map(|(a, b)| a * b).sum();
        let line = result["line"].as_u64().and_then(|line| usize::try_from(line).ok()).context("a result without its line")?;
        scored.push((score, line));
    }
    scored.sort_by_key(|&(score, line)| (std::cmp::Reverse(score), line));
    scored.dedup_by_key(|&mut (_, line)| line);
    println!("\nnearest to {query:?}:");
    for (score, line) in scored.into_iter().take(NEAREST) {
        // Two Q15 vectors of unit length: their product is Q30.
        println!("  {:.3}  {:4}: {}", score as f64 / f64::from(1 << 30), line, lines.get(line - 1).copied().unwrap_or_default());
    }
    Ok(())
}

/// The integers of an embedding.
fn vector(result: &Value) -> Result<Vec<i64>> {
    let elements = result["vector"].as_array().with_context(|| format!("no vector in {result}"))?;
    elements.iter().map(|element| element.as_i64().with_context(|| format!("{element} is no int16"))).collect()
}
