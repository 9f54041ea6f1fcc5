//! A registry that misbehaves.

use crate::{bytes, pull, sources};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, RANGE, WWW_AUTHENTICATE};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use forkd_core::Kind;
use forkd_core::cache::CacheKind;
use forkd_format::Digest;
use futures_util::StreamExt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("faulty::a_cut_is_gone_on_from", a_cut_is_gone_on_from),
    ("faulty::a_killed_run_is_gone_on_from", a_killed_run_is_gone_on_from),
    ("faulty::wrong_bytes_are_refused", wrong_bytes_are_refused),
    ("faulty::what_passes_is_tried_again", what_passes_is_tried_again),
    ("faulty::tokens_are_asked_for", tokens_are_asked_for),
    ("faulty::two_at_once_fetch_once", two_at_once_fetch_once),
    ("faulty::altered_manifests_are_refused", altered_manifests_are_refused),
];

const SIZE: usize = 3_000_000;

/// What goes wrong with blobs that are layers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// The connection breaks after so many bytes of an answer, for the first so many requests.
    Cut(usize, usize),
    /// Nothing more comes after so many bytes, the first time.
    Stall(usize),
    /// Not even an answer, so many times.
    Busy(usize),
    NoRanges,
    /// Ranges are refused.
    Refused,
    Altered,
    Short,
    Endless,
}

struct Shared {
    blobs: Vec<Vec<u8>>,
    manifest: Vec<u8>,
    fault: Fault,
    /// A token is needed; a password too, where it is not empty.
    token: Option<&'static str>,
    /// Range headers of requests for the layer.
    layer: Mutex<Vec<Option<String>>>,
    all: Mutex<Vec<String>>,
    address: Mutex<Option<SocketAddr>>,
}

struct Server {
    shared: Arc<Shared>,
    name: String,
    _runtime: tokio::runtime::Runtime,
}

fn layer() -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..SIZE).map(|_| next()).collect()
}

fn serve_with(fault: Fault, token: Option<&'static str>, edit: impl Fn(String) -> String) -> Server {
    let layer = layer();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        Digest::of(&layer)
    )
    .into_bytes();
    let manifest = edit(format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{}","size":{}}},
"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:{}","size":{}}}]}}"#,
        Digest::of(&config),
        config.len(),
        Digest::of(&layer),
        layer.len()
    ));
    let shared = Arc::new(Shared {
        blobs: vec![config, layer],
        manifest: manifest.into_bytes(),
        fault,
        token,
        layer: Mutex::default(),
        all: Mutex::default(),
        address: Mutex::default(),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    *shared.address.lock().unwrap() = Some(address);
    let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
    runtime.spawn(async move { axum::serve(listener, router).await });
    Server { shared, name: format!("{address}/a/b:v1"), _runtime: runtime }
}

fn serve(fault: Fault) -> Server {
    serve_with(fault, None, |manifest| manifest)
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let header = |name| request.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (auth, range) = (header(AUTHORIZATION), header(RANGE));
    let uri: &Uri = request.uri();
    shared.all.lock().unwrap().push(uri.to_string());
    if uri.path() == "/token" {
        let query = uri.query().unwrap();
        assert!(
            query.contains("scope=repository%3Aa%2Fb%3Apull") && query.contains("service=here"),
            "{query}"
        );
        // "u:p"
        let wanted = shared.token.filter(|password| !password.is_empty()).map(|_| "Basic dTpw".to_owned());
        if wanted.is_some() && auth != wanted {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        return r#"{"token":"t0ken"}"#.into_response();
    }
    if shared.token.is_some() && auth.as_deref() != Some("Bearer t0ken") {
        let address = shared.address.lock().unwrap().unwrap();
        let challenge = format!(r#"Bearer realm="http://{address}/token",service="here",scope="x""#);
        return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)]).into_response();
    }
    if let Some(name) = uri.path().strip_prefix("/v2/a/b/manifests/") {
        let known = name == "v1" || name == format!("sha256:{}", Digest::of(&shared.manifest));
        return if known {
            shared.manifest.clone().into_response()
        } else {
            StatusCode::NOT_FOUND.into_response()
        };
    }
    let hex = uri.path().strip_prefix("/v2/a/b/blobs/sha256:").unwrap_or_default();
    let Some(at) = shared.blobs.iter().position(|blob| Digest::of(blob).to_string() == hex) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if at == 0 {
        return shared.blobs[0].clone().into_response();
    }
    let count = {
        let mut log = shared.layer.lock().unwrap();
        log.push(range.clone());
        log.len()
    };
    layer_answer(shared.blobs[1].clone(), range, shared.fault, count)
}

