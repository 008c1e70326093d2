//! `/v1/jobs`.

use axum::{Json, extract::State};
use quern_db::index::{Change, EventRow, Job, JobFilter};
use quern_types::{Address, Amount, B256, Heads, JobId, JobKind, JobSpec, JobState, ModelId, Receipt};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    answer::{self, Answer, PlaceView},
    params::{self, Params, Segment},
    problem::Problem,
};

/// Which jobs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct JobsQuery {
    /// Only jobs in this state: open, claimed, submitted, challenged, completed, refunded, slashed.
    state: Option<String>,
    /// Only jobs of this client.
    client: Option<String>,
    /// Only jobs that this provider claimed.
    provider: Option<String>,
    /// Only jobs for this model.
    model: Option<String>,
    /// `next` of the page before.
    before: Option<String>,
    /// Rows of the page, 1 to 200; 50 if not given.
    limit: Option<String>,
}

/// A job in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobSummary {
    /// Its id.
    #[schema(value_type = String)]
    id: JobId,
    /// open, claimed, submitted, challenged, completed, refunded or slashed.
    #[schema(value_type = String)]
    state: JobState,
    /// embed or generate.
    #[schema(value_type = String)]
    kind: JobKind,
    /// Who pays.
    #[schema(value_type = String)]
    client: Address,
    /// Who claimed it; null while nobody has.
    #[schema(value_type = Option<String>)]
    provider: Option<Address>,
    /// The model.
    #[schema(value_type = String)]
    model: ModelId,
    /// Items of its input.
    items: u32,
    /// What the client put into escrow.
    #[schema(value_type = String)]
    max_fee: Amount,
    /// What the job cost, the royalty included; null while it lives, "0" if nothing was paid.
    #[schema(value_type = Option<String>)]
    fee: Option<Amount>,
    /// Where it was posted.
    posted: PlaceView,
    /// Where it last changed: how firmly its state stands.
    changed: PlaceView,
}

/// A job, whole.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobView {
    #[serde(flatten)]
    summary: JobSummary,
    /// The specification, field by field as in docs/PROTOCOL.md, section 3; its EIP-712 digest is the id.
    #[schema(value_type = Object)]
    spec: JobSpec,
    /// When the price began to rise, Unix seconds.
    posted_at: u64,
    /// The claim; null before it.
    claim: Option<ClaimView>,
    /// What the provider attests, as in docs/PROTOCOL.md, section 4, energy included; null before it.
    #[schema(value_type = Option<Object>)]
    receipt: Option<Receipt>,
    /// The receipt in force; null before it.
    submission: Option<SubmissionView>,
    /// Challenges that are open.
    challenges_open: u16,
    /// How it ended; null while it lives.
    settlement: Option<SettlementView>,
    /// Everything that happened to it, in order.
    history: Vec<HistoryView>,
}

/// A claim.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClaimView {
    /// Who has the job.
    #[schema(value_type = String)]
    provider: Address,
    /// The key that works on it.
    #[schema(value_type = String)]
    operator: Address,
    /// The price, in 1/10,000 of the maximum.
    price_bps: u16,
    /// Last second to submit, Unix seconds.
    deadline: u64,
    /// Stake behind the job.
    #[schema(value_type = String)]
    lock: Amount,
    /// Where it was claimed.
    place: PlaceView,
}

/// A submission.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SubmissionView {
    /// The EIP-712 digest that the operator signed.
    #[schema(value_type = String)]
    digest: B256,
    /// Last second to challenge it, Unix seconds.
    window_end: u64,
    /// Where it was submitted.
    place: PlaceView,
}

/// Who got what at the end.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SettlementView {
    /// completed, cancelled, expired, undelivered or slashed.
    #[schema(value_type = String)]
    ending: quern_db::index::Ending,
    /// What the job cost, the royalty included.
    #[schema(value_type = String)]
    fee: Amount,
    /// The publisher's part of the fee.
    #[schema(value_type = String)]
    royalty: Amount,
    /// What the client got back out of its escrow.
    #[schema(value_type = String)]
    refund: Amount,
    /// What the client got out of the provider's lock.
    #[schema(value_type = String)]
    penalty: Amount,
    /// Where it ended.
    place: PlaceView,
}

