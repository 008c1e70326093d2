//! `quern provider`: stake, operator key, offers.

use std::collections::BTreeMap;

use alloy::primitives::aliases::U96;
use clap::Subcommand;
use quern_bindings::abi::{IProviderRegistry, ProviderRegistry};
use quern_chain::sender::Call;
use quern_client::{Actor, Balances, Follower, Market, Provider, Scope};
use quern_types::{Address, Amount, ModelId};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    app::Context,
    args,
    failure::Failure,
    output,
    session::{self, act, acting, in_tokens, receipt_json, receipt_text},
};

/// Longest gateway URL that the registry takes, in bytes.
const MAX_GATEWAY_BYTES: usize = 256;

/// Commands of `quern provider`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "A provider is the address of its owner key. Keep that key cold: the worker runs with the operator key.",
    after_long_help = "How to become a provider:
  quern wallet deposit 100                      money into the Ledger
  quern provider stake 100                      of which a part is locked behind every job that you claim
  quern provider operator set ADDRESS           the key that the worker runs with; it works and can move no money
  quern provider price MODEL_ID --item 0.001    what you ask, at least
  quern worker run --provider ADDRESS --package DIR   on the worker's machine, with the operator key

While a worker runs, send nothing else with its operator key: `announce`, `price` and `unprice` take the owner's key too.

JSON of commands that send a transaction: {\"tx\",\"block\",\"gasUsed\",\"cost\"} and what was changed; amounts are strings of the smallest unit, cost is in wei."
)]
pub enum Command {
    /// Put free money at stake
    Stake {
        /// Whole tokens, such as 100
        #[arg(value_parser = args::tokens)]
        amount: Amount,
    },
    /// Start to take stake out; the clock of all that is unbonding starts anew
    Unstake {
        /// Whole tokens, such as 100
        #[arg(value_parser = args::tokens)]
        amount: Amount,
    },
    /// Put stake that is on its way out back
    CancelUnstake {
        /// Whole tokens, such as 100
        #[arg(value_parser = args::tokens)]
        amount: Amount,
    },
    /// Make all unbonded stake free money again, once its time is over
    Withdraw,
    /// Name, or show, the key that works for the provider
    #[command(subcommand)]
    Operator(Operator),
    /// Say where this provider serves content
    Announce {
        /// Base URL of a trustless gateway, such as https://me.example; an empty text says nowhere
        url: String,
        /// The provider, where the key is its operator's
        #[arg(long, value_name = "ADDRESS", value_parser = args::address)]
        provider: Option<Address>,
    },
    /// List prices for a model: what the provider is to get, at least. A part that is left out is 0
    #[command(
        after_long_help = "For a job of N items with I input ids and O output ids: base + I x input + O x output + N x item. The publisher's royalty comes out of what
the client pays, so a client pays more than that.

Example:
  quern provider price 0x5f… --base 0.01 --item 0.001

JSON: {\"modelId\",\"base\",\"input\",\"output\",\"item\",\"tx\",\"block\",\"gasUsed\",\"cost\"}"
    )]
    Price {
        /// The model, see `quern model list`
        model: ModelId,
        /// Whole tokens per job
        #[arg(long, value_name = "AMOUNT", value_parser = args::price)]
        base: Option<Amount>,
        /// Whole tokens per input id
        #[arg(long, value_name = "AMOUNT", value_parser = args::price)]
        input: Option<Amount>,
        /// Whole tokens per output id
        #[arg(long, value_name = "AMOUNT", value_parser = args::price)]
        output: Option<Amount>,
        /// Whole tokens per item
        #[arg(long, value_name = "AMOUNT", value_parser = args::price)]
        item: Option<Amount>,
        /// The provider, where the key is its operator's
        #[arg(long, value_name = "ADDRESS", value_parser = args::address)]
        provider: Option<Address>,
    },
    /// Take the prices for a model back: no more jobs of it
    Unprice {
        /// The model
        model: ModelId,
        /// The provider, where the key is its operator's
        #[arg(long, value_name = "ADDRESS", value_parser = args::address)]
        provider: Option<Address>,
    },
    /// Show one provider; needs no password
    #[command(after_long_help = STATUS_JSON)]
    Status {
        /// Its owner's address; default: that of the configured key
        #[arg(value_parser = args::address)]
        address: Option<Address>,
    },
    /// List every provider that ever presented itself, the largest stake first; needs no key
    #[command(after_long_help = STATUS_JSON)]
    List,
}

const STATUS_JSON: &str = "JSON, one object per provider: {\"provider\",\"operator\":ADDRESS|null,\"gateway\":URL|null,\"stake\",\"lock\",\"unbonding\",\"free\",\
    \"unbondedAt\":SECONDS|null,\"prices\":[{\"modelId\",\"base\",\"input\",\"output\",\"item\"}]}. Gateways are what providers say of themselves.";

