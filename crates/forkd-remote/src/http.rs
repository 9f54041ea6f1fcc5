//! `http:` and `https:`, through reqwest. The rest of forkd reads and writes with threads, so a small runtime does the network's
//! part and hands bytes over a bounded channel.

mod ask;
mod body;
mod errors;
mod limit;
mod upload;
mod wait;

use ask::{Fetcher, Reply, beyond, validator};
use body::{Body, Pump, channel};
use forkd_core::hub::{Answer, Download, Location, Request};
use forkd_core::{Cancel, Error, Kind, Result};
use limit::Limiter;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};
use wait::{Stop, Tries};

/// How patient to be, and how greedy.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// Without a single byte moving.
    pub stall_timeout: Duration,
    /// Tries without a byte of progress, the first included.
    pub tries: u32,
    /// Before the second try; doubled each time.
    pub backoff: Duration,
    /// Bytes per second over all connections, downloads and uploads together; `None` or 0 for no limit.
    pub limit_rate: Option<u64>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            tries: 4,
            backoff: Duration::from_millis(400),
            limit_rate: None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Http {
    fetcher: Arc<Fetcher>,
    /// For uploads: a redirect that would turn them into a download is not followed.
    uploader: Client,
    network: Handle,
    /// Held for its threads only, until this value is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Http {
    fn drop(&mut self) {
        // A name that is being resolved cannot be interrupted, and the user shall not wait for it.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn client(options: &HttpOptions) -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("forkd/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(options.connect_timeout)
        // It would tell a redirect's target the query of the URL that led to it, and that may be a secret.
        .referer(false)
}

/// Downloads have a connection each: on a shared one (HTTP/2) the slowest reader holds up the others, several ranges are no
/// faster than one, and each takes a window of megabytes.
fn download_client(options: &HttpOptions) -> reqwest::Result<Client> {
    client(options).http1_only().build()
}

impl Http {
    pub(crate) fn new(options: &HttpOptions) -> Result<Self> {
        let setup = |e: &dyn std::fmt::Display| Error::new(Kind::General, format!("cannot set up HTTP: {e}"));
        let limiter = options.limit_rate.filter(|rate| *rate > 0).map(|rate| Arc::new(Limiter::new(rate)));
        let fetcher = Arc::new(Fetcher::new(options, limiter).map_err(|e| setup(&e))?);
        let uploader = client(options).redirect(Policy::none()).build().map_err(|e| setup(&e))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| setup(&e))?;
        Ok(Self { fetcher, uploader, network: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(crate) fn request(&self, location: &Location, request: &Request, cancel: &Cancel) -> Result<Answer> {
        if request.end.is_some_and(|end| end <= request.start) {
            return Err(Error::new(Kind::Usage, format!("{location}: a range of no bytes was asked for")));
        }
        let stop = Stop { cancel: cancel.clone(), reader: None };
        let (reply, tries) = self.network.block_on(self.fetcher.open(location, request, &stop))?;
        match reply {
            Reply::Part(response, span) => {
                // Without the object's size, the range's end is all that is known of where the bytes end.
                let until = request.end.or(span.size.is_none().then_some(span.end));
                let opened = Opened { location, start: request.start, until, size: span.size, cancel };
                Ok(Answer::Part(self.download(response, opened, tries)))
            }
            Reply::Whole(response) => {
                let size = response.content_length();
                let opened = Opened { location, start: 0, until: None, size, cancel };
                Ok(Answer::Whole(self.download(response, opened, tries)))
            }
            Reply::NotModified => Ok(Answer::NotModified),
            Reply::Beyond(size) => Err(beyond(location, request, size)),
        }
    }

    /// Begins to read a response ahead.
    fn download(&self, response: Response, opened: Opened<'_>, tries: Tries) -> Download {
        let Opened { location, start, until, size, cancel } = opened;
        let validator = validator(response.headers());
        let (out, items) = channel();
        let pump = Pump {
            fetcher: Arc::clone(&self.fetcher),
            location: location.clone(),
            stop: Stop { cancel: cancel.clone(), reader: Some(out.clone()) },
            out,
            at: start,
            until,
            size,
            validator: validator.clone(),
            tries,
            gathered: Vec::new(),
        };
        self.network.spawn(pump.run(response));
        Download { size, validator, body: Box::new(Body::new(items, cancel, location)) }
    }
}

/// What is known of a body when it begins.
#[derive(Clone, Copy)]
struct Opened<'a> {
    location: &'a Location,
    start: u64,
    until: Option<u64>,
    size: Option<u64>,
    cancel: &'a Cancel,
}

/// Between half and all of a wait, so that many who failed together do not come back together.
fn jitter(wait: Duration) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    wait / 2 + wait.mul_f64(f64::from(now.subsec_nanos() % 1000) / 2000.0)
}
