//! `/v1/ledger`.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use quern_db::index::{Balance, MoveFilter, MoveRow};
use quern_types::{Address, Amount, B256, Bucket, Heads, JobId, Reason};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    answer::{self, Answer, ChangedView, PlaceView},
    params::{self, Params, Segment},
    problem::Problem,
};

/// Which moves.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MovesQuery {
    /// Only moves from or to this account.
    account: Option<String>,
    /// Only moves that belong to this job.
    job: Option<String>,
    /// Only moves with a greater sequence number: `next` of the page before.
    after: Option<String>,
    /// Rows of the page, 1 to 200; 50 if not given.
    limit: Option<String>,
}

/// Which balances.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BalancesQuery {
    /// `next` of the page before.
    after: Option<String>,
    /// Accounts of the page, 1 to 200; 50 if not given.
    limit: Option<String>,
}

/// One entry of the ledger.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MoveView {
    /// Position in the ledger, from 1, without gaps.
    seq: u64,
    /// Whose money it was; null for a bucket that belongs to nobody.
    #[schema(value_type = Option<String>)]
    from: Option<Address>,
    /// Where it stood.
    #[schema(value_type = String)]
    from_bucket: Bucket,
    /// Whose money it is now; null for a bucket that belongs to nobody.
    #[schema(value_type = Option<String>)]
    to: Option<Address>,
    /// Where it stands now.
    #[schema(value_type = String)]
    to_bucket: Bucket,
    /// How much.
    #[schema(value_type = String)]
    amount: Amount,
    /// Why.
    #[schema(value_type = String)]
    reason: Reason,
    /// The job it belongs to; null if to none.
    #[schema(value_type = Option<String>)]
    job: Option<JobId>,
    /// The ledger's head after it, as the contract says.
    #[schema(value_type = String)]
    ledger_head: B256,
    #[serde(flatten)]
    place: PlaceView,
}

/// What an account has, bucket by bucket; buckets that never held anything are left out.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AccountView {
    /// Whose; null for the buckets that belong to nobody.
    #[schema(value_type = Option<String>)]
    account: Option<Address>,
    /// Amount and last change by bucket: free, escrow, stake, unbonding, lock, bond; of nobody: burned, delayed, reward_pool.
    buckets: BTreeMap<String, BucketView>,
}

/// What is in one bucket.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BucketView {
    /// How much.
    #[schema(value_type = String)]
    amount: Amount,
    /// Where it last changed.
    changed: ChangedView,
}

fn move_view(heads: &Heads, row: &MoveRow) -> MoveView {
    let entry = &row.entry;
    MoveView {
        seq: entry.seq,
        from: answer::somebody(entry.from),
        from_bucket: entry.from_bucket,
        to: answer::somebody(entry.to),
        to_bucket: entry.to_bucket,
        amount: entry.amount,
        reason: entry.reason,
        job: (entry.reference != B256::ZERO).then_some(JobId(entry.reference)),
        ledger_head: row.head,
        place: PlaceView::new(heads, row.place),
    }
}

fn bucket_name(bucket: Bucket) -> String {
    // The name that serde gives it elsewhere in the API.
    serde_json::to_value(bucket).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_else(|| bucket.name().to_owned())
}

fn account_view(heads: &Heads, account: Address, balances: &[Balance]) -> AccountView {
    let buckets = balances
        .iter()
        .map(|balance| {
            (bucket_name(balance.bucket), BucketView { amount: balance.amount, changed: ChangedView::new(heads, balance.changed) })
        })
        .collect();
    AccountView { account: answer::somebody(account), buckets }
}

/// Ledger moves, oldest first.
#[utoipa::path(get, path = "/v1/ledger/moves", params(MovesQuery), tag = "ledger",
    responses((status = 200, body = Answer<Vec<MoveView>>), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn moves(State(api): State<Api>, Params(query): Params<MovesQuery>) -> Result<Json<Answer<Vec<MoveView>>>, Problem> {
    let filter = MoveFilter {
        account: params::given("account", query.account.as_deref(), params::address)?,
        job: params::given("job", query.job.as_deref(), params::job_id)?,
    };
    let after = params::given("after", query.after.as_deref(), params::number)?.unwrap_or(0);
    let limit = params::limit(query.limit.as_deref())?;
    let mut snapshot = api.snapshot().await?;
    let (heads, head) = answer::heads(&snapshot)?;
    let rows = snapshot.moves(&filter, after, limit + 1).await?;
    Ok(answer::page(head, rows, limit, |row| row.entry.seq.to_string(), |row| move_view(&heads, &row)))
}

/// Balances, by account.
#[utoipa::path(get, path = "/v1/ledger/balances", params(BalancesQuery), tag = "ledger",
    responses((status = 200, body = Answer<Vec<AccountView>>), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn balances(
    State(api): State<Api>,
    Params(query): Params<BalancesQuery>,
) -> Result<Json<Answer<Vec<AccountView>>>, Problem> {
    let after = params::given("after", query.after.as_deref(), params::address)?;
    let limit = params::limit(query.limit.as_deref())?;
    let mut snapshot = api.snapshot().await?;
    let (heads, head) = answer::heads(&snapshot)?;
    let rows = snapshot.balances(after, limit + 1).await?;
    let accounts: Vec<&[Balance]> = rows.chunk_by(|a, b| a.account == b.account).collect();
    let cursor = |balances: &&[Balance]| balances.first().map(|first| format!("{:?}", first.account)).unwrap_or_default();
    let view = |balances: &[Balance]| account_view(&heads, balances.first().map(|first| first.account).unwrap_or_default(), balances);
    Ok(answer::page(head, accounts, limit, cursor, view))
}

/// What one account has; an account that never had anything has no buckets.
#[utoipa::path(get, path = "/v1/ledger/balances/{account}", tag = "ledger", params(("account" = String, Path, description = "address")),
    responses((status = 200, body = Answer<AccountView>), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn balances_of(State(api): State<Api>, Segment(text): Segment) -> Result<Json<Answer<AccountView>>, Problem> {
    let account = params::address("account", &text)?;
    let mut snapshot = api.snapshot().await?;
    let (heads, head) = answer::heads(&snapshot)?;
    let balances = snapshot.balances_of(account).await?;
    Ok(answer::whole(head, account_view(&heads, account, &balances)))
}
