//! `/v1/models`.

use axum::{Json, extract::State};
use quern_db::index::Model;
use quern_types::{Address, B256, Heads, ModelId, PackageRoot};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    answer::{self, Answer, ChangedView, PlaceView},
    params::{self, Params, Segment},
    problem::Problem,
    providers::{MOST_PRICES, PriceView},
};

/// Which models.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ModelsQuery {
    /// `next` of the page before.
    before: Option<String>,
    /// Rows of the page, 1 to 200; 50 if not given.
    limit: Option<String>,
}

/// A model in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelSummary {
    /// Its id: package root, publisher and royalty.
    #[schema(value_type = String)]
    id: ModelId,
    /// Who registered it and gets the royalty.
    #[schema(value_type = String)]
    publisher: Address,
    /// Free text of the publisher: escape it where it is shown.
    name: String,
    /// Free text of the publisher, comma-separated: escape it where it is shown.
    tags: String,
    /// 1 encoder (embeddings), 2 decoder (generation).
    family: u8,
    /// Share of each fee, in 1/10,000.
    royalty_bps: u16,
    /// Linear multiply-adds per token.
    macs_per_token: u64,
    /// Jobs posted for it.
    jobs_posted: u64,
    /// Jobs of it that were paid.
    jobs_completed: u64,
    /// Where it was registered.
    registered: PlaceView,
    /// Where it last changed.
    changed: ChangedView,
}

/// A model, whole.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelView {
    #[serde(flatten)]
    summary: ModelSummary,
    /// The arithmetic: equal roots give equal bits.
    #[schema(value_type = String)]
    package_root: PackageRoot,
    /// The 40 words of docs/PROTOCOL.md, section 2.
    header: Vec<u32>,
    /// Root over all tensors.
    #[schema(value_type = String)]
    weights_root: B256,
    /// keccak of tokenizer.json; informative.
    #[schema(value_type = String)]
    tokenizer_hash: B256,
    /// CID codec of the package as announced last: 85 raw, 112 dag-pb.
    package_codec: u8,
    /// sha2-256 of the package's root block as announced last.
    #[schema(value_type = String)]
    package_digest: B256,
    /// What providers ask for it, at most 200, those with the most stake first.
    prices: Vec<PriceView>,
}

fn summary(heads: &Heads, model: &Model) -> ModelSummary {
    ModelSummary {
        id: model.model,
        publisher: model.publisher,
        name: model.registration.name.clone(),
        tags: model.registration.tags.clone(),
        family: model.family,
        royalty_bps: model.registration.royalty_bps,
        macs_per_token: model.macs_per_token,
        jobs_posted: model.jobs_posted,
        jobs_completed: model.jobs_completed,
        registered: PlaceView::new(heads, model.registered),
        changed: ChangedView::new(heads, model.changed),
    }
}

/// Models, newest registration first.
#[utoipa::path(get, path = "/v1/models", params(ModelsQuery), tag = "models",
    responses((status = 200, body = Answer<Vec<ModelSummary>>), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn models(State(api): State<Api>, Params(query): Params<ModelsQuery>) -> Result<Json<Answer<Vec<ModelSummary>>>, Problem> {
    let before = params::given("before", query.before.as_deref(), params::position)?;
    let limit = params::limit(query.limit.as_deref())?;
    let mut snapshot = api.snapshot().await?;
    let (heads, head) = answer::heads(&snapshot)?;
    let rows = snapshot.models(before, limit + 1).await?;
    let cursor = |model: &Model| format!("{}-{}", model.registered.block.number, model.registered.log_index);
    Ok(answer::page(head, rows, limit, cursor, |model| summary(&heads, &model)))
}

/// One model with its package and what is asked for it.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "models", params(("id" = String, Path, description = "0x and 64 hexadecimal digits")),
    responses((status = 200, body = Answer<ModelView>), (status = 400, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn model(State(api): State<Api>, Segment(text): Segment) -> Result<Json<Answer<ModelView>>, Problem> {
    let id = params::model_id("id", &text)?;
    let mut snapshot = api.snapshot().await?;
    let (heads, head) = answer::heads(&snapshot)?;
    let model = snapshot.model(id).await?.ok_or_else(|| Problem::not_found("model", &text))?;
    let prices = snapshot.prices_of_model(id, MOST_PRICES).await?;
    let (package_codec, package_digest) = model.package;
    let view = ModelView {
        summary: summary(&heads, &model),
        package_root: model.package_root,
        header: model.registration.header,
        weights_root: model.registration.weights_root,
        tokenizer_hash: model.registration.tokenizer_hash,
        package_codec,
        package_digest,
        prices: prices.iter().map(|price| PriceView::new(&heads, price)).collect(),
    };
    Ok(answer::whole(head, view))
}
