//! Everything that can be known before money moves.

use std::{collections::BTreeMap, path::Path};

use quern_client::{
    Actor, Ask, ClientError, Facts, Item, Market, PlannedJob, PreparedInput, Provider, Run, RunJournal, Terms, batches, fetch_package,
    job_spec, salt, with_id,
};
use quern_model::Package;
use quern_types::{Address, Amount, B256, ContentId, JobKind, JobParameters, ModelId};

use super::Offer;
use crate::{
    app::Context,
    failure::Failure,
    output,
    session::{Content, in_tokens},
};

/// Candidates that the node is asked about, at most: each has staked.
const MOST_ASKED: usize = 32;

/// The model's package, proven to be the one that is registered: given, fetched before, or fetched now.
///
/// # Errors
/// A model that nobody registered, or of another kind; a package that is another one, or that no place has.
pub(crate) async fn package(
    context: &Context,
    market: &Market,
    facts: &Facts,
    content: &Content,
    model: ModelId,
    kind: JobKind,
    given: Option<&Path>,
) -> anyhow::Result<Package> {
    let record = market.model(model).await?;
    // A family's number is that of the kind of job that it does.
    if record.family != kind.code() {
        let (what, other) = match kind {
            JobKind::Embed => ("generates text and gives no embeddings", "choose an encoder, or `quern generate`: `quern model list`"),
            JobKind::Generate => ("gives embeddings and generates no text", "choose a decoder, or `quern embed`: `quern model list`"),
        };
        return Err(Failure::usage(format!("model {model} {what}"), other).into());
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

/// What somebody wants to buy.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// Of this model.
    pub(crate) model: ModelId,
    /// At this price.
    pub(crate) offer: &'a Offer,
    /// And this one per output id.
    pub(crate) output_price: Option<Amount>,
    /// In jobs of at most so many items.
    pub(crate) batch: usize,
    /// What is to be made of each item.
    pub(crate) ask: Ask,
    /// What the text is called.
    pub(crate) source: String,
}

/// What will be posted.
pub(crate) struct Plan<'a> {
    request: Request<'a>,
    made: Vec<Item>,
    terms: Terms,
    max_cost: Amount,
    free: Amount,
    ids: usize,
    jobs: usize,
    listings: usize,
    run: B256,
}

