//! `quern generate`: prompts in, paid texts out.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use quern_client::{Ask, Follower, Item, Sampling, Scope, Tokenize, Unit, items, pieces};
use quern_model::{ChatTemplate, Message, ModelError, Package, Tokenizer};
use quern_types::{Amount, B256, JobKind, ModelId, UNUSED_STOP_ID};

use crate::{
    app::Context,
    args,
    commands::buy::{self, Offer, Printer, Request, Results, Waiting},
    failure::Failure,
    session,
};

/// 1 in Q16.
const ONE_Q16: f64 = 65_536.0;

/// Arguments of `quern generate`.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Buy text: samples of what a model says after each prompt.\n\nEach line is a prompt (a line without text is an empty item, of which nothing is generated). The prompts are \
        posted as jobs of at most --batch items; the most that they can cost goes into escrow, what they do not cost comes back. Every job is in the journal before it is posted, so \
        neither Ctrl-C nor a crash loses one: `quern job list` shows them, `quern job resume` goes on.\n\nINPUTS AND OUTPUTS ARE PUBLIC: anybody can read the prompts and what is generated.",
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
    /// A prompt per paragraph in place of one per line
    #[arg(long)]
    paragraphs: bool,
    /// Make each prompt the user's turn of a conversation, by the model's own chat template
    #[arg(long)]
    chat: bool,
    /// What the system turn of the conversation says
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Most ids of an output
    #[arg(long, value_name = "IDS", default_value_t = 128, value_parser = RangedU64ValueParser::<u32>::new().range(1..=32_768))]
    max_tokens: u32,
    /// Outputs per prompt
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<u32>::new().range(1..=256))]
    samples: u32,
    /// How freely ids are drawn; 0: always the likeliest
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature)]
    temperature: f64,
    /// Draw only ids that are at least so likely as this share of the likeliest; 0 to 1
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = min_p)]
    min_p: f64,
    /// A number, or 32 bytes in hexadecimal, that fixes what is drawn, public as everything; default: random
    #[arg(long, value_name = "SEED", value_parser = seed)]
    seed: Option<B256>,
    /// An id that ends an output; repeatable, at most 8; default: those that the model names
    #[arg(long, value_name = "ID")]
    stop: Vec<u32>,
    /// Let no id end an output
    #[arg(long, conflicts_with = "stop")]
    no_stop: bool,
    /// Prompts per job, 1 to 65536
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch: usize,
    /// Most that is paid per output id, in whole tokens
    #[arg(long, value_name = "AMOUNT", value_parser = args::price, help_heading = "Price and time")]
    output_price: Option<Amount>,
    #[command(flatten)]
    offer: Offer,
    /// Do not ask for a confirmation
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
    /// Print only the texts, one after the other
    #[arg(long)]
    text: bool,
}

const HELP: &str = "\
Examples:
  quern generate prompts.txt --model 0x5f… --max-tokens 200 --yes > texts.jsonl
  echo 'Why is the sky blue?' | quern generate - --model 0x5f… --chat --text --output-price 0.0001 --yes
  quern generate prompts.txt --model 0x5f… --samples 4 --temperature 0.8 --min-p 0.05 --yes

Output, one JSON object per prompt and sample, in order:
  {\"job\":ID,\"item\":N,\"sample\":N,\"line\":N,\"reason\":TEXT,\"text\":TEXT,\"ids\":[N,…]}
  item and sample count from 0 within the job, line from 1 in the file.
  reason is stop, max_output or context (how it ended), or empty_item, item_too_long, unknown_id without ids.
  text is what the ids stand for, without special ones and the one that stopped it; ids is what is paid for.

A result is printed when it was checked against what the provider attested to (the output root). Whether it was computed rightly is told by
`quern audit job ID` anywhere: it takes a fraction of the time of generating.";

/// Buys text.
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
    let package = buy::package(context, &market, facts, &content, args.model, JobKind::Generate, args.package.as_deref()).await?;
    let made = prompts(args, &text, &package)?;
    let request = Request {
        model: args.model,
        offer: &args.offer,
        output_price: args.output_price,
        batch: args.batch,
        ask: Ask::Generate(sampling(args, package.header().stop_ids)?),
        source: buy::source(&args.file),
    };
    let plan = request.plan(made, facts, &market, account).await?;
    plan.confirm(context, args.yes)?;

    let actor = session::actor(config, market)?;
    let planned = plan.record(context, &actor, &content, &session::journal(config, actor.market(), account)).await?;
    let mut results = Results::new(context.out, &planned, Printer::Texts { package: Some(Box::new(package)), plain: args.text });
    buy::drive(context, &args.waiting, &actor, &mut follower, &content, &planned, &mut results).await
}

