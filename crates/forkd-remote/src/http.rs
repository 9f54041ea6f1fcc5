//! `http:` and `https:`, through reqwest. The rest of forkd reads and writes with threads, so a small runtime does the network's
//! part and hands bytes over a bounded channel.

use forkd_core::remote::{Answer, Download, Location, Request, Validator};
use forkd_core::{Cancel, Error, Kind, Progress, Result};
use futures_util::StreamExt;
use reqwest::header::{CONTENT_LENGTH, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Body, Response, StatusCode};
use std::future::Future;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// How patient to be.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// Without a single byte moving.
    pub stall_timeout: Duration,
    /// Tries for an answer, the first included.
    pub tries: u32,
    /// Before the second try; doubled each time.
    pub backoff: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            tries: 4,
            backoff: Duration::from_millis(400),
        }
    }
}

const MAX_REDIRECTS: usize = 5;

#[derive(Debug)]
pub(crate) struct Http {
    client: reqwest::Client,
    /// For uploads: a redirect that would turn them into a download is not followed.
    uploader: reqwest::Client,
    runtime: Runtime,
    options: HttpOptions,
}

impl Http {
    pub(crate) fn new(options: &HttpOptions) -> Result<Self> {
        let setup = |e: &dyn std::fmt::Display| Error::new(Kind::General, format!("cannot set up HTTP: {e}"));
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("forkd/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(options.connect_timeout)
        };
        let client = builder().build().map_err(|e| setup(&e))?;
        let uploader = builder().redirect(Policy::none()).build().map_err(|e| setup(&e))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| setup(&e))?;
        Ok(Self { client, uploader, runtime, options: options.clone() })
    }

    pub(crate) fn request(&self, location: &Location, _asked: &Request, cancel: &Cancel) -> Result<Answer> {
        let response = self.with_retries(location, cancel, || {
            let request = self.client.get(location.url().clone());
            let stall = self.options.stall_timeout;
            async move {
                let answer = tokio::time::timeout(stall, request.send()).await;
                answer.map_err(|_| stalled(location, stall))?.map_err(|e| network(location, &e))
            }
        })?;
        let size =
            response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let body = Box::new(self.body(response, location, cancel));
        Ok(Answer::Whole(Download { size, validator: Validator::default(), body }))
    }

    /// Reads a body ahead on the runtime.
    fn body(&self, response: Response, location: &Location, cancel: &Cancel) -> ChannelReader {
        let (sender, receiver) = mpsc::channel::<Result<Vec<u8>>>(8);
        let (location, stall, cancel) = (location.clone(), self.options.stall_timeout, cancel.clone());
        self.runtime.spawn(async move {
            let mut stream = response.bytes_stream();
            let mut gathered = Vec::new();
            loop {
                let item = match watch(stream.next(), stall, &cancel).await {
                    Waited::Value(None) => break,
                    Waited::Value(Some(Ok(bytes))) => Ok(bytes),
                    Waited::Value(Some(Err(e))) => Err(network(&location, &e)),
                    Waited::Stalled => Err(stalled(&location, stall)),
                    Waited::Cancelled => Err(Error::Interrupted),
                };
                match item {
                    Ok(bytes) => {
                        // Few large items instead of many small ones: each costs a wake-up.
                        gathered.extend_from_slice(&bytes);
                        if gathered.len() >= 128 << 10
                            && sender.send(Ok(std::mem::take(&mut gathered))).await.is_err()
                        {
                            return;
                        }
                    }
                    Err(error) => {
                        let _ = sender.send(Err(error)).await;
                        return;
                    }
                }
            }
            if !gathered.is_empty() {
                let _ = sender.send(Ok(gathered)).await;
            }
        });
        ChannelReader { receiver, current: Vec::new(), at: 0 }
    }

    pub(crate) fn put(
        &self,
        location: &Location,
        file: &Path,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<()> {
        let size = file.metadata().map_err(Error::io("read", file))?.len();
        let mut told = 0;
        let sent = Arc::new(AtomicU64::new(0));
        let outcome = std::thread::scope(|scope| {
            let upload = scope.spawn(|| {
                let mut target = location.clone();
                for _ in 0..=MAX_REDIRECTS {
                    let response = self.with_retries(&target, cancel, || {
                        sent.store(0, Ordering::Relaxed);
                        let request = self.uploader.put(target.url().clone()).header(CONTENT_LENGTH, size);
                        self.upload(request, &target, file, Arc::clone(&sent), cancel)
                    })?;
                    let next = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
                    match (response.status(), next) {
                        (StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT, Some(next)) => {
                            target = target.join(next)?
                        }
                        _ => return Ok(()),
                    }
                }
                Err(Error::new(Kind::General, format!("{location}: more than {MAX_REDIRECTS} redirects")))
            });
            while !upload.is_finished() {
                std::thread::sleep(Duration::from_millis(50));
                let now = sent.load(Ordering::Relaxed);
                progress.advance(now.saturating_sub(told));
                told = told.max(now);
            }
            upload
                .join()
                .unwrap_or_else(|_| Err(Error::new(Kind::General, "internal error: the upload panicked")))
        });
        progress.advance(if outcome.is_ok() { size.saturating_sub(told) } else { 0 });
        outcome
    }

    async fn upload(
        &self,
        request: reqwest::RequestBuilder,
        location: &Location,
        file: &Path,
        sent: Arc<AtomicU64>,
        cancel: &Cancel,
    ) -> Result<Response> {
        let mut input = std::fs::File::open(file).map_err(Error::io("open", file))?;
        let counter = Arc::clone(&sent);
        let chunks = std::iter::from_fn(move || {
            let mut chunk = vec![0; 256 << 10];
            match input.read(&mut chunk) {
                Ok(0) => None,
                Ok(read) => {
                    chunk.truncate(read);
                    counter.fetch_add(read as u64, Ordering::Relaxed);
                    Some(Ok(chunk))
                }
                Err(e) => Some(Err(e)),
            }
        });
        let answer = request.body(Body::wrap_stream(futures_util::stream::iter(chunks))).send();
        tokio::pin!(answer);
        // An upload may take as long as it likes while bytes move; once none do, the stall timer runs.
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            match watch(&mut answer, Duration::from_millis(100), cancel).await {
                Waited::Value(response) => return response.map_err(|e| network(location, &e)),
                Waited::Cancelled => return Err(Error::Interrupted),
                Waited::Stalled => {
                    let now = sent.load(Ordering::Relaxed);
                    if now != seen {
                        (seen, since) = (now, Instant::now());
                    } else if since.elapsed() > self.options.stall_timeout {
                        return Err(stalled(location, self.options.stall_timeout));
                    }
                }
            }
        }
    }

    /// Asks until there is an answer that another try would not change.
    fn with_retries<F>(
        &self,
        location: &Location,
        cancel: &Cancel,
        mut ask: impl FnMut() -> F,
    ) -> Result<Response>
    where
        F: Future<Output = Result<Response>>,
    {
        let mut backoff = self.options.backoff;
        for left in (0..self.options.tries.max(1)).rev() {
            cancel.check()?;
            let asking = ask();
            let outcome = self.runtime.block_on(async {
                match watch(asking, Duration::MAX, cancel).await {
                    Waited::Value(answer) => answer,
                    _ => Err(Error::Interrupted),
                }
            });
            let mut wait = backoff;
            let error = match outcome {
                Ok(response) => match refusal(location, &response) {
                    None => return Ok(response),
                    Some(error) => {
                        let asked = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
                        let seconds = asked.and_then(|v| v.parse().ok()).map(Duration::from_secs);
                        wait = seconds.map_or(wait, |seconds| seconds.min(Duration::from_secs(30)));
                        error
                    }
                },
                Err(error) => error,
            };
            if left == 0 || error.kind() != Kind::Transient {
                return Err(error);
            }
            sleep(jitter(wait), cancel)?;
            backoff *= 2;
        }
        Err(Error::new(Kind::Transient, format!("{location}: no answer")))
    }
}

