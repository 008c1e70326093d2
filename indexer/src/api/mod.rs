//! The HTTP API: read-only, JSON, every answer about the chain with the heads that it stands under.
//!
//! - An answer is `{"head": {...}, "data": ..., "next": ...}`; all of it is one committed state of the database. `/health` is an object of its own, with a
//!   `head` too; `/live` and `/metrics` are about the process and have none.
//! - Amounts are decimal strings in the token's smallest unit; block numbers, times (Unix seconds) and counts are numbers.
//! - `next` is what to pass as `before` or `after` for the next page, or null at the end.
//! - A refusal is `application/problem+json` (RFC 9457) with a `code` for programs and an `action` for people.
//! - Free text of strangers (names, tags, gateways) is passed on as it stands on the chain: escape it where it is shown.
//!
//! Module map: `answer` the envelope and what all rows share · `problem` refusals · `params` what a caller may pass · `jobs`, `providers`, `models`, `ledger`,
//! `status` the resources · `http` limits, metrics, routes that belong to none.

mod answer;
mod http;
mod jobs;
mod ledger;
mod models;
mod params;
mod problem;
mod providers;
mod status;

use std::{sync::Arc, time::Duration};

use axum::Router;
use quern_db::{Index, index::Snapshot};
use quern_telemetry::Metrics;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{IndexerConfig, State};
use problem::Problem;

/// What the handlers need. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Api {
    index: Arc<Index>,
    state: Arc<State>,
    metrics: Metrics,
    max_lag_blocks: u64,
    max_silence: Duration,
}

impl Api {
    /// An API over an index.
    #[must_use]
    pub fn new(index: Arc<Index>, state: Arc<State>, metrics: Metrics, config: &IndexerConfig) -> Self {
        Self { index, state, metrics, max_lag_blocks: config.max_lag_blocks, max_silence: config.max_silence }
    }

    async fn snapshot(&self) -> Result<Snapshot, Problem> {
        Ok(self.index.snapshot().await?)
    }
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Quern indexer",
    description = "Jobs, providers, models and every movement of money, as the chain says. Read-only. Every answer about the chain (all but /live) names the heads it stands \
                   under; every row says whether its block is latest (may go back), safe or finalized. Amounts are decimal strings in the token's smallest unit, times Unix seconds. Free text \
                   of strangers is passed on unescaped."
))]
struct Document;

fn documented() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(status::health))
        .routes(routes!(status::live))
        .routes(routes!(status::status))
        .routes(routes!(jobs::jobs))
        .routes(routes!(jobs::job))
        .routes(routes!(providers::providers))
        .routes(routes!(providers::provider))
        .routes(routes!(models::models))
        .routes(routes!(models::model))
        .routes(routes!(ledger::moves))
        .routes(routes!(ledger::balances))
        .routes(routes!(ledger::balances_of))
}

/// The API as a service.
pub fn router(api: Api) -> Router {
    let (router, _) = documented().split_for_parts();
    http::with_limits(router, api)
}

/// The OpenAPI document of this version, as it is committed in `docs/openapi.json`.
///
/// # Errors
/// The document cannot be written as JSON, which would be a defect.
pub fn openapi() -> Result<String, serde_json::Error> {
    let (_, document) = documented().split_for_parts();
    Ok(document.to_pretty_json()? + "\n")
}