/// Commands of `quern provider operator`.
#[derive(Debug, Subcommand)]
pub enum Operator {
    /// Name the key that claims and signs; the zero address: none
    Set {
        /// The operator's address: `quern key address NAME` shows it
        #[arg(value_parser = args::address)]
        address: Address,
    },
    /// Show the key that claims and signs now; needs no password
    #[command(after_long_help = "JSON: {\"provider\":ADDRESS,\"operator\":ADDRESS|null}")]
    Show {
        /// The provider; default: the address of the configured key
        #[arg(value_parser = args::address)]
        provider: Option<Address>,
    },
}

/// Runs `quern provider`.
///
/// # Errors
/// No key, no node, too little money; what the contracts refuse.
pub async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Stake { amount } => {
            let call = |registry| Call::new(registry, &ProviderRegistry::stakeCall { amount: amount.units() });
            change(context, "staking", call, json!({ "amount": amount }), &format!("{} at stake", in_tokens(amount))).await
        }
        Command::Unstake { amount } => unstake(context, amount).await,
        Command::CancelUnstake { amount } => {
            let call = |registry| Call::new(registry, &ProviderRegistry::cancelUnbondingCall { amount: amount.units() });
            change(context, "the cancellation", call, json!({ "amount": amount }), &format!("{} back at stake", in_tokens(amount))).await
        }
        Command::Withdraw => withdraw(context).await,
        Command::Operator(Operator::Set { address }) => {
            let call = |registry| Call::new(registry, &ProviderRegistry::setOperatorCall { operator: address });
            change(context, "naming the operator", call, json!({ "operator": address }), &format!("operator is {address}")).await
        }
        Command::Operator(Operator::Show { provider }) => {
            let provider = session::account(&context.config, provider)?;
            let operator = session::market(&context.config).await?.operator(provider).await?;
            let operator = Some(operator).filter(|address| !address.is_zero());
            let text = || {
                operator.map_or_else(|| "none: name one with `quern provider operator set ADDRESS`".into(), |address| address.to_string())
            };
            Ok(context.out.result(&json!({ "provider": provider, "operator": operator }), text)?)
        }
        Command::Announce { url, provider } => {
            check_gateway(&url)?;
            let provider = session::account(&context.config, provider)?;
            let call = |registry| Call::new(registry, &ProviderRegistry::announceCall { provider, gateway: url.clone() });
            change(context, "the announcement", call, json!({ "provider": provider, "gateway": url }), &format!("announced {url:?}")).await
        }
        Command::Price { model, base, input, output, item, provider } => {
            let given = Given { base, input, output, item };
            price(context, model, given, provider).await
        }
        Command::Unprice { model, provider } => {
            let provider = session::account(&context.config, provider)?;
            let call = |registry| Call::new(registry, &ProviderRegistry::unlistPriceCall { provider, modelId: model.0 });
            change(
                context,
                "taking the prices back",
                call,
                json!({ "provider": provider, "modelId": model }),
                &format!("no prices for {model}"),
            )
            .await
        }
        Command::Status { address } => {
            let address = session::account(&context.config, address)?;
            let market = session::market(&context.config).await?;
            let presented = presented(&market).await?.remove(&address).unwrap_or_default();
            let shown = Shown::read(&market, address, &presented).await?;
            Ok(context.out.result(&shown, || shown.text())?)
        }
        Command::List => list(context).await,
    }
}

/// Sends one transaction to the registry and says what it changed.
async fn change(
    context: &Context,
    action: &'static str,
    call: impl FnOnce(Address) -> Call,
    object: Value,
    text: &str,
) -> anyhow::Result<()> {
    let actor = acting(&context.config).await?;
    send(context, &actor, action, &call(registry(actor.market())), object, text).await
}

async fn send(context: &Context, actor: &Actor, action: &'static str, call: &Call, mut object: Value, text: &str) -> anyhow::Result<()> {
    let receipt = act(context, actor, action, call).await?;
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), receipt_json(&receipt)) {
        object.extend(more);
    }
    Ok(context.out.result(&object, || format!("{text}: {}", receipt_text(&receipt)))?)
}

fn registry(market: &Market) -> Address {
    market.deployment().contracts.provider_registry.address
}

