//! What went wrong, in words that hold no secret.

use super::wait::retry_after;
use forkd_core::hub::Location;
use forkd_core::{Error, Kind};
use reqwest::header::LOCATION;
use reqwest::{Response, StatusCode};
use std::time::Duration;

/// A try that failed, and how long the server wants to be left alone.
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) retry_after: Option<Duration>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, retry_after: None }
    }
}

/// Where an answer is not a success: what it means.
pub(super) fn refusal(location: &Location, response: &Response) -> Option<Failed> {
    let status = response.status();
    let (kind, advice) = match status {
        _ if status.is_success() => return None,
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
            if response.headers().contains_key(LOCATION) =>
        {
            return None;
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => (Kind::NotFound, "check the URL"),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            (Kind::Unauthorised, "the server refuses these credentials; a presigned URL may have expired")
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => (Kind::Transient, "try again later"),
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => {
            (Kind::General, "the server does not take this request")
        }
        _ if status.is_server_error() => (Kind::Transient, "try again later"),
        _ => (Kind::General, "the server does not accept this request"),
    };
    let error = Error::new(kind, format!("{location}: the server answers {status}; {advice}"));
    Some(Failed { error, retry_after: retry_after(response.headers()) })
}

/// What reqwest says, without the URL that it would print.
pub(super) fn network(location: &Location, error: &reqwest::Error) -> Error {
    let mut words = Vec::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        words.push(error.to_string());
        cause = error.source();
    }
    let kind = if error.is_builder() || error.is_redirect() { Kind::General } else { Kind::Transient };
    let reason = words.pop().unwrap_or_else(|| "the connection failed".into());
    let what = if error.is_connect() {
        "cannot connect"
    } else if error.is_redirect() {
        "a redirect that cannot be followed"
    } else {
        "the connection broke"
    };
    Error::new(kind, format!("{location}: {what} ({reason})")).hint("try again")
}

pub(super) fn stalled(location: &Location, after: Duration) -> Error {
    Error::new(Kind::Transient, format!("{location}: no byte in {} s", after.as_secs_f32())).hint("try again")
}

/// An answer that is not one to what was asked.
pub(super) fn unexpected(location: &Location, expected: &str, found: &str) -> Error {
    Error::new(Kind::General, format!("{location}: expected {expected}; the server answers with {found}"))
}

pub(super) fn changed(location: &Location) -> Error {
    Error::Changed { location: location.to_string() }
}
