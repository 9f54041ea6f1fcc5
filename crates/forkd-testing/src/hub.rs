//! A small static web server on loopback that also takes presigned-like PUTs and misbehaves where a path asks for it.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::io::{Error, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The query that a PUT must carry, as a presigned URL would.
pub const SIGNATURE: &str = "X-Amz-Signature=5ec4e7";

type Log = Arc<Mutex<Vec<(String, String, bool)>>>;

#[derive(Clone)]
struct Shared {
    dir: PathBuf,
    log: Log,
    flaky: Arc<Mutex<HashMap<String, u32>>>,
}

/// A running server; it ends with this value.
///
/// Below any file's path these prefixes change what happens: `/redirect/…` (302), `/status/CODE/…`, `/flaky/N/…` (503 the first N
/// times), `/stall/BYTES/…`, `/cut/BYTES/…` (connection closed), `/endless/…` (zeros after the file, no length),
/// `/noranges/…`.
pub struct Hub {
    /// Where it listens.
    pub address: SocketAddr,
    log: Log,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Hub {
    /// Serves a folder on a free port of 127.0.0.1.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let log = Log::default();
        let shared = Shared { dir: dir.to_owned(), log: Arc::clone(&log), flaky: Arc::default() };
        let router = Router::new().fallback(answer).with_state(shared);
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { address, log, runtime: Some(runtime) }
    }

    /// The URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Method, path with query, and whether an Authorization header came, of each request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<(String, String, bool)> {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let method = request.method().clone();
    let authorised = request.headers().contains_key("authorization");
    shared.log.lock().unwrap().push((method.to_string(), request.uri().to_string(), authorised));
    let range = request.headers().get(RANGE).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let mut faults = Faults::default();
    let mut rest = path.as_str();
    loop {
        let (word, tail) = rest.split_once('/').unwrap_or((rest, ""));
        let (number, after) = tail.split_once('/').unwrap_or((tail, ""));
        match word {
            "redirect" => {
                let query = if query.is_empty() { String::new() } else { format!("?{query}") };
                return (StatusCode::FOUND, [(LOCATION, format!("/{tail}{query}"))]).into_response();
            }
            "status" => return StatusCode::from_u16(number.parse().unwrap()).unwrap().into_response(),
            "flaky" => {
                let mut flaky = shared.flaky.lock().unwrap();
                let left = flaky.entry(path.clone()).or_insert_with(|| number.parse().unwrap());
                if *left > 0 {
                    *left -= 1;
                    return StatusCode::SERVICE_UNAVAILABLE.into_response();
                }
                drop(flaky);
                rest = after;
            }
            "stall" => {
                faults.stall_after = number.parse().ok();
                rest = after;
            }
            "cut" => {
                faults.cut_after = number.parse().ok();
                rest = after;
            }
            "endless" => {
                faults.endless = true;
                rest = tail;
            }
            "noranges" => {
                faults.no_ranges = true;
                rest = tail;
            }
            _ => break,
        }
    }
    let relative = Path::new(rest);
    if relative.components().any(|part| !matches!(part, Component::Normal(_))) || rest.is_empty() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let file = shared.dir.join(relative);
    match method {
        Method::GET | Method::HEAD => get(&file, range.as_deref(), &faults),
        Method::PUT => put(&file, &query, request.into_body(), &faults).await,
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

#[derive(Default)]
struct Faults {
    stall_after: Option<u64>,
    cut_after: Option<u64>,
    endless: bool,
    no_ranges: bool,
}

fn get(path: &Path, range: Option<&str>, faults: &Faults) -> Response {
    let Ok(mut file) = std::fs::File::open(path) else { return StatusCode::NOT_FOUND.into_response() };
    let size = file.metadata().unwrap().len();
    let mut response = Response::builder().header(ACCEPT_RANGES, "bytes");
    let (mut start, mut end) = (0, size);
    if let Some((from, to)) =
        range.filter(|_| !faults.no_ranges).and_then(|r| r.strip_prefix("bytes=")?.split_once('-'))
    {
        start = from.parse().unwrap_or(0);
        end = to.parse::<u64>().map_or(size, |to| (to + 1).min(size));
        if start >= size {
            return (StatusCode::RANGE_NOT_SATISFIABLE, [(CONTENT_RANGE, format!("bytes */{size}"))])
                .into_response();
        }
        response = response.status(StatusCode::PARTIAL_CONTENT);
        response = response.header(CONTENT_RANGE, format!("bytes {start}-{}/{size}", end - 1));
    }
    file.seek(SeekFrom::Start(start)).unwrap();
    let (endless, stall, cut) = (faults.endless, faults.stall_after, faults.cut_after);
    if !endless {
        response = response.header(CONTENT_LENGTH, end - start);
    }
    let limit = stall.or(cut).unwrap_or(u64::MAX).min(end - start);
    let faulty = stall.is_some() || cut.is_some();
    let mut body = file.take(limit);
    let chunks = std::iter::from_fn(move || {
        let mut chunk = vec![0; 512 << 10];
        match body.read(&mut chunk) {
            Ok(0) if endless => Some(Ok(Bytes::from(chunk))),
            Ok(0) => None,
            Ok(read) => {
                chunk.truncate(read);
                Some(Ok(Bytes::from(chunk)))
            }
            Err(e) => Some(Err(e)),
        }
    });
    let tail = futures_util::stream::once(async move {
        if stall.is_some() {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        Err::<Bytes, Error>(Error::other("cut"))
    });
    let tail = tail.take(usize::from(faulty));
    response.body(Body::from_stream(futures_util::stream::iter(chunks).chain(tail))).unwrap()
}

async fn put(path: &Path, query: &str, body: Body, faults: &Faults) -> Response {
    if !query.split('&').any(|part| part == SIGNATURE) {
        return (StatusCode::FORBIDDEN, "SignatureDoesNotMatch").into_response();
    }
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap()).unwrap();
    let mut stream = body.into_data_stream();
    let mut taken = 0;
    while let Some(chunk) = stream.next().await {
        let Ok(chunk) = chunk else { return StatusCode::BAD_REQUEST.into_response() };
        taken += chunk.len() as u64;
        if faults.stall_after.is_some_and(|after| taken >= after) {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        file.write_all(&chunk).unwrap();
    }
    file.persist(path).unwrap();
    StatusCode::OK.into_response()
}