fn layer_answer(mut blob: Vec<u8>, range: Option<String>, fault: Fault, count: usize) -> Response {
    let start = range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
    match fault {
        Fault::Busy(times) if count <= times => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Fault::Refused if start > 0 => return StatusCode::RANGE_NOT_SATISFIABLE.into_response(),
        Fault::Altered => blob[1_000_000] ^= 1,
        Fault::Short => blob.truncate(1_000_000.max(start)),
        _ => {}
    }
    let mut response = Response::builder();
    let mut from = 0;
    if start > 0 && fault != Fault::NoRanges {
        from = start;
        let whole = blob.len();
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(CONTENT_RANGE, format!("bytes {start}-{}/{whole}", whole.max(1) - 1));
    }
    let mut body = blob.split_off(from);
    let (limit, stall) = match fault {
        Fault::Cut(after, times) if count <= times => (Some(after), false),
        Fault::NoRanges | Fault::Refused if count == 1 => (Some(1_000_000), false),
        Fault::Stall(after) if count == 1 => (Some(after), true),
        _ => (None, false),
    };
    if fault != Fault::Endless {
        response = response.header(CONTENT_LENGTH, body.len());
    }
    let Some(limit) = limit else {
        if fault == Fault::Endless {
            let zeros =
                futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![0; 65536])));
            let body = futures_util::stream::iter([Ok(Bytes::from(body))]).chain(zeros);
            return response.body(Body::from_stream(body)).unwrap();
        }
        return response.body(Body::from(body)).unwrap();
    };
    body.truncate(limit);
    let pieces: Vec<_> = body.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let end = futures_util::stream::once(async move {
        // Time for what was sent to arrive.
        tokio::time::sleep(Duration::from_millis(if stall { 60_000 } else { 30 })).await;
        Err(std::io::Error::other("cut"))
    });
    response.body(Body::from_stream(futures_util::stream::iter(pieces).chain(end))).unwrap()
}

fn ranges(server: &Server) -> Vec<Option<String>> {
    server.shared.layer.lock().unwrap().clone()
}

fn a_cut_is_gone_on_from() {
    for fault in [
        Fault::Cut(SIZE / 10, 1),
        Fault::Cut(SIZE / 2, 1),
        Fault::Cut(SIZE * 9 / 10, 1),
        Fault::Cut(SIZE / 10, 2),
        Fault::Stall(SIZE / 2),
        Fault::NoRanges,
        Fault::Refused,
    ] {
        let (root, server) = (tempfile::tempdir().unwrap(), serve(fault));
        let (image, report) =
            pull(&sources(root.path()), &server.name).unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        assert!(bytes(&image) == [layer()], "{fault:?}");
        let asked = ranges(&server);
        match fault {
            Fault::Cut(after, times) => {
                let wanted: Vec<_> =
                    (0..=times).map(|n| Some(format!("bytes={}-", n * after)).filter(|_| n > 0)).collect();
                assert_eq!(asked, wanted);
                assert_eq!(report.fetched_bytes, SIZE as u64, "no byte came twice");
            }
            Fault::Refused => assert_eq!((asked.len(), asked[2].clone()), (3, None)),
            _ => assert_eq!(asked.len(), 2, "{fault:?}"),
        }
    }
}

fn a_killed_run_is_gone_on_from() {
    let (root, server) = (tempfile::tempdir().unwrap(), serve(Fault::None));
    let sources = sources(root.path());
    let (whole, digest) = (layer(), Digest::of(&layer()));
    let partial = root.path().join(format!("cache/blobs/{digest}.partial"));
    let pull = || pull(&sources, &server.name).unwrap();
    for (left, asked) in [
        (whole[..1_000_000].to_vec(), vec![Some("bytes=1000000-".to_owned())]),
        (whole.clone(), vec![]),
        // Damaged on the disk: found when all is there, and fetched anew.
        (vec![7; 1_000_000], vec![Some("bytes=1000000-".to_owned()), None]),
        (vec![7; SIZE], vec![None]),
        (vec![7; SIZE + 5], vec![None]),
    ] {
        let _ = std::fs::remove_dir_all(root.path().join("cache"));
        std::fs::create_dir_all(partial.parent().unwrap()).unwrap();
        std::fs::write(&partial, left).unwrap();
        server.shared.layer.lock().unwrap().clear();
        assert!(bytes(&pull().0) == [layer()]);
        assert_eq!(ranges(&server), asked);
        assert!(!partial.exists());
    }
    // Again, and nothing is fetched but the tag; by digest, nothing at all.
    server.shared.all.lock().unwrap().clear();
    let (image, report) = pull();
    assert_eq!((report.fetched_layers, report.cached_layers), (0, 1));
    assert_eq!(*server.shared.all.lock().unwrap(), ["/v2/a/b/manifests/v1"]);
    let pinned = format!("{}@sha256:{}", server.name, image.digest);
    crate::pull(&sources, &pinned).unwrap();
    assert_eq!(server.shared.all.lock().unwrap().len(), 1);
    let (name, shared) = (server.name.clone(), Arc::clone(&server.shared));
    drop(server);
    crate::pull(&sources, &pinned).unwrap();
    assert_eq!(
        crate::pull(&sources, &name).unwrap_err().kind(),
        Kind::Transient,
        "a tag is not answered from memory"
    );
    assert_eq!(shared.all.lock().unwrap().len(), 1);
    // A damaged layer in the cache is found when it is read, and goes.
    let path = root.path().join(format!("cache/blobs/{digest}"));
    std::fs::write(&path, vec![7; SIZE]).unwrap();
    let (image, _) = crate::pull(&sources, &pinned).unwrap();
    let error = std::io::copy(&mut image.layers[0].open().unwrap(), &mut std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("removed from the cache") && !path.exists(), "{error}");
}