/// The prompts' ids. None is longer than the context, and each is in the vocabulary: a prompt of which nothing would be generated is not bought.
fn prompts(args: &Args, text: &str, package: &Package) -> anyhow::Result<Vec<Item>> {
    let unit = if args.paragraphs { Unit::Paragraphs } else { Unit::Lines };
    let (pieces, limits) = (pieces(text, unit)?, package.into());
    if !args.chat {
        return Ok(items(&pieces, package.tokenizer(), limits, false)?);
    }
    let template = package.chat_template()?.ok_or_else(|| {
        Failure::usage(format!("model {} has no chat template", args.model), "leave --chat out: then it continues each prompt as it is")
    })?;
    let turns = Turns { tokenizer: package.tokenizer(), template, system: args.system.as_deref() };
    Ok(items(&pieces, &turns, limits, false)?)
}

/// Prompts as the user's turn of a conversation.
struct Turns<'a> {
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    system: Option<&'a str>,
}

impl Tokenize for Turns<'_> {
    type Error = ModelError;

    fn ids(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let turn = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
        let mut turns: Vec<Message> = self.system.map(|system| turn("system", system)).into_iter().collect();
        turns.push(turn("user", text));
        self.tokenizer.encode_prompt(&self.template.render(&turns)?)
    }
}

fn sampling(args: &Args, of_model: [u32; 8]) -> Result<Sampling, Failure> {
    if args.stop.len() > 8 {
        return Err(Failure::usage(format!("{} ids with --stop", args.stop.len()), "a job names at most 8"));
    }
    let mut stop_ids = [UNUSED_STOP_ID; 8];
    if !args.stop.is_empty() {
        stop_ids[..args.stop.len()].copy_from_slice(&args.stop);
    } else if !args.no_stop {
        stop_ids = of_model;
    }
    // Without temperature nothing is drawn: equal jobs then give equal texts, and look so.
    let random = if args.temperature == 0.0 { B256::ZERO } else { B256::new(rand::random()) };
    Ok(Sampling {
        samples: args.samples,
        max_output: args.max_tokens,
        stop_ids,
        temperature: q16(args.temperature),
        min_p: q16(args.min_p),
        seed: args.seed.unwrap_or(random),
    })
}

/// The nearest number of Q16. ROUNDING: to nearest.
fn q16(number: f64) -> u32 {
    (number * ONE_Q16).round() as u32
}

/// A number is the last eight bytes of the seed, as in `quern run`.
fn seed(text: &str) -> Result<B256, String> {
    if let Ok(number) = text.parse::<u64>() {
        let mut bytes = [0; 32];
        bytes[24..].copy_from_slice(&number.to_be_bytes());
        return Ok(bytes.into());
    }
    text.parse().map_err(|_| "write a number, or 0x and 64 hexadecimal digits".into())
}

fn temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=1_000.0).contains(&number) => Ok(number),
        _ => Err("write a number of 0 to 1000, such as 0.8".into()),
    }
}

fn min_p(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err("write a number of 0 to 1, such as 0.05".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(more: &[&str]) -> Result<Args, clap::Error> {
        let model = format!("{:#x}", B256::ZERO);
        let fixed = ["generate", "-", "--model", &model];
        Line::try_parse_from(fixed.iter().chain(more)).map(|line| line.args)
    }

    #[test]
    fn figures_of_sampling_are_the_nearest_of_q16() {
        let args = parsed(&["--temperature", "0.7", "--min-p", "0.05", "--samples", "3", "--max-tokens", "9"]).expect("a command line");
        let made = sampling(&args, [UNUSED_STOP_ID; 8]).expect("sampling");
        assert_eq!((made.temperature, made.min_p, made.samples, made.max_output), (45_875, 3_277, 3, 9));
        assert_ne!(made.seed, B256::ZERO);
        for bad in [["--temperature", "-1"], ["--temperature", "NaN"], ["--min-p", "1.01"], ["--max-tokens", "0"], ["--samples", "257"]] {
            assert!(parsed(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn stop_ids_are_the_models_unless_others_or_none_are_named() {
        let mut of_model = [UNUSED_STOP_ID; 8];
        of_model[0] = 2;
        let stops = |more: &[&str]| sampling(&parsed(more).expect("a command line"), of_model).map(|made| made.stop_ids);
        assert_eq!(stops(&[]).expect("stops"), of_model);
        assert_eq!(stops(&["--no-stop"]).expect("none"), [UNUSED_STOP_ID; 8]);
        assert_eq!(stops(&["--stop", "7", "--stop", "9"]).expect("two")[..3], [7, 9, UNUSED_STOP_ID]);
        let nine: Vec<&str> = ["--stop", "1"].into_iter().cycle().take(18).collect();
        assert!(stops(&nine).is_err());
    }

    #[test]
    fn seed_is_a_number_or_32_bytes() {
        assert_eq!(seed("258").expect("a number").as_slice()[30..], [1, 2]);
        assert_eq!(seed(&format!("{:#x}", B256::repeat_byte(7))), Ok(B256::repeat_byte(7)));
        assert!(seed("0x12").is_err() && seed("mill").is_err());
    }

    #[test]
    fn greedy_job_has_no_seed_unless_one_is_given() {
        let greedy = sampling(&parsed(&[]).expect("a command line"), [UNUSED_STOP_ID; 8]).expect("sampling");
        assert_eq!(greedy.seed, B256::ZERO);
    }
}
