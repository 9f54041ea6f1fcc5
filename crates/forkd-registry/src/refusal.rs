//! What a registry's answer means that is no success (distribution-spec 1.1, error codes).

use crate::reference::RegistryReference;
use forkd_core::{Cancel, Error, Kind};
use forkd_http::{Failure, HttpClient, SmallAnswer, retry_after};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

#[derive(Deserialize, Default)]
struct Refusals {
    #[serde(default)]
    errors: Vec<RefusalCode>,
}

#[derive(Deserialize)]
struct RefusalCode {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Refusals {
    fn has(&self, code: &str) -> bool {
        self.errors.iter().any(|error| error.code == code)
    }

    /// The registry's own words, fit for a message.
    fn words(&self) -> String {
        let error = self.errors.iter().find(|error| !error.code.is_empty() || !error.message.is_empty());
        error.map_or_else(String::new, |RefusalCode { code, message }| {
            format!(" ({}: {})", crate::shown::shown(code), crate::shown::shown(message))
        })
    }
}

/// What an answer about something below a repository means.
pub(crate) fn refusal(
    http: &HttpClient,
    response: Response,
    (reference, path): (&RegistryReference, &str),
    unauthorised: &dyn Fn() -> Error,
    cancel: &Cancel,
) -> Failure {
    let status = response.status();
    let (host, repository) = (reference.host(), reference.repository());
    let wait = retry_after(response.headers());
    let small = SmallAnswer { limit: 64 << 10, deadline: http.answer_deadline() };
    let said = http.read_small(response, small, host, cancel).ok();
    let said: Refusals = said.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let words = said.words();
    let error = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => unauthorised(),
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            let missing = |message: String| Error::new(Kind::NotFound, message);
            match path.split_once('/') {
                _ if said.has("NAME_UNKNOWN") => {
                    missing(format!("{host} has no repository '{repository}'")).hint("check the name")
                }
                Some(("manifests", name)) => missing(format!("{host} has no '{name}' in '{repository}'"))
                    .hint("check the name and tag"),
                _ => missing(format!("{reference}: the registry lacks {path}")),
            }
        }
        StatusCode::TOO_MANY_REQUESTS => {
            let message = format!("{host} answers {status}: too many requests in a short time");
            Error::new(Kind::Transient, message).hint("log in for more, or try again later")
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            Error::new(Kind::General, format!("{reference}: the registry does not allow that{words}"))
        }
        StatusCode::INSUFFICIENT_STORAGE => {
            let message = format!("{host} has no room left{words}");
            Error::new(Kind::Transient, message).hint("make room there, or ask for more")
        }
        _ if said.has("DIGEST_INVALID") => {
            let message = format!("{reference}: the registry found other bytes than the digest says{words}");
            Error::new(Kind::Integrity, message)
        }
        _ if is_transient(status) => {
            Error::new(Kind::Transient, format!("{host} answers {status}{words}")).hint("try again later")
        }
        _ => Error::new(Kind::General, format!("{reference}: the registry answers {status}{words}")),
    };
    Failure { error, retry_after: wait }
}

pub(crate) fn is_transient(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
        || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
}
