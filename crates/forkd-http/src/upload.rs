//! Uploads: one PUT of a file, its redirects followed by hand.

use crate::client::HttpClient;
use crate::failure::{Failure, Try, network, refusal, stalled};
use crate::options::HttpOptions;
use crate::rate_limit::RateLimit;
use crate::redirect::{self, MAX_REDIRECTS, same_origin};
use crate::retry::Tries;
use crate::stop::{Stop, WaitEnd, watch};
use crate::transport::{HttpRequest, not_followed};
use forkd_core::hub::Location;
use forkd_core::{Cancel, Error, Kind, Progress, Result};
use reqwest::header::{ALLOW, AUTHORIZATION, CONTENT_LENGTH};
use reqwest::{Body, Method, RequestBuilder, Response};
use std::fmt::Display;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use url::Url;

const CHUNK: usize = 256 << 10;

/// A file that is a body.
#[derive(Clone, Copy)]
pub struct FileBody<'a> {
    pub path: &'a Path,
    /// Its first byte and how many follow; all of it where there is none.
    pub part: Option<(u64, u64)>,
    /// Hears how many of its bytes are on their way.
    pub tell: &'a dyn Fn(u64),
    /// Whether the last try ended in a broken connection.
    pub careful: bool,
}

/// How far an upload is.
#[derive(Default)]
struct UploadState {
    bytes: AtomicU64,
    /// Whether it is our own limit that holds bytes back.
    held: AtomicBool,
}

impl HttpClient {
    /// Asks what may be done with a location (`OPTIONS`), before something is made for it. Only what is certain counts: that nobody
    /// can be reached there, or that `PUT` is not among the methods that are named. A presigned URL allows nothing but the upload, so
    /// that a refusal of the question says nothing.
    ///
    /// # Errors
    /// As [`HttpClient::put`].
    pub fn ask_to_put(&self, location: &Location, cancel: &Cancel) -> Result<()> {
        let stop = Stop::by(cancel);
        self.network.block_on(async {
            let mut tries = Tries::new(&self.transport.options);
            loop {
                tries.begin();
                let request =
                    self.transport.client(location.url()).request(Method::OPTIONS, location.url().clone());
                let answer = request.send();
                match watch(answer, self.transport.options.connect_timeout, &stop).await {
                    WaitEnd::Value(Ok(response)) => return named_methods(location, &response),
                    WaitEnd::Value(Err(e)) if e.is_connect() => {
                        stop.sleep(tries.another(network(location, &e).into())?).await?;
                    }
                    WaitEnd::Stopped => return Err(Error::Interrupted),
                    WaitEnd::Value(Err(_)) | WaitEnd::Stalled | WaitEnd::Late => return Ok(()),
                }
            }
        })
    }

