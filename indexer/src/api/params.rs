//! What a caller may pass. Everything else is refused by name.

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::{StatusCode, request::Parts},
};
use quern_types::{Address, JobId, JobState, ModelId};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// Rows of a page where the caller does not say.
const DEFAULT_LIMIT: u32 = 50;
/// Most rows of a page.
const MOST_ROWS: u32 = 200;

/// The query of a request. Unknown keys are refused, so that a misspelt filter does not answer with everything.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(params) = Query::<T>::from_request_parts(parts, state).await.map_err(|rejection| {
            let action = "see /v1/openapi.json for the parameters of this path";
            Problem::new(StatusCode::BAD_REQUEST, "unknown_parameter", rejection.body_text(), action)
        })?;
        Ok(Self(params))
    }
}

/// The one variable segment of a path, as text.
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::bad_parameter("path", rejection.body_text(), "write the id in plain ASCII"))?;
        Ok(Self(text))
    }
}

/// An address: 0x and 40 hexadecimal digits; with both cases in it, its checksum (EIP-55) must hold.
pub(super) fn address(name: &str, text: &str) -> Result<Address, Problem> {
    let digits = text.strip_prefix("0x").unwrap_or_default();
    let hexadecimal = digits.len() == 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let one_case = |lower: bool| digits.bytes().all(|byte| !byte.is_ascii_alphabetic() || byte.is_ascii_lowercase() == lower);
    let refuse = |title: &str| Problem::bad_parameter(name, title, "write 0x and 40 hexadecimal digits");
    if !hexadecimal {
        return Err(refuse("not an address"));
    }
    if one_case(true) || one_case(false) {
        return text.parse().map_err(|_| refuse("not an address"));
    }
    Address::parse_checksummed(text, None).map_err(|_| refuse("the checksum does not hold, so a digit is probably wrong"))
}

/// A job id.
pub(super) fn job_id(name: &str, text: &str) -> Result<JobId, Problem> {
    text.parse().map_err(|error| Problem::bad_parameter(name, error, "copy the whole id, as `quern job list` prints it"))
}

/// A model id.
pub(super) fn model_id(name: &str, text: &str) -> Result<ModelId, Problem> {
    text.parse().map_err(|error| Problem::bad_parameter(name, error, "copy the whole id, as /v1/models prints it"))
}

/// A job state by its name.
pub(super) fn state(name: &str, text: &str) -> Result<JobState, Problem> {
    let names: Vec<String> = JobState::ALL.iter().map(|state| state.name().to_ascii_lowercase()).collect();
    let found = names.iter().position(|known| known == text).and_then(|position| JobState::ALL.get(position));
    found.copied().ok_or_else(|| Problem::bad_parameter(name, "no such state", format!("write one of {}", names.join(", "))))
}

/// The number of rows of a page.
pub(super) fn limit(text: Option<&str>) -> Result<u32, Problem> {
    let Some(text) = text else { return Ok(DEFAULT_LIMIT) };
    match number("limit", text) {
        Ok(limit @ 1..=200) => Ok(u32::try_from(limit).unwrap_or(MOST_ROWS)),
        _ => Err(Problem::bad_parameter("limit", "out of range", format!("write a number from 1 to {MOST_ROWS}"))),
    }
}

/// A number that a database can hold.
pub(super) fn number(name: &str, text: &str) -> Result<u64, Problem> {
    let refuse = || Problem::bad_parameter(name, "not a number", "pass what `next` of the page before said, or a whole number from 0");
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refuse());
    }
    text.parse::<i64>().ok().and_then(|number| u64::try_from(number).ok()).ok_or_else(refuse)
}

/// `block-log`: a position in the order of the chain.
pub(super) fn position(name: &str, text: &str) -> Result<(u64, u64), Problem> {
    let refuse = || Problem::bad_parameter(name, "not a page", "pass what `next` of the page before said, unchanged");
    let (block, log) = text.split_once('-').ok_or_else(refuse)?;
    Ok((number(name, block).map_err(|_| refuse())?, number(name, log).map_err(|_| refuse())?))
}

/// Parses a parameter that was given.
pub(super) fn given<T>(name: &str, text: Option<&str>, parse: impl Fn(&str, &str) -> Result<T, Problem>) -> Result<Option<T>, Problem> {
    text.map(|text| parse(name, text)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_with_a_wrong_digit_is_refused() {
        let right = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
        assert!(address("client", right).is_ok());
        assert!(address("client", &right.to_ascii_lowercase()).is_ok());
        assert!(address("client", &format!("0x{}", right[2..].to_ascii_uppercase())).is_ok());
        for wrong in [
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAEd",
            "5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0x",
            "",
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAe",
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed00",
            "0xZZAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        ] {
            assert!(address("client", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn number_is_digits_that_fit() {
        assert_eq!(number("after", "9223372036854775807").ok(), Some(u64::try_from(i64::MAX).expect("positive")));
        for wrong in ["", "-1", "+1", "1.0", "9223372036854775808", "99999999999999999999", " 1", "0x1"] {
            assert!(number("after", wrong).is_err(), "{wrong}");
        }
        assert_eq!(position("before", "12-3").ok(), Some((12, 3)));
        for wrong in ["12", "12-", "-3", "a-b", "1-2-3"] {
            assert!(position("before", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limit_has_a_default_and_a_bound() {
        assert_eq!(limit(None).ok(), Some(DEFAULT_LIMIT));
        assert_eq!(limit(Some("200")).ok(), Some(MOST_ROWS));
        for wrong in ["0", "201", "-1", "many"] {
            assert!(limit(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