/// Where an answer is not a success: what it means.
fn refusal(location: &Location, response: &Response) -> Option<Error> {
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
    Some(Error::new(kind, format!("{location}: the server answers {status}; {advice}")))
}

/// What reqwest says, without the URL that it would print.
fn network(location: &Location, error: &reqwest::Error) -> Error {
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
    Error::new(kind, format!("{location}: {what} ({reason}); try again"))
}

fn stalled(location: &Location, after: Duration) -> Error {
    Error::new(Kind::Transient, format!("{location}: no byte in {} s; try again", after.as_secs_f32()))
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

fn sleep(wait: Duration, cancel: &Cancel) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < wait {
        cancel.check()?;
        std::thread::sleep(Duration::from_millis(20).min(wait));
    }
    Ok(())
}

/// Between half and all of a wait, so that many who failed together do not come back together.
fn jitter(wait: Duration) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    wait / 2 + wait.mul_f64(f64::from(now.subsec_nanos() % 1000) / 2000.0)
}

struct ChannelReader {
    receiver: mpsc::Receiver<Result<Vec<u8>>>,
    current: Vec<u8>,
    at: usize,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.current.len() {
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(chunk) => self.current = chunk.map_err(std::io::Error::other)?,
            }
            self.at = 0;
        }
        let step = (self.current.len() - self.at).min(buffer.len());
        buffer[..step].copy_from_slice(&self.current[self.at..self.at + step]);
        self.at += step;
        Ok(step)
    }
}
