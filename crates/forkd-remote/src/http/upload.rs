//! Uploads: one PUT of a file, its redirects followed by hand.

use super::errors::{Failed, network, refusal, stalled};
use super::limit::Limiter;
use super::wait::{Stop, Tries, Waited, watch};
use super::{Http, HttpOptions};
use forkd_core::hub::Location;
use forkd_core::{Cancel, Error, Kind, Progress, Result};
use reqwest::header::{CONTENT_LENGTH, LOCATION};
use reqwest::{Body, RequestBuilder, Response, StatusCode};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MAX_REDIRECTS: usize = 5;
const CHUNK: usize = 256 << 10;

/// How far an upload is.
#[derive(Default)]
struct Sent {
    bytes: AtomicU64,
    /// Whether it is our own limit that holds bytes back.
    held: AtomicBool,
}

impl Http {
    pub(crate) fn put(
        &self,
        location: &Location,
        file: &Path,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<()> {
        let size = file.metadata().map_err(Error::io("read", file))?.len();
        let mut told = 0;
        let sent = Arc::new(Sent::default());
        let outcome = std::thread::scope(|scope| {
            let upload = scope.spawn(|| {
                let stop = Stop { cancel: cancel.clone(), reader: None };
                self.network.block_on(self.follow(location, file, size, &sent, &stop))
            });
            while !upload.is_finished() {
                std::thread::sleep(Duration::from_millis(50));
                let now = sent.bytes.load(Ordering::Relaxed);
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

    async fn follow(
        &self,
        location: &Location,
        file: &Path,
        size: u64,
        sent: &Arc<Sent>,
        stop: &Stop,
    ) -> Result<()> {
        let mut target = location.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.persist(&target, file, size, sent, stop).await?;
            let next = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
            match (response.status(), next) {
                (StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT, Some(next)) => {
                    target = target.join(next)?;
                }
                _ => return Ok(()),
            }
        }
        Err(Error::new(Kind::General, format!("{location}: more than {MAX_REDIRECTS} redirects")))
    }

    /// Sends until there is an answer that another try would not change.
    async fn persist(
        &self,
        location: &Location,
        file: &Path,
        size: u64,
        sent: &Arc<Sent>,
        stop: &Stop,
    ) -> Result<Response> {
        let mut tries = Tries::new(&self.fetcher.options);
        loop {
            tries.begin();
            sent.bytes.store(0, Ordering::Relaxed);
            let body = body(file, Arc::clone(sent), self.fetcher.limiter.clone(), stop.clone())?;
            let request = self.uploader.put(location.url().clone()).header(CONTENT_LENGTH, size).body(body);
            let failed = match send(request, location, &self.fetcher.options, sent, stop).await {
                Ok(response) => match refusal(location, &response) {
                    None => return Ok(response),
                    Some(failed) => failed,
                },
                Err(error) => Failed::from(error),
            };
            stop.sleep(tries.another(failed)?).await?;
        }
    }
}

fn body(file: &Path, sent: Arc<Sent>, limiter: Option<Arc<Limiter>>, stop: Stop) -> Result<Body> {
    let input = File::open(file).map_err(Error::io("open", file))?;
    let most = limiter.as_ref().map_or(CHUNK, |limiter| limiter.piece().min(CHUNK));
    let state = (input, sent, limiter, stop);
    let chunks =
        futures_util::stream::try_unfold(state, move |(mut input, sent, limiter, stop)| async move {
            let mut chunk = vec![0; most];
            let read = input.read(&mut chunk)?;
            if read == 0 {
                return Ok::<_, std::io::Error>(None);
            }
            chunk.truncate(read);
            if let Some(limiter) = &limiter {
                sent.held.store(true, Ordering::Relaxed);
                limiter.pass(read, &stop).await.map_err(std::io::Error::other)?;
                sent.held.store(false, Ordering::Relaxed);
            }
            sent.bytes.fetch_add(read as u64, Ordering::Relaxed);
            Ok(Some((chunk, (input, sent, limiter, stop))))
        });
    Ok(Body::wrap_stream(chunks))
}

async fn send(
    request: RequestBuilder,
    location: &Location,
    options: &HttpOptions,
    sent: &Sent,
    stop: &Stop,
) -> Result<Response> {
    sent.held.store(false, Ordering::Relaxed);
    let answer = request.send();
    tokio::pin!(answer);
    // An upload may take as long as it likes while bytes move; once none do, the stall timer runs.
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        match watch(&mut answer, Duration::from_millis(100), stop).await {
            Waited::Value(response) => return response.map_err(|e| network(location, &e)),
            Waited::Stopped => return Err(Error::Interrupted),
            Waited::Stalled => {
                let now = sent.bytes.load(Ordering::Relaxed);
                if now != seen || sent.held.load(Ordering::Relaxed) {
                    (seen, since) = (now, Instant::now());
                } else if since.elapsed() > options.stall_timeout {
                    return Err(stalled(location, options.stall_timeout));
                }
            }
        }
    }
}
