//! Everything that can be known before money moves.

use std::path::Path;

use quern_client::{
    Actor, ClientError, Facts, Market, PlannedJob, PreparedInput, Run, RunJournal, Terms, Unit, batches, embed_spec, fetch_package, items,
    pieces, salt, with_id,
};
use quern_model::Package;
use quern_types::{Address, Amount, B256, ContentId, ModelId};

use super::{Args, Offer};
use crate::{
    app::Context,
    failure::Failure,
    output,
    session::{Content, in_tokens},
};

/// Family of encoders.
const ENCODER: u8 = 1;

/// The model's package, proven to be the one that is registered: given, fetched before, or fetched now.
pub(super) async fn package(
    context: &Context,
    market: &Market,
    facts: &Facts,
    content: &Content,
    model: ModelId,
    given: Option<&Path>,
) -> anyhow::Result<Package> {
    let record = market.model(model).await?;
    if record.family != ENCODER {
        return Err(Failure::usage(
            format!("model {model} generates text and gives no embeddings"),
            "choose an encoder: `quern model list`",
        )
        .into());
    }
    let listed = facts.models().remove(&model).ok_or(ClientError::UnknownModel { model })?;
    if let Some(path) = given {
        let package = Package::open(path)?;
        // TRUST: header and tokenizer are proven by opening, and only they matter for posting. The weights matter for `--recheck`, which verifies them.
        if package.root() != listed.package {
            let what = format!("{} is package {}, and model {model} is package {}", path.display(), package.root(), listed.package);
            return Err(Failure::usage(what, "name the package of this model, or leave --package out to fetch it").into());
        }
        return Ok(package);
    }
    let to = context.config.packages_dir().join(listed.package.to_string());
    if !to.is_dir() {
        context.out.note(&format!("fetching the model's package into {}", to.display()));
    }
    let mut last = None;
    for (codec, digest) in &listed.places {
        let Ok(place) = ContentId::from_chain(*codec, *digest) else { continue };
        match fetch_package(&content.layered, place, listed.package, &to).await {
            Ok(package) => return Ok(package),
            Err(error) => last = Some(error),
        }
    }
    let reason = last.map_or_else(|| "its publisher names no place".to_owned(), |error| crate::failure::one_line(&error));
    let remedy = "name a folder that holds it with --package DIR, or a gateway that has it with --gateway URL";
    Err(Failure::new(format!("the package of model {model} cannot be fetched: {reason}"), remedy).into())
}

/// What will be posted.
pub(super) struct Plan<'a> {
    args: &'a Args,
    made: Vec<quern_client::Item>,
    terms: Terms,
    max_cost: Amount,
    free: Amount,
    /// Items in all.
    pub(super) items: usize,
    ids: usize,
    jobs: usize,
    listings: usize,
    run: B256,
}

/// Plans a run, and checks that it can be paid.
pub(super) async fn plan<'a>(
    args: &'a Args,
    text: &str,
    package: &Package,
    facts: &Facts,
    market: &Market,
    account: Address,
) -> anyhow::Result<Plan<'a>> {
    let unit = if args.paragraphs { Unit::Paragraphs } else { Unit::Lines };
    let made = items(&pieces(text, unit)?, package.tokenizer(), package.header().context, args.split)?;
    let jobs = batches(&made, args.batch)?.len();
    let listings = facts.providers().values().filter(|provider| provider.prices.contains_key(&args.model)).count();
    let now = facts.last().map_or(0, |block| block.timestamp);
    let terms = terms(args, facts, now, made.len(), made.iter().map(|item| item.ids.len()).sum())?;
    let max_cost = terms.max_cost(&made, args.batch)?;
    if let Some(most) = args.offer.max_price
        && max_cost > most
    {
        let what = format!("the jobs can cost {}, more than --max-price {}", in_tokens(max_cost), in_tokens(most));
        return Err(Failure::new(what, "nothing was posted; raise --max-price, lower a price, or shorten the text").into());
    }
    let balances = market.balances(account).await?;
    check_money(&balances, max_cost)?;
    let ids = made.iter().map(|item| item.ids.len()).sum();
    Ok(Plan { args, items: made.len(), ids, made, terms, max_cost, free: balances.free, jobs, listings, run: B256::new(rand::random()) })
}

fn check_money(held: &quern_client::Balances, needed: Amount) -> Result<(), Failure> {
    if held.gas.is_zero() {
        return Err(Failure::new(
            "the account has none of the chain's own coin, which pays for gas",
            "send it some; `quern key address` prints the account",
        ));
    }
    let missing = needed.saturating_sub(held.free);
    if missing.is_zero() {
        return Ok(());
    }
    let what = format!(
        "the jobs can cost {}, and the account has {} free in the Ledger: {} missing",
        in_tokens(needed),
        held.free.to_tokens(),
        missing.to_tokens()
    );
    let remedy = if held.token >= missing {
        format!("`quern wallet deposit {}` brings it in", missing.to_tokens())
    } else {
        let short = missing.saturating_sub(held.token);
        format!("get {} to the account first, then `quern wallet deposit {}`", in_tokens(short), missing.to_tokens())
    };
    Err(Failure::new(what, remedy))
}