async fn unstake(context: &Context, amount: Amount) -> anyhow::Result<()> {
    let actor = acting(&context.config).await?;
    let call = Call::new(registry(actor.market()), &ProviderRegistry::unstakeCall { amount: amount.units() });
    let receipt = act(context, &actor, "unstaking", &call).await?;
    let unbonded_at = actor.market().unbonded_at(actor.account()).await?;
    let mut object = receipt_json(&receipt);
    object["amount"] = json!(amount);
    object["unbondedAt"] = json!(unbonded_at);
    let text = || {
        let wait = unbonded_at.saturating_sub(receipt.block.timestamp);
        format!("{} unbonding for {wait} s, then `quern provider withdraw`: {}", in_tokens(amount), receipt_text(&receipt))
    };
    Ok(context.out.result(&object, text)?)
}

async fn withdraw(context: &Context) -> anyhow::Result<()> {
    let actor = acting(&context.config).await?;
    let (market, provider) = (actor.market(), actor.account());
    let amount = market.balances(provider).await?.unbonding;
    if amount.is_zero() {
        return Err(Failure::new("nothing is unbonding", "start with `quern provider unstake AMOUNT`").into());
    }
    let call = Call::new(registry(market), &ProviderRegistry::withdrawUnbondedCall { provider });
    send(context, &actor, "the withdrawal of stake", &call, json!({ "amount": amount }), &format!("{} free again", in_tokens(amount))).await
}

/// The parts of a price list as they were given.
#[derive(Debug, Clone, Copy)]
struct Given {
    base: Option<Amount>,
    input: Option<Amount>,
    output: Option<Amount>,
    item: Option<Amount>,
}

async fn price(context: &Context, model: ModelId, given: Given, provider: Option<Address>) -> anyhow::Result<()> {
    let prices = call_prices(given)?;
    let provider = session::account(&context.config, provider)?;
    let actor = acting(&context.config).await?;
    // A mistyped id would be listed for ever and never asked for.
    actor.market().model(model).await?;
    let call = ProviderRegistry::listPriceCall { provider, modelId: model.0, prices };
    let [base, input, output, item] = [given.base, given.input, given.output, given.item].map(Option::unwrap_or_default);
    let object = json!({ "provider": provider, "modelId": model, "base": base, "input": input, "output": output, "item": item });
    send(context, &actor, "listing the prices", &Call::new(registry(actor.market()), &call), object, &format!("prices listed for {model}"))
        .await
}

fn call_prices(given: Given) -> Result<IProviderRegistry::Prices, Failure> {
    if [given.base, given.input, given.output, given.item].iter().all(Option::is_none) {
        return Err(Failure::usage(
            "no price is given",
            "pass at least one of --base, --input, --output and --item; --base 0 asks nothing",
        ));
    }
    let part = |name: &str, amount: Option<Amount>| {
        let units = amount.unwrap_or_default().units();
        if units >> 96 == 0 {
            Ok(U96::from(units))
        } else {
            Err(Failure::usage(format!("--{name} is more than a job can pay"), "prices are in whole tokens"))
        }
    };
    Ok(IProviderRegistry::Prices {
        basePrice: part("base", given.base)?,
        inputPrice: part("input", given.input)?,
        outputPrice: part("output", given.output)?,
        itemPrice: part("item", given.item)?,
    })
}

fn check_gateway(url: &str) -> Result<(), Failure> {
    let remedy = "give the base URL of a trustless gateway, such as https://me.example or http://203.0.113.7:8480";
    if url.len() > MAX_GATEWAY_BYTES {
        return Err(Failure::usage(format!("the URL has {} bytes, and the registry takes {MAX_GATEWAY_BYTES}", url.len()), remedy));
    }
    let is_url = url.parse::<reqwest::Url>().is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if url.is_empty() || is_url { Ok(()) } else { Err(Failure::usage(format!("{url:?} is not an http(s) URL"), remedy)) }
}

