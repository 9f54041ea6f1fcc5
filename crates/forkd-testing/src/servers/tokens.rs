//! A token server as registries name it (distribution's token authentication): it lets in users by their names and passwords, and says
//! in a signed token what each may do.

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// A running token server. Users: `writer` with the password `write`, `reader` with `read`; everybody else may read what is below `public/`.
pub struct TokenServer {
    address: SocketAddr,
    /// What its tokens are checked with.
    pub certificate: PathBuf,
    state: Arc<TokenState>,
    runtime: Option<tokio::runtime::Runtime>,
}

struct TokenState {
    dir: PathBuf,
    /// base64 of the certificate's DER.
    x5c: String,
    /// How long tokens are good, in seconds.
    lifetime: AtomicI64,
    asked: Mutex<Vec<String>>,
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl TokenServer {
    /// Starts one, with a key of its own in the folder.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        let certificate = dir.join("token.crt");
        let key = dir.join("token.key");
        let output = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test", "-keyout",
            ])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let pem = fs::read_to_string(&certificate).unwrap();
        let x5c = pem.lines().filter(|line| !line.starts_with("---")).collect();
        let state = Arc::new(TokenState {
            dir: dir.to_owned(),
            x5c,
            lifetime: AtomicI64::new(300),
            asked: Mutex::default(),
        });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/token", get(token)).with_state(Arc::clone(&state));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { address, certificate, state, runtime: Some(runtime) }
    }

    /// Where registries send who asks.
    #[must_use]
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.address)
    }

    /// From now on tokens are good for so many seconds; below 0: they ended before they were given.
    pub fn set_lifetime(&self, seconds: i64) {
        self.state.lifetime.store(seconds, Ordering::Relaxed);
    }

    /// The queries that came.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.state.asked.lock().unwrap().clone()
    }
}

async fn token(
    State(state): State<Arc<TokenState>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<String, StatusCode> {
    let query = query.unwrap_or_default();
    state.asked.lock().unwrap().push(query.clone());
    let header = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    // base64 of writer:write and reader:read.
    let user = match header {
        "" => "",
        "Basic d3JpdGVyOndyaXRl" => "writer",
        "Basic cmVhZGVyOnJlYWQ=" => "reader",
        _ => return Err(StatusCode::UNAUTHORIZED),
    };
    let mut access = Vec::new();
    for scope in query.split('&').filter_map(|pair| pair.strip_prefix("scope=")) {
        let scope = scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
        let [kind, name, actions] = scope.splitn(3, ':').collect::<Vec<_>>()[..] else { continue };
        let allowed = |action: &&str| match user {
            "writer" => true,
            "reader" => *action == "pull",
            _ => *action == "pull" && name.starts_with("public/"),
        };
        let actions: Vec<String> =
            actions.split(',').filter(allowed).map(|action| format!("\"{action}\"")).collect();
        access.push(format!(r#"{{"type":"{kind}","name":"{name}","actions":[{}]}}"#, actions.join(",")));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let lifetime = state.lifetime.load(Ordering::Relaxed);
    let head = format!(r#"{{"typ":"JWT","alg":"RS256","x5c":["{}"]}}"#, state.x5c);
    let body = format!(
        r#"{{"iss":"test","sub":"{user}","aud":"test","exp":{},"nbf":{},"iat":{now},"jti":"x","access":[{}]}}"#,
        now.saturating_add_signed(lifetime),
        now - 1000,
        access.join(",")
    );
    let signed = format!("{}.{}", base64url(head.as_bytes()), base64url(body.as_bytes()));
    let text = state.dir.join(format!("{now}-{}.jwt", state.asked.lock().unwrap().len()));
    fs::write(&text, &signed).unwrap();
    let output = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(state.dir.join("token.key"))
        .arg(&text)
        .output()
        .unwrap();
    assert!(output.status.success());
    Ok(format!(r#"{{"token":"{signed}.{}"}}"#, base64url(&output.stdout)))
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            out.push(char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    out
}
