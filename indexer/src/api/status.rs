//! `/health`, `/live`, `/v1/status`.

use axum::{Json, extract::State, http::StatusCode};
use quern_db::index::{AlarmRow, IndexBinding, Snapshot};
use quern_types::{Address, Amount, B256};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    answer::{self, Answer, HeadView},
    problem::Problem,
};

/// Alarms that an answer writes out.
const ALARMS_SHOWN: u32 = 5;

/// How the indexer is doing, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Condition {
    /// Answers are fresh and consistent.
    Ok,
    /// No block was applied yet.
    Starting,
    /// Answers are old: behind the chain, or the node does not answer.
    Lagging,
    /// A rule that must hold does not: see `alarms` and `ledger`.
    Alarm,
    /// The database cannot be read.
    DatabaseFailed,
}

/// How the indexer is doing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HealthView {
    /// The heads it stands under; null before the first block, and where the database cannot be read.
    head: Option<HeadView>,
    /// In one word.
    status: Condition,
    /// The process.
    process: ProcessView,
    /// The database.
    database: DatabaseView,
    /// The chain.
    chain: ChainView,
    /// Rules that did not hold.
    alarms: AlarmsView,
    /// The last replay of the whole ledger; null before the first.
    ledger: Option<AuditView>,
}

/// The process.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProcessView {
    /// Version of the program.
    version: &'static str,
    /// Seconds since its start.
    uptime_secs: u64,
}

/// The database.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DatabaseView {
    /// Whether it can be read.
    readable: bool,
    /// Last block in it; null before the first.
    indexed: Option<u64>,
}

/// The chain as the indexer sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChainView {
    /// Newest block that the node told of; null before its first answer.
    latest: Option<u64>,
    /// Blocks that are not in the database yet; null before the node's first answer.
    lag_blocks: Option<u64>,
    /// Seconds since the node last gave an answer that could be used.
    silent_secs: u64,
    /// Whether the node answers now.
    answering: bool,
}

/// Rules that did not hold.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AlarmsView {
    /// How many.
    count: u64,
    /// The first of them.
    #[schema(value_type = Vec<Object>)]
    first: Vec<AlarmRow>,
}

/// A replay of the ledger.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditView {
    /// Whether every balance follows from the moves.
    agrees: bool,
    /// Entries replayed.
    entries: u64,
    /// The first differences.
    differences: Vec<String>,
}

/// Whether the answers of this indexer can be relied on now: 200 if so, else 503 with the reason.
#[utoipa::path(get, path = "/health", tag = "status", responses((status = 200, body = HealthView), (status = 503, body = HealthView)))]
pub(super) async fn health(State(api): State<Api>) -> (StatusCode, Json<HealthView>) {
    let chain = api.state.chain();
    let audit = api.state.audit();
    let read = read(&api).await;
    let readable = read.is_ok();
    let Read { head, cursor, alarms: (count, first) } = read.unwrap_or_default();
    let latest = chain.heads.map(|heads| heads.latest.number);
    let lag_blocks = latest.map(|latest| latest.saturating_sub(cursor.unwrap_or(0)));
    let differs = audit.as_ref().is_some_and(|audit| !audit.differences.is_empty());
    let status = if !readable {
        Condition::DatabaseFailed
    } else if count > 0 || differs {
        Condition::Alarm
    } else if cursor.is_none() {
        Condition::Starting
    } else if chain.silent > api.max_silence || lag_blocks.is_none_or(|lag| lag > api.max_lag_blocks) {
        Condition::Lagging
    } else {
        Condition::Ok
    };
    let view = HealthView {
        head,
        status,
        process: ProcessView { version: env!("CARGO_PKG_VERSION"), uptime_secs: api.state.uptime().as_secs() },
        database: DatabaseView { readable, indexed: cursor },
        chain: ChainView { latest, lag_blocks, silent_secs: chain.silent.as_secs(), answering: chain.last_error.is_none() },
        alarms: AlarmsView { count, first },
        ledger: audit.map(|audit| AuditView {
            agrees: audit.differences.is_empty(),
            entries: audit.entries,
            differences: audit.differences,
        }),
    };
    let code = if status == Condition::Ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(view))
}

