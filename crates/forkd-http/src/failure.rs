//! What went wrong, in words that hold no secret.

use forkd_core::{Error, Kind};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use std::fmt::Display;
use std::time::Duration;

/// Of a cause's words, in characters.
const MAX_REASON: usize = 200;

/// A try that failed, and how long the server wants to be left alone.
#[derive(Debug)]
pub struct Failure {
    pub error: Error,
    /// What the server asks for, as it says it.
    pub retry_after: Option<Duration>,
}

/// The outcome of one try.
pub type Try<T> = std::result::Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, retry_after: None }
    }
}

/// Where an answer is not a success: what it means.
pub(crate) fn refusal(what: &dyn Display, response: &Response) -> Option<Failure> {
    let status = response.status();
    let (kind, advice) = match status {
        _ if status.is_success() => return None,
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
    let error = Error::new(kind, format!("{what}: the server answers {status}")).hint(advice);
    Some(Failure { error, retry_after: retry_after(response.headers()) })
}

/// What reqwest says, without the URL that it would print.
pub(crate) fn network(what: &dyn Display, error: &reqwest::Error) -> Error {
    let mut words = Vec::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(tls) = as_tls(error) {
            return untrusted(what, tls);
        }
        words.push(error.to_string());
        cause = error.source();
    }
    // Only its words tell this apart from a host that the proxy cannot reach.
    if words.iter().any(|word| word.contains("SOCKS error: failed to create underlying connection")) {
        let message = format!("{what}: the SOCKS proxy cannot be reached");
        return Error::new(Kind::General, message).hint("see ALL_PROXY, HTTP_PROXY and HTTPS_PROXY");
    }
    let kind = if error.is_builder() || error.is_redirect() { Kind::General } else { Kind::Transient };
    // The last cause may repeat what a server sent.
    let reason = words.pop().unwrap_or_else(|| "the connection failed".into());
    let reason: String = reason.chars().take(MAX_REASON).collect();
    let how = if error.is_connect() {
        "cannot connect"
    } else if error.is_redirect() {
        "a redirect that cannot be followed"
    } else {
        "the connection broke"
    };
    Error::new(kind, format!("{what}: {how} ({reason})")).hint("try again")
}

/// TLS's own error, which I/O errors hold, one in the other.
fn as_tls<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    let mut error = error;
    while let Some(io) = error.downcast_ref::<std::io::Error>() {
        error = io.get_ref()?;
    }
    error.downcast_ref()
}

/// A server that TLS does not let us speak to: another try would not change that.
fn untrusted(what: &dyn Display, error: &rustls::Error) -> Error {
    use rustls::CertificateError as Certificate;
    let (why, hint) = match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            Certificate::Expired | Certificate::ExpiredContext { .. } => {
                ("the server's certificate has expired", "see whether this host's clock is right")
            }
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                ("the server's certificate is not valid yet", "see whether this host's clock is right")
            }
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                ("the server's certificate is for another name", "check the URL")
            }
            _ => ("the server's certificate is not trusted", TRUST),
        },
        rustls::Error::InvalidMessage(_) => ("the server does not speak TLS", "use http: if that is meant"),
        _ => ("TLS failed", TRUST),
    };
    let reason: String = error.to_string().chars().take(MAX_REASON).collect();
    Error::new(Kind::General, format!("{what}: {why} ({reason})")).hint(hint)
}

const TRUST: &str = "name a file with the certificate of its authority in SSL_CERT_FILE to trust that";

pub(crate) fn stalled(what: &dyn Display, after: Duration) -> Error {
    Error::new(Kind::Transient, format!("{what}: no byte in {} s", after.as_secs_f32())).hint("try again")
}

/// A small answer that does not come to its end.
pub(crate) fn late(what: &dyn Display, allowed: Duration) -> Error {
    let message = format!("{what}: not all of a small answer in {} s", allowed.as_secs_f32());
    Error::new(Kind::Transient, message).hint("try again")
}

/// An answer that is not one to what was asked.
pub(crate) fn unexpected(what: &dyn Display, expected: &str, found: &str) -> Error {
    Error::new(Kind::General, format!("{what}: expected {expected}; the server answers with {found}"))
}

pub(crate) fn changed(what: &dyn Display) -> Error {
    Error::Changed { location: what.to_string() }
}

/// How long a server wants to be left alone (RFC 9110, 10.2.3): seconds, or a date.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(then.duration_since(jiff::Timestamp::now()).try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, text.parse().unwrap());
        retry_after(&headers)
    }

    #[test]
    fn a_server_may_name_seconds_or_a_date() {
        assert_eq!(wanted("7"), Some(Duration::from_secs(7)));
        assert_eq!(wanted("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(wanted("Fri, 01 Jan 2100 00:00:00 GMT") > Some(Duration::from_secs(30)));
        assert_eq!(wanted("soon"), None);
    }
}
