//! HTTP for registries: one request at a time, with a timer for what does not move. The rest of forkd is threads, so a small
//! runtime lives inside.

use crate::shown;
use forkd_core::{Cancel, Error, Kind, Result};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, RequestBuilder, Response};
use std::future::Future;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;

/// How patient to be.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// Without a single byte moving.
    pub stall_timeout: Duration,
    /// Tries in a row that bring nothing, the first included.
    pub tries: u32,
    /// Before the second try; doubled each time.
    pub backoff: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            tries: 5,
            backoff: Duration::from_millis(400),
        }
    }
}

const MAX_REDIRECTS: usize = 5;
const MAX_WAIT: Duration = Duration::from_secs(30);

/// A failed try, and how long the server asks to be left alone.
pub(crate) struct Failed {
    pub(crate) error: Error,
    pub(crate) wait: Option<Duration>,
}

/// The outcome of one try.
pub(crate) type Try<T> = std::result::Result<T, Failed>;

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, wait: None }
    }
}

pub(crate) struct Http {
    pub(crate) client: Client,
    runtime: Runtime,
    options: HttpOptions,
}

impl Http {
    /// `loopback`: for a server on this machine, which no proxy leads to.
    pub(crate) fn new(options: &HttpOptions, loopback: bool) -> Result<Self> {
        let setup = |e: &dyn std::fmt::Display| Error::new(Kind::General, format!("cannot set up HTTP: {e}"));
        let mut builder = Client::builder()
            .user_agent(concat!("forkd/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .redirect(Policy::custom(redirect));
        if loopback {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| setup(&e))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| setup(&e))?;
        Ok(Self { client, runtime, options: options.clone() })
    }

    /// One try: the answer's head.
    pub(crate) fn send(&self, request: RequestBuilder, what: &str, cancel: &Cancel) -> Result<Response> {
        let limit = self.options.connect_timeout + self.options.stall_timeout;
        self.runtime.block_on(async {
            match watch(request.send(), limit, cancel).await {
                Waited::Value(answer) => answer.map_err(|e| network(what, &e)),
                Waited::Stalled => Err(stalled(what, limit)),
                Waited::Cancelled => Err(Error::Interrupted),
            }
        })
    }

    /// Hands a body over piece by piece, until it ends or `sink` wants no more (false).
    pub(crate) fn read(
        &self,
        mut response: Response,
        what: &str,
        cancel: &Cancel,
        mut sink: impl FnMut(&[u8]) -> Result<bool>,
    ) -> Result<()> {
        let limit = self.options.stall_timeout;
        self.runtime.block_on(async {
            loop {
                match watch(response.chunk(), limit, cancel).await {
                    Waited::Value(Ok(None)) => return Ok(()),
                    Waited::Value(Ok(Some(bytes))) => {
                        if !sink(&bytes)? {
                            return Ok(());
                        }
                    }
                    Waited::Value(Err(e)) => return Err(network(what, &e)),
                    Waited::Stalled => return Err(stalled(what, limit)),
                    Waited::Cancelled => return Err(Error::Interrupted),
                }
            }
        })
    }

    /// A whole body of at most `limit` bytes.
    pub(crate) fn read_small(
        &self,
        response: Response,
        limit: u64,
        what: &str,
        cancel: &Cancel,
    ) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read(response, what, cancel, |piece| {
            bytes.extend_from_slice(piece);
            Ok(bytes.len() as u64 <= limit)
        })?;
        if bytes.len() as u64 > limit {
            return Err(Error::new(Kind::Integrity, format!("{what}: more than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// Tries until it works, fails for good, or `tries` in a row have failed.
    pub(crate) fn with_retries<T>(&self, cancel: &Cancel, mut ask: impl FnMut() -> Try<T>) -> Result<T> {
        let mut patience = Patience::new(&self.options);
        loop {
            match ask() {
                Ok(value) => return Ok(value),
                Err(failed) => patience.wait(failed, cancel)?,
            }
        }
    }

    pub(crate) fn patience(&self) -> Patience {
        Patience::new(&self.options)
    }
}

/// Waits between tries.
pub(crate) struct Patience {
    left: u32,
    backoff: Duration,
    fresh: (u32, Duration),
}

impl Patience {
    fn new(options: &HttpOptions) -> Self {
        let fresh = (options.tries.max(1), options.backoff);
        Self { left: fresh.0, backoff: fresh.1, fresh }
    }

    /// The last try has brought something: those before it no longer count.
    pub(crate) fn renew(&mut self) {
        (self.left, self.backoff) = self.fresh;
    }

    /// Waits before another try; gives the failure back where there is to be none.
    pub(crate) fn wait(&mut self, failed: Failed, cancel: &Cancel) -> Result<()> {
        self.left -= 1;
        if self.left == 0 || failed.error.kind() != Kind::Transient {
            return Err(failed.error);
        }
        let wait = jitter(failed.wait.unwrap_or(self.backoff).min(MAX_WAIT));
        self.backoff = (self.backoff * 2).min(MAX_WAIT);
        let begun = Instant::now();
        while begun.elapsed() < wait {
            cancel.check()?;
            std::thread::sleep(Duration::from_millis(20).min(wait));
        }
        Ok(())
    }
}

/// Follows a few redirects, and none from TLS to plain text.
fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let from_tls = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else if from_tls && attempt.url().scheme() != "https" {
        attempt.error("a redirect from https to plain http")
    } else {
        attempt.follow()
    }
}

/// What reqwest says, without the URL that it would print: a redirect's may be signed.
fn network(what: &str, error: &reqwest::Error) -> Error {
    let mut reason = "the connection failed".to_owned();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        reason = shown(&error.to_string());
        cause = error.source();
    }
    let kind = if error.is_builder() || error.is_redirect() { Kind::General } else { Kind::Transient };
    let how = if error.is_connect() {
        "cannot connect"
    } else if error.is_redirect() {
        "a redirect that is not followed"
    } else {
        "the connection broke"
    };
    Error::new(kind, format!("{what}: {how} ({reason})")).hint("try again")
}

fn stalled(what: &str, after: Duration) -> Error {
    Error::new(Kind::Transient, format!("{what}: no byte in {} s", after.as_secs_f32())).hint("try again")
}

enum Waited<T> {
    Value(T),
    Stalled,
    Cancelled,
}

/// Waits for a future, a time limit, or the user.
async fn watch<T>(future: impl Future<Output = T>, limit: Duration, cancel: &Cancel) -> Waited<T> {
    let begun = Instant::now();
    tokio::pin!(future);
    loop {
        let step = Duration::from_millis(100).min(limit.saturating_sub(begun.elapsed()));
        match tokio::time::timeout(step, &mut future).await {
            Ok(value) => return Waited::Value(value),
            Err(_) if cancel.is_cancelled() => return Waited::Cancelled,
            Err(_) if begun.elapsed() >= limit => return Waited::Stalled,
            Err(_) => {}
        }
    }
}

/// Between half and all of a wait, so that many who failed together do not come back together.
fn jitter(wait: Duration) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    wait / 2 + wait.mul_f64(f64::from(now.subsec_nanos() % 1000) / 2000.0)
}
