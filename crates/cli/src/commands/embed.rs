//! `quern embed`: a text in, paid vectors out.

use std::path::PathBuf;

use quern_client::{Ask, Follower, Scope, Unit, items, pieces};
use quern_types::{JobKind, ModelId};

use crate::{
    app::Context,
    commands::buy::{self, Offer, Printer, Request, Results, Waiting},
    session,
};

/// Arguments of `quern embed`.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Buy the embeddings of a text.\n\nEach line is an item (a line without text is an empty item, whose vector is zero). The items are posted as jobs of at \
        most --batch items; the most that they can cost goes into escrow, what they do not cost comes back. Every job is in the journal before it is posted, so neither Ctrl-C \
        nor a crash loses one: `quern job list` shows them, `quern job resume` goes on.\n\nINPUTS AND OUTPUTS ARE PUBLIC: anybody can read the text's ids and the vectors.",
    after_long_help = HELP
)]
pub struct Args {
    /// UTF-8 text, or - for standard input
    file: PathBuf,
    /// The model, see `quern model list`
    #[arg(long, value_name = "ID")]
    model: ModelId,
    /// Folder of the model's package, for its tokenizer; default: fetched once into HOME/packages
    #[arg(long, value_name = "DIR")]
    package: Option<PathBuf>,
    /// An item per paragraph in place of one per line
    #[arg(long)]
    paragraphs: bool,
    /// Split what is longer than the model's context into several items, at white space where possible; without it that is an error
    #[arg(long)]
    split: bool,
    /// Items per job, 1 to 65536
    #[arg(long, value_name = "N", default_value_t = 1024)]
    batch: usize,
    #[command(flatten)]
    offer: Offer,
    /// Do not ask for a confirmation
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
    /// Write the vectors as int16 (items x width) to this .npy file, and print only a summary
    #[arg(long, value_name = "FILE")]
    npy: Option<PathBuf>,
    /// Compute every vector here too and compare the bits; a difference ends with exit code 3
    #[arg(long)]
    recheck: bool,
}

const HELP: &str = "\
Examples:
  quern embed README.md --model 0x5f… --split --yes > vectors.jsonl
  cat lines.txt | quern embed - --model 0x5f… --item-price 0.001 --max-price 2 --npy out.npy --yes

Output, one JSON object per item, in order:
  {\"job\":ID,\"item\":N,\"line\":N,\"part\":N,\"parts\":N,\"reason\":TEXT,\"vector\":[INT,…]}
  item counts from 0 within its job, line from 1 in the text; part and parts tell where a line was split.
  reason is complete, or empty_item, item_too_long, unknown_id with a zero vector.
  Vectors have unit length in Q15: divide by 32768.
With --npy or --detach: {\"run\",\"jobs\":[{\"id\",\"result\":TEXT}],\"items\",\"width\",\"npy\"}.

A result is printed when it was checked against what the provider attested to (the output root). Whether it was computed rightly is told by --recheck
here, or by `quern audit job ID` anywhere.";

/// Buys embeddings.
///
/// # Errors
/// Everything that can be known before posting is an error before posting: text, model, money, network. After that, jobs without a result: exit code 4.
pub async fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let text = buy::read_text(&args.file)?;
    let config = &context.config;
    let market = session::market(config).await?;
    let account = session::account(config, None)?;
    let content = session::content(config, &[]).await?;
    let mut follower = Follower::new(market.client().clone(), market.deployment(), Scope::None, session::stream_config())?;
    follower.catch_up().await?;

    let facts = follower.facts();
    let package = buy::package(context, &market, facts, &content, args.model, JobKind::Embed, args.package.as_deref()).await?;
    let unit = if args.paragraphs { Unit::Paragraphs } else { Unit::Lines };
    let made = items(&pieces(&text, unit)?, package.tokenizer(), (&package).into(), args.split)?;
    let request = Request {
        model: args.model,
        offer: &args.offer,
        output_price: None,
        batch: args.batch,
        ask: Ask::Embed,
        source: buy::source(&args.file),
    };
    let plan = request.plan(made, facts, &market, account).await?;
    plan.confirm(context, args.yes)?;

    let actor = session::actor(config, market)?;
    let planned = plan.record(context, &actor, &content, &session::journal(config, actor.market(), account)).await?;
    let mut results = Results::new(context.out, &planned, Printer::Vectors { npy: args.npy.clone() });
    if args.recheck {
        results.recheck(package, &content.local);
    }
    buy::drive(context, &args.waiting, &actor, &mut follower, &content, &planned, &mut results).await
}
