//! What all routes share: limits, metrics, and answers where no route is.

use std::time::{Duration, Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tower_http::limit::RequestBodyLimitLayer;

use super::{Api, problem::Problem};

/// Longest time for one answer.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// No route reads a body.
const MOST_BODY_BYTES: usize = 1_024;

/// Adds the routes that belong to no resource, the limits and the metrics.
pub(super) fn with_limits(router: Router<Api>, api: Api) -> Router {
    router
        .route("/metrics", get(metrics))
        .route("/v1/openapi.json", get(openapi))
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(RequestBodyLimitLayer::new(MOST_BODY_BYTES))
        .layer(middleware::from_fn(measured))
        .with_state(api)
}

/// Limits the time of an answer and counts it. The label is the route, never the path, so that strangers cannot make labels.
async fn measured(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let begun = Instant::now();
    let response = tokio::time::timeout(TIME_LIMIT, next.run(request)).await.unwrap_or_else(|_| {
        let title = format!("no answer within {} seconds", TIME_LIMIT.as_secs());
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_slow", title, "ask for a smaller page, or again later").into_response()
    });
    let status = response.status().as_u16().to_string();
    ::metrics::counter!("quern_indexer_http_requests_total", "route" => route.clone(), "status" => status).increment(1);
    ::metrics::histogram!("quern_indexer_http_request_seconds", "route" => route).record(begun.elapsed().as_secs_f64());
    response
}

async fn metrics(State(api): State<Api>) -> Response {
    let mut response = api.metrics.render().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    response
}

async fn openapi() -> Response {
    match super::openapi() {
        Ok(document) => ([(header::CONTENT_TYPE, "application/json")], document).into_response(),
        Err(error) => {
            tracing::error!(%error, "api.openapi");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "no document", "please report this").into_response()
        }
    }
}

async fn no_such_route(request: Request) -> Problem {
    let path: String = request.uri().path().chars().take(100).collect();
    Problem::new(StatusCode::NOT_FOUND, "no_such_route", format!("no route {path}"), "see /v1/openapi.json for all routes")
}

async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this API is read-only", "use GET")
}
