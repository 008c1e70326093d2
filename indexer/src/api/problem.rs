//! Refusals: RFC 9457, with a code for programs and an action for people.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Problem {
    /// The HTTP status.
    status: u16,
    /// For programs: `bad_parameter`, `unknown_parameter`, `not_found`, `no_such_route`, `method_not_allowed`, `not_started`, `busy`, `too_slow`,
    /// `internal`.
    code: &'static str,
    /// What is wrong.
    title: String,
    /// What to do.
    action: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, title: impl Into<String>, action: impl Into<String>) -> Self {
        Self { status: status.as_u16(), code, title: title.into(), action: action.into() }
    }

    /// A parameter that does not parse.
    pub(super) fn bad_parameter(name: &str, title: impl std::fmt::Display, action: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_parameter", format!("{name}: {title}"), action)
    }

    /// An id that names nothing.
    pub(super) fn not_found(what: &str, id: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("no {what} {id}"),
            "check the id and the chain; if it was made a moment ago, ask again when head.indexed has passed its block",
        )
    }

    /// Nothing was indexed yet.
    pub(super) fn not_started() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_started",
            "the indexer has not applied its first block yet",
            "ask again in a few seconds; if this stays, /health says why",
        )
    }
}

impl From<quern_db::Error> for Problem {
    fn from(error: quern_db::Error) -> Self {
        match error.severity() {
            quern_db::Severity::Retry => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "the database is busy", "ask again in a second")
            }
            quern_db::Severity::Fatal => {
                // The text may name files of this machine: it is for the log, not for the caller.
                error!(%error, "api.database");
                let action = "the operator of this indexer finds the reason in its log";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the database cannot be read", action)
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&self).unwrap_or_else(|_| format!("{{\"status\":{},\"code\":\"{}\"}}", self.status, self.code));
        let mut response = (status, body).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
