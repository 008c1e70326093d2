//! `/v1/providers`.

use axum::{Json, extract::State};
use quern_db::index::{Balance, Price, Provider};
use quern_types::{Address, Amount, Bucket, Heads, ModelId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    answer::{self, Answer, ChangedView},
    params::{self, Params, Segment},
    problem::Problem,
};

/// Most prices that an answer about one provider or one model holds.
pub(super) const MOST_PRICES: u32 = 200;

/// Which providers.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ProvidersQuery {
    /// `next` of the page before.
    after: Option<String>,
    /// Rows of the page, 1 to 200; 50 if not given.
    limit: Option<String>,
}

/// A provider in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProviderSummary {
    /// Owner address.
    #[schema(value_type = String)]
    provider: Address,
    /// Key that works for it now; null: none.
    #[schema(value_type = Option<String>)]
    operator: Option<Address>,
    /// URL of its content gateway, free text; empty: none.
    gateway: String,
    /// Jobs claimed.
    claimed: u64,
    /// Receipts submitted.
    submitted: u64,
    /// Jobs paid.
    completed: u64,
    /// Jobs not delivered.
    undelivered: u64,
    /// Convictions.
    slashed: u64,
    /// Fees less royalties.
    #[schema(value_type = String)]
    earned: Amount,
    /// Sum over its receipts as it claims, millijoules, as a decimal string.
    energy_millijoules: String,
    /// Where it last changed.
    changed: ChangedView,
}

/// A provider, whole.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProviderView {
    #[serde(flatten)]
    summary: ProviderSummary,
    /// Stake that can be locked.
    #[schema(value_type = String)]
    stake: Amount,
    /// Stake behind claimed jobs.
    #[schema(value_type = String)]
    lock: Amount,
    /// Stake on its way out.
    #[schema(value_type = String)]
    unbonding: Amount,
    /// When that can be withdrawn, Unix seconds; null if it never unbonded.
    unbonded_at: Option<u64>,
    /// What it asks, by model, at most 200.
    prices: Vec<PriceView>,
}

/// A listed price, in the token's smallest unit.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PriceView {
    /// Who asks.
    #[schema(value_type = String)]
    provider: Address,
    /// For which model.
    #[schema(value_type = String)]
    model: ModelId,
    /// Per job.
    #[schema(value_type = String)]
    base: Amount,
    /// Per input id.
    #[schema(value_type = String)]
    input: Amount,
    /// Per output id.
    #[schema(value_type = String)]
    output: Amount,
    /// Per item.
    #[schema(value_type = String)]
    item: Amount,
    /// Where it was listed.
    changed: ChangedView,
}

impl PriceView {
    pub(super) fn new(heads: &Heads, price: &Price) -> Self {
        Self {
            provider: price.provider,
            model: price.model,
            base: price.prices.base,
            input: price.prices.input,
            output: price.prices.output,
            item: price.prices.item,
            changed: ChangedView::new(heads, price.changed),
        }
    }
}

fn summary(heads: &Heads, row: Provider) -> ProviderSummary {
    ProviderSummary {
        provider: row.provider,
        operator: answer::somebody(row.operator),
        gateway: row.gateway,
        claimed: row.claimed,
        submitted: row.submitted,
        completed: row.completed,
        undelivered: row.undelivered,
        slashed: row.slashed,
        earned: row.earned,
        energy_millijoules: row.energy_millijoules.to_string(),
        changed: ChangedView::new(heads, row.changed),
    }
}

fn held(balances: &[Balance], bucket: Bucket) -> Amount {
    balances.iter().find(|balance| balance.bucket == bucket).map(|balance| balance.amount).unwrap_or_default()
}

/// Providers, by address.
#[utoipa::path(get, path = "/v1/providers", params(ProvidersQuery), tag = "providers",
    responses((status = 200, body = Answer<Vec<ProviderSummary>>), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn providers(
    State(api): State<Api>,
    Params(query): Params<ProvidersQuery>,
) -> Result<Json<Answer<Vec<ProviderSummary>>>, Problem> {
    let after = params::given("after", query.after.as_deref(), params::address)?;
    let limit = params::limit(query.limit.as_deref())?;
    let mut snapshot = api.snapshot().await?;
    let (heads, head) = answer::heads(&snapshot)?;
    let rows = snapshot.providers(after, limit + 1).await?;
    Ok(answer::page(head, rows, limit, |row| format!("{:?}", row.provider), |row| summary(&heads, row)))
}

/// One provider with its stake and its prices.
#[utoipa::path(get, path = "/v1/providers/{address}", tag = "providers", params(("address" = String, Path, description = "owner address")),
    responses((status = 200, body = Answer<ProviderView>), (status = 400, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn provider(State(api): State<Api>, Segment(text): Segment) -> Result<Json<Answer<ProviderView>>, Problem> {
    let address = params::address("address", &text)?;
    let mut snapshot = api.snapshot().await?;
    let (heads, head) = answer::heads(&snapshot)?;
    let row = snapshot.provider(address).await?.ok_or_else(|| Problem::not_found("provider", &text))?;
    let prices = snapshot.prices_of_provider(address, MOST_PRICES).await?;
    let balances = snapshot.balances_of(address).await?;
    let view = ProviderView {
        stake: held(&balances, Bucket::Stake),
        lock: held(&balances, Bucket::Lock),
        unbonding: held(&balances, Bucket::Unbonding),
        unbonded_at: (row.unbonded_at > 0).then_some(row.unbonded_at),
        prices: prices.iter().map(|price| PriceView::new(&heads, price)).collect(),
        summary: summary(&heads, row),
    };
    Ok(answer::whole(head, view))
}
