//! What buying embeddings and buying text have in common: an offer, a plan, a run that is driven to its results.

mod plan;
mod results;

use std::{io::Read as _, net::SocketAddr, path::Path, sync::Arc};

use clap::builder::RangedU64ValueParser;
use quern_chain::Client;
use quern_client::{Actor, Drive, DriveOptions, Follower, PlannedJob, Run};
use quern_store::ContentStore;
use quern_types::{Address, Amount, Head};

use crate::{
    app::Context,
    args,
    commands::serve,
    failure::{Exit, Failure},
    output,
    session::{self, Content},
};

pub(crate) use plan::{Request, package};
pub(crate) use results::{Printer, Results};

/// Longest time for one block of an output from one gateway.
const BLOCK_TIMEOUT_MS: u64 = 30_000;

/// What is offered and demanded; the price per output id, which only text has, is beside it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Price and time")]
pub struct Offer {
    /// Most that is paid per item, in whole tokens; without any price the cheapest listing for the model is offered, with the publisher's royalty on top
    #[arg(long, value_name = "AMOUNT", value_parser = args::price)]
    item_price: Option<Amount>,
    /// Most per input id
    #[arg(long, value_name = "AMOUNT", value_parser = args::price)]
    input_price: Option<Amount>,
    /// Most per job
    #[arg(long, value_name = "AMOUNT", value_parser = args::price)]
    base_price: Option<Amount>,
    /// Post nothing if all jobs together can cost more than this
    #[arg(long, value_name = "AMOUNT", value_parser = args::tokens)]
    max_price: Option<Amount>,
    /// Price of the first second, in 1/10,000 of the maximum; below 10000 the price rises until somebody claims
    #[arg(long, value_name = "BPS", default_value_t = 10_000, value_parser = RangedU64ValueParser::<u16>::new().range(1..=10_000))]
    ramp_floor_bps: u16,
    /// Seconds in which the price rises to the maximum
    #[arg(long, value_name = "SECS", default_value_t = 0)]
    ramp_secs: u32,
    /// Seconds in which the jobs may be claimed; after that the escrow can be had back
    #[arg(long, value_name = "SECS", default_value_t = 600)]
    claim_within: u32,
    /// Seconds from the claim in which a provider must deliver, or lose a part of its stake
    #[arg(long, value_name = "SECS", default_value_t = 600, value_parser = RangedU64ValueParser::<u32>::new().range(1..))]
    deliver_within: u32,
    /// The only provider who may claim
    #[arg(long, value_name = "ADDRESS", value_parser = args::address)]
    provider: Option<Address>,
}

/// How to wait for results; shared with `quern job resume`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Waiting")]
pub struct Waiting {
    /// Post and leave: something else must serve the input (`quern store serve`), and `quern job resume` gets the results
    #[arg(long)]
    detach: bool,
    /// Do not serve the inputs from this machine while waiting; then something else must (`quern store serve`, an IPFS node)
    #[arg(long)]
    no_serve: bool,
    /// Address to serve the inputs on; default: that of the configuration
    #[arg(long, value_name = "ADDR")]
    serve: Option<SocketAddr>,
    /// Claim refunds that are due, in place of telling the command that does
    #[arg(long)]
    auto_refund: bool,
    /// Wait until the jobs are paid, and not only until their results are here
    #[arg(long)]
    until_final: bool,
}

/// Drives a run to its end; shared with `quern job resume`.
///
/// # Errors
/// [`Failure`] with exit code 4 for jobs without a result, 3 for a difference; what stops the run. Jobs that were posted stay posted.
pub(crate) async fn drive(
    context: &Context,
    waiting: &Waiting,
    actor: &Actor,
    follower: &mut Follower<Client>,
    content: &Content,
    planned: &Run,
    results: &mut Results,
) -> anyhow::Result<()> {
    if waiting.detach {
        return detach(context, actor, planned, results).await;
    }
    let server = if waiting.no_serve {
        None
    } else {
        let listen = waiting.serve.unwrap_or(context.config.store.listen);
        let sample = planned.jobs.first().map(|job| job.spec.input);
        serve::while_waiting(listen, content.local.clone(), sample).await?
    };
    let options = DriveOptions { auto_refund: waiting.auto_refund, until_final: waiting.until_final, block_timeout_ms: BLOCK_TIMEOUT_MS };
    let gateways = context.config.gateways.clone();
    let store: Arc<dyn ContentStore> = content.local.clone();
    let mut drive = Drive { actor, follower, store, gateways, options };
    let ended = drive.run(planned, &context.cancel, &mut |update| results.take(&update)).await;
    if let Some(server) = server {
        server.abort();
    }
    match ended {
        Ok(_) => Ok(results.finish().await?),
        Err(quern_client::ClientError::Interrupted) => {
            results.stop();
            let remedy = format!("`quern job resume {}` goes on; `quern job cancel --all` takes unclaimed jobs back", planned.id);
            Err(Failure::new("stopped before all results were here; what was posted stays posted", remedy)
                .with_exit(Exit::Interrupted)
                .into())
        }
        Err(error) => {
            results.stop();
            Err(explain(error, planned))
        }
    }
}

async fn detach(context: &Context, actor: &Actor, planned: &Run, results: &mut Results) -> anyhow::Result<()> {
    for PlannedJob { id, spec, .. } in &planned.jobs {
        let failed = |error| explain(error, planned);
        // Waits for the block: what a reorganisation takes back later, `quern job resume` posts again.
        if actor.post(*id, spec).await.map_err(failed)? {
            let call = actor.market().post(spec).map_err(failed)?;
            actor.act("posting the job", &quern_client::keys::post(*id), &call, Head::Latest).await.map_err(failed)?;
        }
    }
    results.stop();
    let jobs: Vec<_> = planned.jobs.iter().map(|job| serde_json::json!({ "id": job.id, "result": "posted" })).collect();
    let object = serde_json::json!({ "run": planned.id, "jobs": jobs, "items": planned.items(), "width": null, "npy": null });
    let text = || format!("posted {}; results: `quern job resume {}`", output::count(planned.jobs.len(), "job"), planned.id);
    context.out.result(&object, text)?;
    Ok(())
}

/// An error of the client with the run that it leaves behind.
fn explain(error: quern_client::ClientError, planned: &Run) -> anyhow::Error {
    let found = Failure::of(&session::explain(error));
    let remedy = match found.remedy.as_str() {
        "" => format!("nothing is lost: `quern job resume {}` goes on from here", planned.id),
        remedy => format!("{remedy}; then `quern job resume {}`", planned.id),
    };
    Failure { remedy, ..found }.into()
}

/// What a text is called.
pub(crate) fn source(file: &Path) -> String {
    if file == Path::new("-") { "standard input".into() } else { file.display().to_string() }
}

/// A text, whole.
///
/// # Errors
/// A file that cannot be read or is not UTF-8, with the line.
pub(crate) fn read_text(file: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::usage(format!("cannot read {}: {error}", source(file)), "check the name of the file"))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|&&byte| byte == b'\n').count() + 1;
        Failure::usage(
            format!("{}, line {line}: this is not UTF-8", source(file)),
            "convert the text first, for instance with `iconv -t UTF-8`",
        )
    })
}