impl<'a> Request<'a> {
    /// Plans a run, and checks that it can be paid.
    ///
    /// # Errors
    /// No price, too high a price, too little money, a batch out of bounds.
    pub(crate) async fn plan(self, made: Vec<Item>, facts: &Facts, market: &Market, account: Address) -> anyhow::Result<Plan<'a>> {
        if made.iter().all(|item| item.ids.is_empty()) {
            return Err(ClientError::NoText.into());
        }
        let jobs = batches(&made, self.batch)?.len();
        let parameters = market.parameters().await?.job;
        let providers = facts.providers();
        let royalty_bps = facts.models().get(&self.model).map_or(0, |model| model.royalty_bps);
        let candidates = self.candidates(&providers, &made, &parameters, royalty_bps);
        let listings = candidates.len();
        let now = facts.last().map_or(0, |block| block.timestamp);
        let ids = made.iter().map(|item| item.ids.len()).sum();
        let Offer { item_price, input_price, base_price, .. } = self.offer;
        let given = [*base_price, *input_price, self.output_price, *item_price];
        let prices = if given.iter().any(Option::is_some) {
            given.map(Option::unwrap_or_default)
        } else {
            self.cheapest(&candidates, market).await?
        };
        let terms = self.terms(prices, now);
        let max_cost = terms.max_cost(&made, self.batch, &self.ask)?;
        if let Some(most) = self.offer.max_price
            && max_cost > most
        {
            let what = format!("the jobs can cost {}, more than --max-price {}", in_tokens(max_cost), in_tokens(most));
            return Err(Failure::new(what, "nothing was posted; raise --max-price, lower a price, or ask for less").into());
        }
        let balances = market.balances(account).await?;
        check_money(&balances, max_cost)?;
        Ok(Plan { request: self, ids, made, terms, max_cost, free: balances.free, jobs, listings, run: B256::new(rand::random()) })
    }

    /// The listings of providers who could take these jobs, the cheapest first: with a key that works and enough at stake. A listing alone is free, and
    /// would let anybody spoil everybody's default price.
    fn candidates(
        &self,
        providers: &BTreeMap<Address, Provider>,
        made: &[Item],
        parameters: &JobParameters,
        royalty_bps: u16,
    ) -> Vec<Candidate> {
        let only = self.offer.provider;
        let candidate = |(address, provider): (&Address, &Provider)| {
            let listed = provider.prices.get(&self.model)?;
            let prices = [listed.base, listed.input, listed.output, listed.item].map(|price| with_royalty(price, royalty_bps));
            let terms = self.terms(prices, 0);
            let fees = made.chunks(self.batch.max(1)).map(|part| terms.max_cost(part, part.len(), &self.ask));
            let dearest = fees.collect::<Result<Vec<_>, _>>().ok()?.into_iter().max()?;
            let lock = parameters.lock(dearest).ok()?;
            let cost = terms.max_cost(made, self.batch, &self.ask).ok()?;
            (!provider.operator.is_zero() && provider.staked >= lock).then_some(Candidate { provider: *address, prices, lock, cost })
        };
        let mut candidates: Vec<_> =
            providers.iter().filter(|(address, _)| only.is_none_or(|only| only == **address)).filter_map(candidate).collect();
        candidates.sort_by_key(|candidate| candidate.cost);
        candidates
    }

    /// The prices of the cheapest candidate whose stake is free now, else of the cheapest whose stake will be.
    async fn cheapest(&self, candidates: &[Candidate], market: &Market) -> anyhow::Result<[Amount; 4]> {
        let mut busy = None;
        for candidate in candidates.iter().take(MOST_ASKED) {
            let held = market.balances(candidate.provider).await?;
            if held.stake >= candidate.lock {
                return Ok(candidate.prices);
            }
            if held.stake.checked_add(held.lock).is_some_and(|whole| whole >= candidate.lock) {
                busy = busy.or(Some(candidate.prices));
            }
        }
        let model = self.model;
        let what = self.offer.provider.map_or_else(
            || format!("no provider with enough at stake lists a price for model {model}"),
            |provider| format!("provider {provider} does not list a price for model {model}, or has too little at stake for these jobs"),
        );
        let option = if self.ask == Ask::Embed { "--item-price" } else { "--output-price" };
        let remedy = format!("offer one yourself with {option} AMOUNT; `quern provider list` shows who provides");
        Ok(busy.ok_or_else(|| Failure::new(what, remedy))?)
    }

    fn terms(&self, [base, input, output, item]: [Amount; 4], now: u64) -> Terms {
        let Offer { ramp_floor_bps, ramp_secs, claim_within, deliver_within, provider, .. } = self.offer;
        Terms {
            base_price: base,
            input_price: input,
            output_price: if self.ask == Ask::Embed { Amount::ZERO } else { output },
            item_price: item,
            ramp_floor_bps: *ramp_floor_bps,
            ramp_secs: *ramp_secs,
            claim_by: now.saturating_add(u64::from(*claim_within)),
            deliver_within: *deliver_within,
            designated: provider.unwrap_or_default(),
        }
    }
}

/// A provider that could take the jobs, by its listing and what it has at stake.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    provider: Address,
    /// Per job, input id, output id and item: its listing, with the publisher's royalty on top.
    prices: [Amount; 4],
    /// Stake that the dearest of the jobs locks.
    lock: Amount,
    /// What all jobs cost at most.
    cost: Amount,
}

