//! Where an answer leads, and what may go there (RFC 9110, 15.4): https never goes on to http, and what is secret stays where it was
//! given. A target has a query of its own or none, and nobody is told where we come from.

use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Method, StatusCode};
use url::Url;

/// More are a circle.
pub(crate) const MAX_REDIRECTS: usize = 10;

/// The URL that an answer to a request leads to; `None` where it is final.
///
/// # Errors
/// In words, where it must not be followed.
pub(crate) fn next(
    from: &Url,
    method: &Method,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<Option<Url>, String> {
    let reading = *method == Method::GET || *method == Method::HEAD;
    let followed = match status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        // Of these every other method becomes a GET, which is not what was asked for.
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => reading,
        _ => false,
    };
    let Some(target) = headers.get(LOCATION).filter(|_| followed) else { return Ok(None) };
    let target = target.to_str().ok().and_then(|target| from.join(target).ok());
    let target = target.ok_or("a redirect to what is no URL")?;
    match (from.scheme(), target.scheme()) {
        (_, "https") | ("http", "http") => Ok(Some(target)),
        ("https", "http") => Err("a redirect from https to plain http".into()),
        _ => Err("a redirect to something else than http".into()),
    }
}

/// Whether two URLs have one origin (RFC 6454): what is secret may go from one to the other.
#[must_use]
pub fn same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(from: &str, method: &Method, status: u16, to: &str) -> Result<Option<String>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, to.parse().unwrap());
        let status = StatusCode::from_u16(status).unwrap();
        next(&from.parse().unwrap(), method, status, &headers).map(|url| url.map(|url| url.to_string()))
    }

    #[test]
    fn https_never_goes_on_to_http_whatever_the_method() {
        for method in [&Method::GET, &Method::HEAD, &Method::PUT, &Method::POST] {
            let refused = led("https://a/x?secret=1", method, 307, "http://a/x");
            assert_eq!(refused, Err("a redirect from https to plain http".into()));
            assert_eq!(led("http://a/x", method, 308, "https://b/y"), Ok(Some("https://b/y".into())));
            assert!(led("https://a/x", method, 307, "ftp://a/x").is_err());
        }
        assert!(led("https://a/x", &Method::GET, 302, "file:///etc/passwd").is_err());
    }

    #[test]
    fn a_query_stays_and_an_upload_stays_one() {
        assert_eq!(led("https://a/x?sig=1", &Method::GET, 302, "/y"), Ok(Some("https://a/y".into())));
        assert_eq!(
            led("https://a/x?sig=1", &Method::GET, 301, "https://b/z?own=2"),
            Ok(Some("https://b/z?own=2".into()))
        );
        for status in [301, 302, 303] {
            assert_eq!(led("https://a/x", &Method::PUT, status, "https://a/y"), Ok(None));
            assert_eq!(led("https://a/x", &Method::POST, status, "https://a/y"), Ok(None));
        }
        assert_eq!(led("https://a/x", &Method::GET, 200, "https://a/y"), Ok(None));
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://a/x", "https://a:443/y?z"));
        assert!(!same("https://a/", "https://b/") && !same("https://a/", "http://a/"));
        assert!(!same("https://a/", "https://a:8443/"));
    }
}
