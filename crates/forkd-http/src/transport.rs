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
    /// `GET`, `HEAD` or `POST`.
    pub method: Method,
    pub url: Url,
    /// `Authorization` among them stays on the URL's origin.
    pub headers: HeaderMap,
    /// A form, which may hold a secret: it is sent to the URL's origin only.
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
    pub(crate) client: Client,
    pub(crate) options: HttpOptions,
    pub(crate) limit: Option<Arc<RateLimit>>,
}

impl Transport {
    pub(crate) fn new(options: &HttpOptions) -> reqwest::Result<Self> {
        let mut builder = Client::builder()
            .user_agent(concat!("forkd/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            // It would tell a redirect's target the query of the URL that led to it, and that may be a secret.
            .referer(false)
            .redirect(Policy::none())
            // A connection each: on a shared one (HTTP/2) the slowest reader holds up the others, several ranges are no faster
            // than one, and each takes a window of megabytes.
            .http1_only();
        if options.direct {
            builder = builder.no_proxy();
        }
        let limit = options.limit_rate.filter(|rate| *rate > 0).map(|rate| Arc::new(RateLimit::new(rate)));
        Ok(Self { client: builder.build()?, options: options.clone(), limit })
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
        let limit = self.options.connect_timeout + self.options.stall_timeout;
        let (mut url, mut own) = (request.url.clone(), true);
        for _ in 0..=MAX_REDIRECTS {
            // What has been elsewhere is not ours any more, should it come back.
            own &= same_origin(&request.url, &url);
            let mut asking = self.client.request(request.method.clone(), url.clone());
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

pub(crate) fn not_followed(what: &dyn Display, why: &str) -> Failure {
    Error::new(Kind::General, format!("{what}: {why}, which is not followed")).into()
}