    /// Stores a file under a location; a redirect that keeps the method is followed with the whole file.
    ///
    /// # Errors
    /// As [`HttpClient::request`].
    pub fn put(
        &self,
        location: &Location,
        file: &Path,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<()> {
        let size = file.metadata().map_err(Error::io("read", file))?.len();
        let mut told = 0;
        let sent = Arc::new(UploadState::default());
        let outcome = std::thread::scope(|scope| {
            let upload = scope.spawn(|| {
                let stop = Stop::by(cancel);
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

    /// Sends a file as the body of a request, once; redirects that keep the method are followed with the whole file. `tell` hears how many
    /// bytes are on their way. After a broken connection a `careful` try gives the server time to say why.
    ///
    /// # Errors
    /// [`Kind::Transient`], or [`Kind::General`] for a redirect that is not followed.
    pub fn send_file(
        &self,
        request: &HttpRequest,
        file: FileBody<'_>,
        what: &str,
        cancel: &Cancel,
    ) -> Try<Response> {
        let FileBody { path, part, tell, careful } = file;
        let (begin, size) = match part {
            Some(part) => part,
            None => (0, path.metadata().map_err(Error::io("read", path))?.len()),
        };
        let pace = if careful { Pace::Careful } else { Pace::Full };
        let stop = Stop::by(cancel);
        self.network.block_on(async {
            let (mut url, mut own) = (request.url.clone(), true);
            for _ in 0..=MAX_REDIRECTS {
                own &= same_origin(&request.url, &url);
                let sent = Arc::new(UploadState::default());
                let body = body(
                    (path, begin, size),
                    Arc::clone(&sent),
                    self.transport.limit.clone(),
                    (pace, stop.clone()),
                )?;
                let mut asking = self.transport.client(&url).request(request.method.clone(), url.clone());
                for (name, value) in request.headers.iter().filter(|(name, _)| own || **name != AUTHORIZATION)
                {
                    asking = asking.header(name, value);
                }
                let asking = asking.header(CONTENT_LENGTH, size).body(body);
                let response = send(asking, &what, &self.transport.options, (&sent, tell), &stop).await?;
                match redirect::next(&url, &request.method, response.status(), response.headers()) {
                    Ok(None) => return Ok(response),
                    Ok(Some(next)) => url = next,
                    Err(why) => return Err(not_followed(&what, &why)),
                }
            }
            Err(not_followed(&what, &format!("more than {MAX_REDIRECTS} redirects")))
        })
    }

    async fn follow(
        &self,
        location: &Location,
        file: &Path,
        size: u64,
        sent: &Arc<UploadState>,
        stop: &Stop,
    ) -> Result<()> {
        let mut target = location.url().clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.persist(location, &target, (file, size), sent, stop).await?;
            match redirect::next(&target, &Method::PUT, response.status(), response.headers()) {
                Ok(None) => return Ok(()),
                Ok(Some(next)) => target = next,
                Err(why) => return Err(not_followed(location, &why).error),
            }
        }
        Err(not_followed(location, &format!("more than {MAX_REDIRECTS} redirects")).error)
    }

    /// Sends until there is an answer that another try would not change.
    async fn persist(
        &self,
        location: &Location,
        target: &Url,
        (file, size): (&Path, u64),
        sent: &Arc<UploadState>,
        stop: &Stop,
    ) -> Result<Response> {
        let (mut tries, mut pace) = (Tries::new(&self.transport.options), Pace::Full);
        loop {
            tries.begin();
            sent.bytes.store(0, Ordering::Relaxed);
            let body =
                body((file, 0, size), Arc::clone(sent), self.transport.limit.clone(), (pace, stop.clone()))?;
            let request =
                self.transport.client(target).put(target.clone()).header(CONTENT_LENGTH, size).body(body);
            let failed = match send(request, location, &self.transport.options, (sent, &|_| ()), stop).await {
                Ok(response) => match refusal(location, &response) {
                    None => return Ok(response),
                    Some(_) if leads_on(target, &response) => return Ok(response),
                    Some(failed) => failed,
                },
                Err(error) => {
                    pace = Pace::Careful;
                    Failure::from(error)
                }
            };
            stop.sleep(tries.another(failed)?).await?;
        }
    }
}

/// Looks for `PUT` among the methods that an answer names, if it names any (RFC 9110, 10.2.1).
fn named_methods(location: &Location, response: &Response) -> Result<()> {
    let named: Vec<&str> = response
        .headers()
        .get_all(ALLOW)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|method| !method.is_empty())
        .collect();
    if named.is_empty() || named.contains(&Method::PUT.as_str()) {
        return Ok(());
    }
    let shown: String = named.join(", ").chars().take(80).collect();
    let message = format!("{location}: the server takes no uploads there (Allow: {})", shown.escape_debug());
    Err(Error::new(Kind::General, message))
}

/// Whether an answer is a redirect that is looked at before it counts as a refusal.
fn leads_on(target: &Url, response: &Response) -> bool {
    !matches!(redirect::next(target, &Method::PUT, response.status(), response.headers()), Ok(None))
}

/// How the bytes of an upload are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Full,
    /// The connection broke before: the server may have refused and hung up, and what it said is lost where bytes are still on their
    /// way to it. So it is given time to say that before the first bytes and between them.
    Careful,
}

/// Of a careful upload: how many pieces are followed by a pause.
const CAREFUL_PIECES: u32 = 12;
const CAREFUL_PIECE: usize = 32 << 10;
const CAREFUL_PAUSE: Duration = Duration::from_millis(150);

fn body(
    (file, begin, size): (&Path, u64, u64),
    sent: Arc<UploadState>,
    limiter: Option<Arc<RateLimit>>,
    (pace, stop): (Pace, Stop),
) -> Result<Body> {
    let mut input = File::open(file).map_err(Error::io("open", file))?;
    input.seek(SeekFrom::Start(begin)).map_err(Error::io("read", file))?;
    let input = input.take(size);
    let most = limiter.as_ref().map_or(CHUNK, |limiter| limiter.piece().min(CHUNK));
    let pauses = if pace == Pace::Careful { CAREFUL_PIECES } else { 0 };
    let state = (input, sent, limiter, stop, pauses);
    let chunks =
        futures_util::stream::try_unfold(state, move |(mut input, sent, limiter, stop, pauses)| async move {
            let most = if pauses > 0 { most.min(CAREFUL_PIECE) } else { most };
            if pauses > 0 {
                stop.sleep(CAREFUL_PAUSE).await.map_err(std::io::Error::other)?;
            }
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
            Ok(Some((chunk, (input, sent, limiter, stop, pauses.saturating_sub(1)))))
        });
    Ok(Body::wrap_stream(chunks))
}

async fn send(
    request: RequestBuilder,
    what: &(dyn Display + Sync),
    options: &HttpOptions,
    (sent, tell): (&UploadState, &dyn Fn(u64)),
    stop: &Stop,
) -> Result<Response> {
    sent.held.store(false, Ordering::Relaxed);
    let answer = request.send();
    tokio::pin!(answer);
    // An upload may take as long as it likes while bytes move; once none do, the stall timer runs.
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        match watch(&mut answer, Duration::from_millis(100), stop).await {
            WaitEnd::Value(response) => return response.map_err(|e| network(what, &e)),
            WaitEnd::Stopped => return Err(Error::Interrupted),
            WaitEnd::Stalled | WaitEnd::Late => {
                let now = sent.bytes.load(Ordering::Relaxed);
                tell(now);
                if now != seen || sent.held.load(Ordering::Relaxed) {
                    (seen, since) = (now, Instant::now());
                } else if since.elapsed() > options.stall_timeout {
                    return Err(stalled(what, options.stall_timeout));
                }
            }
        }
    }
}
