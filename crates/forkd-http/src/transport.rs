//! One request: sent, and led on as [`crate::redirect`] allows.

use crate::failure::{Failure, Try, late, network, stalled};
use crate::options::HttpOptions;
use crate::rate_limit::RateLimit;
use crate::redirect::{self, MAX_REDIRECTS, same_origin};
use crate::stop::{Stop, WaitEnd, watch};
use forkd_core::{Error, Kind};
use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response};
use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::Instant;
use url::Url;

/// A request without a body to speak of.
#[derive(Clone)]
pub struct HttpRequest {
    /// Any; what has a body goes with it to where a redirect leads, if the method is kept.
    pub method: Method,
    pub url: Url,
    /// `Authorization` among them stays on the URL's origin.
    pub headers: HeaderMap,
    /// A form or another short body, which may hold a secret: it is sent to the URL's origin only.
    pub form: Option<String>,
    /// Until when all of a small answer must be here, its redirects included; see [`crate::HttpClient::answer_deadline`].
    pub deadline: Option<Instant>,
}

impl fmt::Debug for HttpRequest {
    /// Without what may be secret: query, headers and form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.method, self.url.host_str().unwrap_or_default(), self.url.path())
    }
}

impl HttpRequest {
    /// A `GET` without headers of its own.
    #[must_use]
    pub fn get(url: Url) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new(), form: None, deadline: None }
    }
}

/// The connections, and what all requests share.
#[derive(Debug)]
pub(crate) struct Transport {
    client: Client,
    /// The same past all proxies.
    direct: Client,
    pub(crate) options: HttpOptions,
    pub(crate) limit: Option<Arc<RateLimit>>,
}

impl Transport {
    pub(crate) fn new(options: &HttpOptions) -> reqwest::Result<Self> {
        let builder = || {
            Client::builder()
                .user_agent(concat!("forkd/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(options.connect_timeout)
                // It would tell a redirect's target the query of the URL that led to it, and that may be a secret.
                .referer(false)
                .redirect(Policy::none())
                // A connection each: on a shared one (HTTP/2) the slowest reader holds up the others, several ranges are no faster
                // than one, and each takes a window of megabytes.
                .http1_only()
        };
        let limit = options.limit_rate.filter(|rate| *rate > 0).map(|rate| Arc::new(RateLimit::new(rate)));
        let direct = builder().no_proxy().build()?;
        let client = if options.direct { direct.clone() } else { builder().build()? };
        Ok(Self { client, direct, options: options.clone(), limit })
    }

    /// What speaks to a URL's host.
    pub(crate) fn client(&self, url: &Url) -> &Client {
        if self.options.direct_hosts.iter().any(|entry| is_named(entry, url)) {
            &self.direct
        } else {
            &self.client
        }
    }

    /// Until when all of a small answer must be here that is asked for now.
    pub(crate) fn answer_deadline(&self) -> Instant {
        Instant::now() + self.options.answer_timeout
    }

    /// Sends once, and follows where the answer leads. `what` names the request in messages; no URL is shown.
    pub(crate) async fn send(
        &self,
        request: &HttpRequest,
        what: &(dyn Display + Sync),
        stop: &Stop,
    ) -> Try<Response> {
        if self.options.offline {
            let message = format!("{what} was not asked: forkd is offline");
            let hint = "unset FORKD_OFFLINE, or `offline` in config.toml";
            return Err(Error::new(Kind::Transient, message).hint(hint).into());
        }
        let limit = self.options.connect_timeout + self.options.stall_timeout;
        let (mut url, mut own) = (request.url.clone(), true);
        for _ in 0..=MAX_REDIRECTS {
            // What has been elsewhere is not ours any more, should it come back.
            own &= same_origin(&request.url, &url);
            let mut asking = self.client(&url).request(request.method.clone(), url.clone());
            for (name, value) in request.headers.iter().filter(|(name, _)| own || **name != AUTHORIZATION) {
                asking = asking.header(name, value);
            }
            asking = match &request.form {
                Some(_) if !own => {
                    let message = format!("{what}: a redirect that would take credentials to another host");
                    return Err(Error::new(Kind::General, message).into());
                }
                Some(form) => asking.body(form.clone()),
                None => asking,
            };
            let response = match watch(asking.send(), limit, stop).await {
                WaitEnd::Value(answer) => answer.map_err(|e| network(what, &e))?,
                WaitEnd::Stalled => return Err(stalled(what, limit).into()),
                WaitEnd::Late => return Err(late(what, self.options.answer_timeout).into()),
                WaitEnd::Stopped => return Err(Error::Interrupted.into()),
            };
            match redirect::next(&url, &request.method, response.status(), response.headers()) {
                Ok(None) => return Ok(response),
                Ok(Some(next)) => url = next,
                Err(why) => return Err(not_followed(what, &why)),
            }
        }
        Err(not_followed(what, &format!("more than {MAX_REDIRECTS} redirects")))
    }
}

/// Whether an entry of `NO_PROXY` is everything, or with a port this host or a domain that it is in.
fn is_named(entry: &str, url: &Url) -> bool {
    if entry.trim() == "*" {
        return true;
    }
    let Some((name, port)) = entry.trim().rsplit_once(':') else { return false };
    let (Ok(port), Some(host)) = (port.parse::<u16>(), url.host_str()) else { return false };
    let (name, host) = (
        name.trim_start_matches("*.").trim_start_matches('.').to_ascii_lowercase(),
        host.to_ascii_lowercase(),
    );
    let inside = host.strip_suffix(&name).is_some_and(|before| before.is_empty() || before.ends_with('.'));
    !name.is_empty() && inside && url.port_or_known_default() == Some(port)
}

pub(crate) fn not_followed(what: &dyn Display, why: &str) -> Failure {
    Error::new(Kind::General, format!("{what}: {why}, which is not followed")).into()
}

#[cfg(test)]
mod tests {
    use super::is_named;

    #[test]
    fn no_proxy_names_hosts_with_ports() {
        let named = |entry: &str, url: &str| is_named(entry, &url.parse().unwrap());
        for (entry, url) in [
            ("hub.example:8080", "http://hub.example:8080/x"),
            ("*", "http://127.0.0.1/"),
            (" HUB.example:443", "https://hub.example/x"),
            (".example:80", "http://hub.example/"),
            ("example:80", "http://hub.example/"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2/"),
            ("[::1]:5000", "http://[::1]:5000/v2/"),
        ] {
            assert!(named(entry, url), "{entry} {url}");
        }
        for (entry, url) in [
            ("hub.example:8080", "http://hub.example/x"),
            ("ub.example:80", "http://hub.example/"),
            ("hub.example", "http://hub.example/"),
            (":80", "http://hub.example/"),
            ("hub.example:x", "http://hub.example/"),
        ] {
            assert!(!named(entry, url), "{entry} {url}");
        }
    }
}