/// One event about a job.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HistoryView {
    /// Name of the event in Solidity.
    event: String,
    /// State of the job from then on; null if the event does not change it.
    #[schema(value_type = Option<String>)]
    state: Option<JobState>,
    #[serde(flatten)]
    place: PlaceView,
    /// Every field of the event, but for the specification and the receipt, which stand above.
    #[schema(value_type = Object)]
    fields: serde_json::Value,
}

fn summary(heads: &Heads, job: &Job) -> JobSummary {
    JobSummary {
        id: job.job,
        state: job.state,
        kind: job.spec.kind,
        client: job.spec.client,
        provider: job.claim.as_ref().map(|claim| claim.provider),
        model: job.spec.model_id,
        items: job.spec.item_count,
        max_fee: job.max_fee,
        fee: job.settlement.as_ref().map(|settlement| settlement.fee),
        posted: PlaceView::new(heads, job.posted),
        changed: PlaceView::new(heads, job.changed),
    }
}

fn view(heads: &Heads, job: Job, history: Vec<EventRow>) -> JobView {
    JobView {
        summary: summary(heads, &job),
        posted_at: job.posted_at,
        claim: job.claim.map(|claim| ClaimView {
            provider: claim.provider,
            operator: claim.operator,
            price_bps: claim.price_bps,
            deadline: claim.deadline,
            lock: claim.lock,
            place: PlaceView::new(heads, claim.place),
        }),
        receipt: job.submission.as_ref().map(|submission| submission.receipt),
        submission: job.submission.map(|submission| SubmissionView {
            digest: submission.digest,
            window_end: submission.window_end,
            place: PlaceView::new(heads, submission.place),
        }),
        challenges_open: job.challenges_open,
        settlement: job.settlement.map(|settlement| SettlementView {
            ending: settlement.ending,
            fee: settlement.fee,
            royalty: settlement.royalty,
            refund: settlement.refund,
            penalty: settlement.penalty,
            place: PlaceView::new(heads, settlement.place),
        }),
        history: history.into_iter().map(|row| entry(heads, &row)).collect(),
        spec: job.spec,
    }
}

fn entry(heads: &Heads, row: &EventRow) -> HistoryView {
    let mut fields = fields(&row.change);
    if let Some(fields) = fields.as_object_mut() {
        for shown_elsewhere in ["event", "job", "spec", "receipt"] {
            fields.remove(shown_elsewhere);
        }
    }
    HistoryView { event: row.change.name().to_owned(), state: row.state, place: PlaceView::new(heads, row.place), fields }
}

fn fields(change: &Change) -> serde_json::Value {
    // It was read from JSON a moment ago.
    serde_json::to_value(change).unwrap_or_default()
}

/// Jobs, newest first.
#[utoipa::path(get, path = "/v1/jobs", params(JobsQuery), tag = "jobs",
    responses((status = 200, body = Answer<Vec<JobSummary>>), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn jobs(State(api): State<Api>, Params(query): Params<JobsQuery>) -> Result<Json<Answer<Vec<JobSummary>>>, Problem> {
    let filter = JobFilter {
        state: params::given("state", query.state.as_deref(), params::state)?,
        client: params::given("client", query.client.as_deref(), params::address)?,
        provider: params::given("provider", query.provider.as_deref(), params::address)?,
        model: params::given("model", query.model.as_deref(), params::model_id)?,
    };
    let before = params::given("before", query.before.as_deref(), params::position)?;
    let limit = params::limit(query.limit.as_deref())?;
    let mut snapshot = api.snapshot().await?;
    let (heads, head) = answer::heads(&snapshot)?;
    let rows = snapshot.jobs(&filter, before, limit + 1).await?;
    let cursor = |job: &Job| format!("{}-{}", job.posted.block.number, job.posted.log_index);
    Ok(answer::page(head, rows, limit, cursor, |job| summary(&heads, &job)))
}

/// One job with its specification, receipt and history.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "0x and 64 hexadecimal digits")),
    responses((status = 200, body = Answer<JobView>), (status = 400, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn job(State(api): State<Api>, Segment(text): Segment) -> Result<Json<Answer<JobView>>, Problem> {
    let id = params::job_id("id", &text)?;
    let mut snapshot = api.snapshot().await?;
    let (heads, head) = answer::heads(&snapshot)?;
    let job = snapshot.job(id).await?.ok_or_else(|| Problem::not_found("job", &text))?;
    let history = snapshot.job_events(id).await?;
    Ok(answer::whole(head, view(&heads, job, history)))
}