/// What a client pays so that a provider gets `price` after the royalty. ROUNDING: up.
fn with_royalty(price: Amount, royalty_bps: u16) -> Amount {
    let kept = 10_000u128.saturating_sub(royalty_bps.into()).max(1);
    Amount::from_units(price.units().saturating_mul(10_000).div_ceil(kept))
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

impl Plan<'_> {
    /// Says what is about to happen, and asks.
    ///
    /// # Errors
    /// Nobody to ask, or no.
    pub(crate) fn confirm(&self, context: &Context, yes: bool) -> Result<(), Failure> {
        let mut lines = vec![
            format!(
                "{} ({}) in {}",
                output::count(self.made.len(), "item"),
                output::count(self.ids, "id"),
                output::count(self.jobs, "job")
            ),
            format!("at most {}; {} free in the Ledger", in_tokens(self.max_cost), in_tokens(self.free)),
        ];
        match &self.request.ask {
            Ask::Embed => lines.push("INPUTS AND OUTPUTS ARE PUBLIC: anybody can read the text's ids and the vectors".to_owned()),
            Ask::Generate(sampling) => {
                let ids = self.made.len() as u128 * u128::from(self.request.ask.most_output());
                let (samples, most) =
                    (output::count(sampling.samples as usize, "sample"), output::count(sampling.max_output as usize, "id"));
                lines.push(format!("each item: {samples} of at most {most}; {ids} output ids in all"));
                lines.push("INPUTS AND OUTPUTS ARE PUBLIC: anybody can read the prompts and what is generated".to_owned());
            }
        }
        if self.listings == 0 {
            lines.push(format!(
                "no provider lists a price for this model now: the jobs stay open for {} s, and `quern job cancel --all` takes them back",
                self.request.offer.claim_within
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
    ///
    /// # Errors
    /// The store's and the journal's; a specification that the contract would refuse.
    pub(crate) async fn record(&self, context: &Context, actor: &Actor, content: &Content, journal: &RunJournal) -> anyhow::Result<Run> {
        let domain = actor.market().deployment().domain();
        let Request { model, ask, batch, source, .. } = &self.request;
        let mut jobs = Vec::with_capacity(self.jobs);
        for (index, batch) in (0..).zip(batches(&self.made, *batch)?) {
            let prepared = PreparedInput::new(batch).map_err(ClientError::from)?;
            let input = prepared.store(&*content.local).await?;
            let spec = job_spec(actor.account(), *model, &input, &self.terms, ask, salt(self.run, index))?;
            let (id, spec) = with_id(spec, &domain);
            jobs.push(PlannedJob { id, spec, origins: batch.iter().map(|item| item.origin).collect() });
        }
        let planned_at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let run = Run::new(self.run, planned_at, domain, actor.account(), *model, source.clone(), jobs);
        journal.record(&run)?;
        context.out.note(&format!(
            "run {}: {} in {}",
            run.id,
            output::count(self.made.len(), "item"),
            output::count(run.jobs.len(), "job")
        ));
        Ok(run)
    }
}

#[cfg(test)]
mod tests {
    use quern_client::Balances;
    use quern_types::U256;

    use quern_bindings::Prices;

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
    fn free_listing_of_an_enemy_spoils_nobodys_price() {
        let model = ModelId(B256::repeat_byte(7));
        let units = Amount::from_units;
        let prices = |item| Prices { base: units(0), input: units(0), output: units(0), item: units(item) };
        let provider = |operator: u8, staked, item| Provider {
            operator: Address::repeat_byte(operator),
            staked: units(staked),
            prices: [(model, prices(item))].into(),
            ..Provider::default()
        };
        let honest = Address::repeat_byte(3);
        let providers: BTreeMap<Address, Provider> = [
            (Address::repeat_byte(1), provider(9, 0, 1)),
            (Address::repeat_byte(2), provider(0, 1_000, 1)),
            // Two items of 40 and a factor of 2: 160 to be locked.
            (honest, provider(9, 160, 40)),
            (Address::repeat_byte(4), provider(9, 159, 41)),
        ]
        .into();
        let offer = Offer {
            item_price: None,
            input_price: None,
            base_price: None,
            max_price: None,
            ramp_floor_bps: 10_000,
            ramp_secs: 0,
            claim_within: 600,
            deliver_within: 600,
            provider: None,
        };
        let request = Request { model, offer: &offer, output_price: None, batch: 2, ask: Ask::Embed, source: String::new() };
        let parameters = JobParameters { challenge_window_secs: 1, min_lock: units(10), lock_factor_bps: 20_000, penalty_bps: 1 };
        let item = Item { origin: quern_client::Origin { line: 1, part: 0, parts: 1 }, ids: vec![5] };
        let made = [item.clone(), item.clone(), item];
        let found = request.candidates(&providers, &made, &parameters, 0);
        let expected = Candidate { provider: honest, prices: [0, 0, 0, 40].map(units), lock: units(160), cost: units(120) };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn listing_with_the_royalty_on_top_leaves_the_provider_what_it_lists() {
        for listed in [0, 1, 3, 9_999, 10_001, Amount::ONE_TOKEN.units(), (1 << 95) - 1] {
            for royalty_bps in [0, 1, 250, 3_333, 5_000] {
                let left = |paid: u128| paid - paid * u128::from(royalty_bps) / 10_000;
                let paid = with_royalty(Amount::from_units(listed), royalty_bps).units();
                assert!(left(paid) >= listed && paid <= 2 * listed, "{listed} at {royalty_bps}");
            }
        }
        assert_eq!(with_royalty(Amount::from_units(975), 250).units(), 1_000);
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
