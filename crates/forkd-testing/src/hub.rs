//! A small static web server on loopback that also takes presigned-like PUTs and misbehaves where a path asks for it.

mod faults;
mod files;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, AUTHORIZATION, IF_RANGE, RANGE};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use faults::{Memory, Routed};
use files::header;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub use files::SIGNATURE;

/// A request that came, and what was answered.
#[derive(Debug, Clone)]
pub struct LoggedRequest {
    /// `GET`, `HEAD` or `PUT`.
    pub method: String,
    /// The path with its query, fault prefixes included.
    pub uri: String,
    /// Whether an Authorization header came.
    pub authorised: bool,
    /// The Range header's value.
    pub range: Option<String>,
    /// The If-Range header's value.
    pub if_range: Option<String>,
    /// The status of the answer; 0 while there is none.
    pub status: u16,
    /// How many bytes of the answer's body were sent so far; goes on counting.
    pub sent: Arc<AtomicU64>,
}

impl LoggedRequest {
    /// How many bytes of the answer's body were sent by now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

type Log = Arc<Mutex<Vec<LoggedRequest>>>;

#[derive(Clone)]
struct HubState {
    dir: PathBuf,
    log: Log,
    memory: Arc<Memory>,
}

/// A running server; it ends with this value.
///
/// Below any file's path these prefixes change what happens, and may follow one another:
///
/// | prefix | what happens |
/// |---|---|
/// | `/redirect/…` | 302 to the rest of the path, with the same query |
/// | `/status/CODE/…` | only this status |
/// | `/flaky/N/…` | 503 the first N times |
/// | `/random/PERCENT/…` | this share of all answers, always the same ones, is 500, 408 or 429 |
/// | `/retry-after/SECONDS/…` | the failures of the prefixes behind it carry this Retry-After |
/// | `/cut/BYTES/…` | the connection is closed where the file's byte BYTES would come, every time |
/// | `/cut-each/BYTES/…` | every answer is cut after BYTES |
/// | `/once-cut/BYTES/…` | the first answer to each URI is cut after BYTES |
/// | `/stall/BYTES/…` | as `cut`, but the connection stays open |
/// | `/once-stall/BYTES/…` | as `once-cut`, but the connection stays open |
/// | `/slow/BYTES_PER_SECOND/…` | no faster than this |
/// | `/endless/…` | zeros behind the end, and no length is declared |
/// | `/lying/DELTA/…` | the declared length is too large by DELTA |
/// | `/noranges/…` | a Range header is ignored |
/// | `/unknown-total/…` | ranges come without the size of the whole |
/// | `/misranged/…` | the range that is declared begins a byte later than the one that was asked for |
/// | `/noetag/…` | neither ETag nor Last-Modified |
/// | `/changing/…` | another ETag each time |
/// | `/readonly/…` | to `OPTIONS` it says that nothing can be uploaded |
pub struct TestHub {
    /// Where it listens: 127.0.0.1 and a free port.
    pub address: SocketAddr,
    log: Log,
    runtime: Option<tokio::runtime::Runtime>,
}

impl TestHub {
    /// Serves a folder on a free port of 127.0.0.1.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let log = Log::default();
        let state = HubState { dir: dir.to_owned(), log: Arc::clone(&log), memory: Arc::default() };
        let router = Router::new().fallback(logged).with_state(state);
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { address, log, runtime: Some(runtime) }
    }

    /// The `http` URL of a path below the folder that is served.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Each request so far, in the order in which they came.
    #[must_use]
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for TestHub {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Requests are logged when they come, for an answer may never end.
async fn logged(State(state): State<HubState>, request: Request) -> Response {
    let sent = Arc::new(AtomicU64::new(0));
    let asked = LoggedRequest {
        method: request.method().to_string(),
        uri: request.uri().to_string(),
        authorised: request.headers().contains_key(AUTHORIZATION),
        range: header(request.headers(), RANGE),
        if_range: header(request.headers(), IF_RANGE),
        status: 0,
        sent: Arc::clone(&sent),
    };
    let number = {
        let mut log = state.log.lock().unwrap();
        log.push(asked);
        log.len() - 1
    };
    let response = answer(&state, request, sent).await;
    state.log.lock().unwrap()[number].status = response.status().as_u16();
    response
}

async fn answer(state: &HubState, request: Request, sent: Arc<AtomicU64>) -> Response {
    // Whatever is wrong with a path, the question what may be done there is no part of it.
    if request.method() == Method::OPTIONS {
        let allowed =
            if request.uri().path().starts_with("/readonly/") { "GET, HEAD" } else { "GET, HEAD, PUT" };
        return (StatusCode::NO_CONTENT, [(ALLOW, allowed)]).into_response();
    }
    let (faults, rest) = match faults::route(&state.memory, request.uri()) {
        Routed::Answer(response) => return *response,
        Routed::File(faults, rest) => (faults, rest),
    };
    let relative = Path::new(&rest);
    if relative.components().any(|part| !matches!(part, Component::Normal(_))) || rest.is_empty() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let file = state.dir.join(relative);
    let query = request.uri().query().unwrap_or_default().to_owned();
    match *request.method() {
        Method::GET | Method::HEAD => files::get(&file, request.headers(), &faults, sent),
        Method::PUT => files::put(&file, &query, request.into_body(), &faults).await,
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}