/// What the database says of its own health.
#[derive(Debug, Default)]
struct Read {
    head: Option<HeadView>,
    /// Last block.
    cursor: Option<u64>,
    /// How many there are, and the first.
    alarms: (u64, Vec<AlarmRow>),
}

async fn read(api: &Api) -> Result<Read, Problem> {
    let mut snapshot = api.snapshot().await?;
    // None before the first block.
    let head = answer::heads(&snapshot).ok().map(|(_, head)| head);
    Ok(Read { head, cursor: snapshot.cursor().map(|block| block.number), alarms: snapshot.alarms(ALARMS_SHOWN).await? })
}

/// Whether the process runs: always 200. It says nothing of the chain, and so names no head.
#[utoipa::path(get, path = "/live", tag = "status", responses((status = 200, body = ProcessView)))]
pub(super) async fn live(State(api): State<Api>) -> Json<ProcessView> {
    Json(ProcessView { version: env!("CARGO_PKG_VERSION"), uptime_secs: api.state.uptime().as_secs() })
}

/// What this indexer follows, and how far it is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatusView {
    /// Chain id of the L2.
    chain_id: u64,
    /// Hash of block 0.
    #[schema(value_type = String)]
    genesis_hash: B256,
    /// First block of the deployment.
    deploy_block: u64,
    /// The contracts.
    contracts: ContractsView,
    /// Blocks of the chain that are not in the database yet.
    lag_blocks: u64,
    /// The ledger as a whole.
    ledger: LedgerView,
    /// Rules that did not hold; more than 0 is for a person, /health has them.
    alarms: u64,
}

/// The contracts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ContractsView {
    /// Money.
    #[schema(value_type = String)]
    ledger: Address,
    /// Jobs.
    #[schema(value_type = String)]
    job_market: Address,
    /// Providers.
    #[schema(value_type = String)]
    provider_registry: Address,
    /// Models.
    #[schema(value_type = String)]
    model_registry: Address,
}

/// The ledger as a whole.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LedgerView {
    /// Sequence number of the last entry; 0 before the first.
    seq: u64,
    /// Its head; zero before the first entry.
    #[schema(value_type = String)]
    head: B256,
    /// Deposits less withdrawals: what all balances add up to.
    #[schema(value_type = String)]
    total: Amount,
}

/// What this indexer follows, and how far it is.
#[utoipa::path(get, path = "/v1/status", tag = "status", responses((status = 200, body = Answer<StatusView>), (status = 503, body = Problem)))]
pub(super) async fn status(State(api): State<Api>) -> Result<Json<Answer<StatusView>>, Problem> {
    let mut snapshot = api.snapshot().await?;
    let (heads, head) = answer::heads(&snapshot)?;
    let newest = api.state.chain().heads.map_or(heads.latest.number, |heads| heads.latest.number);
    let lag_blocks = newest.saturating_sub(snapshot.cursor().map_or(0, |block| block.number));
    let view = view(&mut snapshot, api.index.binding(), lag_blocks).await?;
    Ok(answer::whole(head, view))
}

async fn view(snapshot: &mut Snapshot, binding: &IndexBinding, lag_blocks: u64) -> Result<StatusView, Problem> {
    let ledger = snapshot.ledger().await?;
    let (alarms, _) = snapshot.alarms(0).await?;
    Ok(StatusView {
        chain_id: binding.chain_id,
        genesis_hash: binding.genesis_hash,
        deploy_block: binding.first_block,
        contracts: ContractsView {
            ledger: binding.ledger,
            job_market: binding.market,
            provider_registry: binding.provider_registry,
            model_registry: binding.model_registry,
        },
        lag_blocks,
        ledger: ledger.map_or(LedgerView { seq: 0, head: B256::ZERO, total: Amount::ZERO }, |ledger| LedgerView {
            seq: ledger.seq,
            head: ledger.head,
            total: ledger.total,
        }),
        alarms,
    })
}