fn wrong_bytes_are_refused() {
    for (fault, words) in [
        (Fault::Altered, "others than its digest"),
        (Fault::Short, "only 1000000 of 3000000"),
        (Fault::Endless, "more than the 3000000"),
    ] {
        let (root, server) = (tempfile::tempdir().unwrap(), serve(fault));
        let sources = sources(root.path());
        let error = pull(&sources, &server.name).unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity, "{fault:?}: {error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(sources.cache.find(CacheKind::Blob, &Digest::of(&layer())).unwrap().is_none());
    }
}

fn what_passes_is_tried_again() {
    let (root, server) = (tempfile::tempdir().unwrap(), serve(Fault::Busy(2)));
    pull(&sources(root.path()), &server.name).unwrap();
    assert_eq!(ranges(&server).len(), 3);
    let (root, server) = (tempfile::tempdir().unwrap(), serve(Fault::Busy(99)));
    assert_eq!(pull(&sources(root.path()), &server.name).unwrap_err().kind(), Kind::Transient);
    assert_eq!(ranges(&server).len(), 3);
    // A connection that always breaks: not damage, but trouble on the way. What came stays.
    let (root, server) = (tempfile::tempdir().unwrap(), serve(Fault::Cut(1000, 99)));
    let sources = sources(root.path());
    assert_eq!(pull(&sources, &server.name).unwrap_err().kind(), Kind::Transient);
    let list = sources.cache.list().unwrap();
    let partial = list.iter().find(|info| info.partial).unwrap();
    assert_eq!(partial.path.metadata().unwrap().len(), 3000);
    let error = pull(&sources, &server.name.replace(":v1", ":v2")).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}

fn tokens_are_asked_for() {
    let (root, server) = (tempfile::tempdir().unwrap(), serve_with(Fault::None, Some(""), |m| m));
    pull(&sources(root.path()), &server.name).unwrap();
    let asked = server.shared.all.lock().unwrap().iter().filter(|path| path.starts_with("/token")).count();
    assert_eq!(asked, 1);
    let (root, server) = (tempfile::tempdir().unwrap(), serve_with(Fault::None, Some("p"), |m| m));
    let sources = sources(root.path());
    let error = pull(&sources, &server.name).unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorised, "{error}");
    let host = server.name.split('/').next().unwrap();
    for words in ["does not exist, or needs credentials", "auth.json", &format!("forkd login {host}")] {
        assert!(error.to_string().contains(words), "{error}");
    }
    for (pair, good) in [("dTpw", true), ("dTp3cm9uZw==", false)] {
        let _ = std::fs::remove_dir_all(root.path().join("cache"));
        let json = format!(r#"{{"auths":{{"{host}":{{"auth":"{pair}"}}}}}}"#);
        std::fs::write(root.path().join("auth.json"), json).unwrap();
        match pull(&sources, &server.name) {
            Ok(_) => assert!(good),
            Err(error) => {
                assert_eq!((error.kind(), good), (Kind::Unauthorised, false), "{error}");
                assert!(
                    !error.to_string().contains("wrong") && error.to_string().contains("auth.json"),
                    "{error}"
                );
            }
        }
    }
}

fn two_at_once_fetch_once() {
    let (root, server) = (tempfile::tempdir().unwrap(), serve(Fault::Cut(1_000_000, 1)));
    let sources = sources(root.path());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert!(bytes(&pull(&sources, &server.name).unwrap().0) == [layer()]));
        }
    });
    assert_eq!(ranges(&server).len(), 2);
}

fn altered_manifests_are_refused() {
    let big = |m: String| m.replace("\"size\":3000000", "\"size\":9000000000000000000");
    let (root, server) = (tempfile::tempdir().unwrap(), serve_with(Fault::None, None, big));
    let error = pull(&sources(root.path()), &server.name).unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity, "{error}");
    let other = Digest::of(b"other");
    let (root, server) = (tempfile::tempdir().unwrap(), serve(Fault::None));
    let error = pull(&sources(root.path()), &format!("{}@sha256:{other}", server.name)).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    let huge = |m: String| format!("{m}{}", " ".repeat(5 << 20));
    let (root, server) = (tempfile::tempdir().unwrap(), serve_with(Fault::None, None, huge));
    assert_eq!(pull(&sources(root.path()), &server.name).unwrap_err().kind(), Kind::Integrity);
}