/// What providers say of themselves, from every event since the deployment.
async fn presented(market: &Market) -> anyhow::Result<BTreeMap<Address, Provider>> {
    let mut follower = Follower::new(market.client().clone(), market.deployment(), Scope::None, session::stream_config())?;
    Ok(follower.catch_up().await?.providers())
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let market = session::market(&context.config).await?;
    let mut all = Vec::new();
    for (address, provider) in presented(&market).await? {
        all.push(Shown::read(&market, address, &provider).await?);
    }
    all.sort_by_key(|shown| std::cmp::Reverse(shown.stake.units().saturating_add(shown.lock.units())));
    if context.out.json {
        for shown in &all {
            context.out.json_line(shown)?;
        }
        return Ok(());
    }
    if all.is_empty() {
        return Ok(context.out.text("no provider has presented itself yet: `quern help provider` says how to become one")?);
    }
    let rows: Vec<Vec<String>> = all.iter().map(Shown::row).collect();
    Ok(context.out.text(&output::table(&["provider", "stake", "locked", "operator", "models", "gateway"], &rows))?)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    provider: Address,
    operator: Option<Address>,
    gateway: Option<String>,
    stake: Amount,
    lock: Amount,
    unbonding: Amount,
    free: Amount,
    unbonded_at: Option<u64>,
    prices: Vec<Price>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Price {
    model_id: ModelId,
    base: Amount,
    input: Amount,
    output: Amount,
    item: Amount,
}

impl Shown {
    async fn read(market: &Market, address: Address, presented: &Provider) -> anyhow::Result<Self> {
        let held = market.balances(address).await?;
        let unbonded_at = if held.unbonding.is_zero() { None } else { Some(market.unbonded_at(address).await?) };
        Ok(Self::new(address, presented, &held, unbonded_at))
    }

    fn new(provider: Address, presented: &Provider, held: &Balances, unbonded_at: Option<u64>) -> Self {
        let price = |(&model_id, prices): (&ModelId, &quern_bindings::Prices)| Price {
            model_id,
            base: prices.base,
            input: prices.input,
            output: prices.output,
            item: prices.item,
        };
        Self {
            provider,
            operator: Some(presented.operator).filter(|address| !address.is_zero()),
            gateway: Some(presented.gateway.clone()).filter(|url| !url.is_empty()),
            stake: held.stake,
            lock: held.lock,
            unbonding: held.unbonding,
            free: held.free,
            unbonded_at,
            prices: presented.prices.iter().map(price).collect(),
        }
    }

    fn row(&self) -> Vec<String> {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".into());
        vec![
            self.provider.to_string(),
            self.stake.to_tokens(),
            self.lock.to_tokens(),
            or_none(self.operator.map(|address| address.to_string())),
            self.prices.len().to_string(),
            or_none(self.gateway.as_deref().map(printable)),
        ]
    }

    fn text(&self) -> String {
        let or = |text: Option<String>, none: &str| text.unwrap_or_else(|| none.into());
        let until = self.unbonded_at.map_or_else(String::new, |at| format!(" (can be withdrawn after second {at}, Unix time)"));
        let mut lines = vec![
            format!("provider   {}", self.provider),
            format!("operator   {}", or(self.operator.map(|address| address.to_string()), "none: `quern provider operator set ADDRESS`")),
            format!("gateway    {}", or(self.gateway.as_deref().map(printable), "none announced")),
            format!("stake      {}", in_tokens(self.stake)),
            format!("locked     {}", in_tokens(self.lock)),
            format!("unbonding  {}{until}", in_tokens(self.unbonding)),
            format!("free       {}", in_tokens(self.free)),
        ];
        if self.prices.is_empty() {
            lines.push("prices     none: `quern provider price MODEL_ID --item AMOUNT`".into());
        }
        lines.extend(self.prices.iter().map(|price| {
            let Price { model_id, base, input, output, item } = price;
            let [base, input, output, item] = [base, input, output, item].map(|amount| amount.to_tokens());
            format!("price      {model_id}: {base} + {input} per input id + {output} per output id + {item} per item")
        }));
        lines.join("\n")
    }
}

/// TRUST: the text of a stranger, for a terminal: control characters, and those that turn the direction of writing, could change what a person reads.
fn printable(text: &str) -> String {
    let steers = |c: char| c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if steers(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn price_list_needs_one_part_and_fits_the_contract() {
        let none = Given { base: None, input: None, output: None, item: None };
        assert!(call_prices(none).is_err());
        let prices = call_prices(Given { item: Some(Amount::ONE_TOKEN), ..none }).expect("one part");
        assert_eq!(prices.itemPrice.to::<u128>(), Amount::ONE_TOKEN.units());
        assert_eq!(prices.basePrice.to::<u128>(), 0);
        let most = Amount::from_units((1 << 96) - 1);
        assert_eq!(call_prices(Given { base: Some(most), ..none }).expect("fits").basePrice.to::<u128>(), most.units());
        assert!(call_prices(Given { base: Some(Amount::from_units(1 << 96)), ..none }).is_err());
    }

    #[test]
    fn gateway_is_a_url_of_at_most_256_bytes_or_nothing() {
        for url in ["", "http://127.0.0.1:8480", "https://me.example"] {
            assert!(check_gateway(url).is_ok(), "{url}");
        }
        let long = format!("https://{}.example", "x".repeat(256));
        for url in ["me.example", "ipfs://x", "http://", long.as_str()] {
            assert!(check_gateway(url).is_err(), "{url}");
        }
    }

    #[test]
    fn text_of_a_stranger_cannot_steer_the_terminal() {
        assert_eq!(printable("http://x\u{1b}[2J\n\u{202e}"), "http://x\u{fffd}[2J\u{fffd}\u{fffd}");
    }
}