/// The offer: the prices that were given, else the cheapest listing for these items.
fn terms(args: &Args, facts: &Facts, now: u64, items: usize, ids: usize) -> Result<Terms, Failure> {
    let Offer { item_price, input_price, base_price, ramp_floor_bps, ramp_secs, claim_within, deliver_within, provider, .. } = &args.offer;
    let given = item_price.is_some() || input_price.is_some() || base_price.is_some();
    let (base, input, item) = if given {
        (base_price.unwrap_or_default(), input_price.unwrap_or_default(), item_price.unwrap_or_default())
    } else {
        let cost = |prices: &quern_bindings::Prices| {
            let part = |price: Amount, count: usize| price.units().saturating_mul(count as u128);
            let jobs = items.div_ceil(args.batch.max(1));
            part(prices.base, jobs).saturating_add(part(prices.input, ids)).saturating_add(part(prices.item, items))
        };
        let providers = facts.providers();
        let listed = providers.iter().filter(|(address, _)| provider.is_none_or(|only| only == **address));
        let cheapest = listed.filter_map(|(_, listed)| listed.prices.get(&args.model)).min_by_key(|prices| cost(prices));
        let prices = cheapest.ok_or_else(|| {
            let who = provider.map_or_else(|| "no provider lists".to_owned(), |provider| format!("provider {provider} does not list"));
            Failure::new(
                format!("{who} a price for model {}", args.model),
                "offer one yourself with --item-price AMOUNT; `quern provider list` shows who provides",
            )
        })?;
        (prices.base, prices.input, prices.item)
    };
    Ok(Terms {
        base_price: base,
        input_price: input,
        item_price: item,
        ramp_floor_bps: *ramp_floor_bps,
        ramp_secs: *ramp_secs,
        claim_by: now.saturating_add(u64::from(*claim_within)),
        deliver_within: *deliver_within,
        designated: provider.unwrap_or_default(),
    })
}

impl Plan<'_> {
    /// Says what is about to happen, and asks.
    pub(super) fn confirm(&self, context: &Context, yes: bool) -> Result<(), Failure> {
        let mut lines = vec![
            format!("{} ({}) in {}", output::count(self.items, "item"), output::count(self.ids, "id"), output::count(self.jobs, "job")),
            format!("at most {}; {} free in the Ledger", in_tokens(self.max_cost), in_tokens(self.free)),
            "INPUTS AND OUTPUTS ARE PUBLIC: anybody can read the text's ids and the vectors".to_owned(),
        ];
        if self.listings == 0 {
            lines.push(format!(
                "no provider lists a price for this model now: the jobs stay open for {} s, and `quern job cancel --all` takes them back",
                self.args.offer.claim_within
            ));
        }
        context.out.note(&lines.join("\n"));
        if yes {
            return Ok(());
        }
        if !output::is_interactive() {
            let what = "inputs and outputs are public, and there is no terminal to ask on";
            return Err(Failure::usage(what, "nothing was posted; pass --yes if that is all right"));
        }
        if context.out.json {
            output::warn(&lines.join("\n"));
        }
        if output::confirm("Post?")? { Ok(()) } else { Err(Failure::new("not posted", "")) }
    }

    /// Stores the inputs and writes the run to the journal. From here on nothing is lost.
    pub(super) async fn record(&self, actor: &Actor, content: &Content, journal: &RunJournal, source: String) -> anyhow::Result<Run> {
        let domain = actor.market().deployment().domain();
        let mut jobs = Vec::with_capacity(self.jobs);
        for (index, batch) in (0..).zip(batches(&self.made, self.args.batch)?) {
            let prepared = PreparedInput::new(batch).map_err(ClientError::from)?;
            let input = prepared.store(&*content.local).await?;
            let spec = embed_spec(actor.account(), self.args.model, &input, &self.terms, salt(self.run, index))?;
            let (id, spec) = with_id(spec, &domain);
            jobs.push(PlannedJob { id, spec, origins: batch.iter().map(|item| item.origin).collect() });
        }
        let planned_at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let run = Run::new(self.run, planned_at, domain, actor.account(), self.args.model, source, jobs);
        journal.record(&run)?;
        Ok(run)
    }
}

#[cfg(test)]
mod tests {
    use quern_client::Balances;
    use quern_types::U256;

    use super::*;

    fn held(token: u64, free: u64) -> Balances {
        let tokens = |n: u64| Amount::from_units(u128::from(n) * Amount::ONE_TOKEN.units());
        let none = Amount::ZERO;
        Balances {
            token: tokens(token),
            free: tokens(free),
            escrow: none,
            stake: none,
            unbonding: none,
            lock: none,
            bond: none,
            gas: U256::ONE,
        }
    }

    #[test]
    fn missing_money_is_told_with_the_command_that_brings_it() {
        let needed = Amount::from_units(7 * Amount::ONE_TOKEN.units());
        assert!(check_money(&held(0, 7), needed).is_ok());
        let rich = check_money(&held(100, 2), needed).expect_err("5 missing");
        assert_eq!(rich.remedy, "`quern wallet deposit 5` brings it in");
        let poor = check_money(&held(1, 2), needed).expect_err("5 missing, 1 there");
        assert_eq!(poor.remedy, "get 4 tokens to the account first, then `quern wallet deposit 5`");
        let stuck = check_money(&Balances { gas: U256::ZERO, ..held(100, 100) }, needed).expect_err("no gas");
        assert!(stuck.what.contains("gas"));
    }
}
