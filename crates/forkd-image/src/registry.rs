//! The distribution protocol, as far as pulling needs it: who may read, manifests, and where layers are.

use crate::credentials::{CredentialFiles, Credentials};
use crate::manifest::{ACCEPT, MAX_MANIFEST};
use crate::reference::RegistryReference;
use forkd_core::{Cancel, Error, Kind, Result};
use forkd_format::Digest;
use forkd_http::challenge::{self, Challenge};
use forkd_http::{Failure, HttpClient, HttpOptions, HttpRequest, SmallAnswer, Try, retry_after, same_origin};
use reqwest::header::{
    ACCEPT as ACCEPT_HEADER, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use url::form_urlencoded::Serializer;
use url::{Host, Url};

/// One repository of a registry. No connection is made before it is asked something.
pub(crate) struct RegistryClient {
    pub(crate) reference: RegistryReference,
    files: CredentialFiles,
    options: HttpOptions,
    http: Mutex<Option<Arc<HttpClient>>>,
    auth: Mutex<Auth>,
}

/// What lets us in; nothing until a server asks for it.
#[derive(Default)]
struct Auth {
    header: Option<HeaderValue>,
    /// Where the credentials came from, once they have been looked for.
    from: Option<PathBuf>,
}

/// A manifest or index as the registry has it.
pub(crate) struct ManifestBytes {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) content_type: Option<String>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct Refusals {
    #[serde(default)]
    errors: Vec<RefusalCode>,
}

#[derive(Deserialize)]
struct RefusalCode {
    #[serde(default)]
    code: String,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for RegistryClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryClient")
            .field("reference", &self.reference.to_string())
            .finish_non_exhaustive()
    }
}

/// What is asked for below a repository, from which byte on, and until when all of a small answer must be here.
#[derive(Clone, Copy)]
struct RegistryPath<'a> {
    path: &'a str,
    from: Option<u64>,
    deadline: Option<Instant>,
}

impl RegistryClient {
    pub(crate) fn new(reference: RegistryReference, options: &HttpOptions, files: &CredentialFiles) -> Self {
        Self {
            reference,
            files: files.clone(),
            options: options.clone(),
            http: Mutex::default(),
            auth: Mutex::default(),
        }
    }

    pub(crate) fn http(&self) -> Result<Arc<HttpClient>> {
        let mut http = locked(&self.http);
        if let Some(http) = &*http {
            return Ok(Arc::clone(http));
        }
        let made = Arc::new(HttpClient::new(&HttpOptions {
            direct: self.reference.is_loopback(),
            ..self.options.clone()
        })?);
        *http = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Fetches what lies under a tag or digest.
    pub(crate) fn manifest(&self, name: &str, cancel: &Cancel) -> Result<ManifestBytes> {
        let http = self.http()?;
        http.with_retries(cancel, || {
            let small = SmallAnswer { limit: MAX_MANIFEST, deadline: http.answer_deadline() };
            let path = format!("manifests/{name}");
            let asked = RegistryPath { path: &path, from: None, deadline: Some(small.deadline) };
            let response = self.ask(&http, &asked, cancel)?;
            let headers = response.headers().clone();
            let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let what = self.reference.to_string();
            let bytes = http.read_small(response, small, &what, cancel)?;
            let digest = Digest::of(&bytes);
            let said = text("docker-content-digest");
            let said = said.as_deref().and_then(|said| said.strip_prefix("sha256:"));
            let wanted = name.strip_prefix("sha256:").or(said);
            if let Some(wanted) = wanted.filter(|wanted| *wanted != digest.to_string()) {
                let message = format!(
                    "{what}: the manifest that the registry sent has sha256 {digest}; it should be {}",
                    crate::shown::shown(wanted)
                );
                return Err(Error::new(Kind::Integrity, message).into());
            }
            Ok(ManifestBytes { bytes, digest, content_type: text("content-type") })
        })
    }

    /// Fetches a small blob: a configuration.
    pub(crate) fn small_blob(&self, digest: &Digest, size: u64, cancel: &Cancel) -> Result<Vec<u8>> {
        let http = self.http()?;
        http.with_retries(cancel, || {
            let small = SmallAnswer { limit: size, deadline: http.answer_deadline() };
            let path = format!("blobs/sha256:{digest}");
            let asked = RegistryPath { path: &path, from: None, deadline: Some(small.deadline) };
            let response = self.ask(&http, &asked, cancel)?;
            let what = format!("{}: the configuration", self.reference);
            let bytes = http.read_small(response, small, &what, cancel)?;
            if bytes.len() as u64 != size || Digest::of(&bytes) != *digest {
                let message = format!(
                    "{what} has {} bytes with sha256 {}; the manifest says {size} bytes with {digest}",
                    bytes.len(),
                    Digest::of(&bytes)
                );
                return Err(Error::new(Kind::Integrity, message).into());
            }
            Ok(bytes)
        })
    }

    /// Opens a blob from an offset on; the answer's status tells whether the server took the range.
    pub(crate) fn blob(
        &self,
        http: &HttpClient,
        digest: &Digest,
        offset: u64,
        cancel: &Cancel,
    ) -> Try<Response> {
        let (path, from) = (format!("blobs/sha256:{digest}"), Some(offset).filter(|offset| *offset > 0));
        self.ask(http, &RegistryPath { path: &path, from, deadline: None }, cancel)
    }

    /// One try, and a second with credentials where the server asks for them.
    fn ask(&self, http: &HttpClient, asked: &RegistryPath<'_>, cancel: &Cancel) -> Try<Response> {
        let RegistryPath { path, from, deadline } = *asked;
        let what = self.reference.to_string();
        let url = format!("{}/{}/{path}", self.reference.base(), self.reference.repository());
        let url = Url::parse(&url).map_err(|e| Error::new(Kind::Usage, format!("{what}: {e}")))?;
        let mut again = true;
        loop {
            let mut headers = HeaderMap::new();
            if path.starts_with("manifests/") {
                headers.insert(ACCEPT_HEADER, HeaderValue::from_static(ACCEPT));
            }
            if let Some(range) = from.and_then(|from| HeaderValue::try_from(format!("bytes={from}-")).ok()) {
                headers.insert(RANGE, range);
            }
            let used = locked(&self.auth).header.clone();
            if let Some(header) = &used {
                headers.insert(AUTHORIZATION, header.clone());
            }
            let request = HttpRequest { headers, deadline, ..HttpRequest::get(url.clone()) };
            let response = http.send(&request, &what, cancel)?;
            let status = response.status();
            if status.is_success() || (from.is_some() && status == StatusCode::RANGE_NOT_SATISFIABLE) {
                return Ok(response);
            }
            // Only the registry itself may ask for credentials, not where it redirects to.
            let own = same_origin(response.url(), &url);
            if status == StatusCode::UNAUTHORIZED && own && again {
                again = false;
                self.authorise(http, &response, used.as_ref(), cancel)?;
                continue;
            }
            return Err(self.refusal(http, response, path, cancel));
        }
    }

    /// Gets what a server asks for, unless another thread just has.
    fn authorise(
        &self,
        http: &HttpClient,
        response: &Response,
        used: Option<&HeaderValue>,
        cancel: &Cancel,
    ) -> Try<()> {
        let mut auth = locked(&self.auth);
        if auth.header.as_ref() != used {
            return Ok(());
        }
        let asked = response.headers().get_all(WWW_AUTHENTICATE);
        let challenges: Vec<Challenge> =
            asked.iter().filter_map(|v| v.to_str().ok()).flat_map(challenge::parse).collect();
        let found = self.files.find(&self.reference, cancel)?;
        let (credentials, from) = found.map_or((None, None), |(c, path)| (Some(c), Some(path)));
        auth.from = from;
        let has = |scheme: &str| challenges.iter().find(|c| c.scheme == scheme);
        if let Some(bearer) = has("bearer") {
            let from = auth.from.clone();
            let token = self.token(http, bearer, credentials.as_ref(), from.as_ref(), cancel)?;
            auth.header = Some(header(&format!("Bearer {token}"))?);
        } else if has("basic").is_some() {
            let Some(Credentials::Password { user, password }) = &credentials else {
                return Err(self.unauthorised(auth.from.as_ref()).into());
            };
            auth.header = Some(basic(user, &password.0)?);
        } else {
            return Err(self.unauthorised(auth.from.as_ref()).into());
        }
        Ok(())
    }

    /// Asks the registry's token server.
    fn token(
        &self,
        http: &HttpClient,
        bearer: &Challenge,
        credentials: Option<&Credentials>,
        from: Option<&PathBuf>,
        cancel: &Cancel,
    ) -> Try<String> {
        let host = self.reference.host();
        let general = |why: &str| Error::new(Kind::General, format!("{host}: {why}"));
        let realm = bearer.get("realm").and_then(|realm| Url::parse(realm).ok());
        let mut realm = realm.ok_or_else(|| general("it asks for a token without saying where"))?;
        if !may_have_credentials(&realm, self.reference.is_loopback()) {
            return Err(general("it wants credentials sent without TLS").into());
        }
        let mut fields = vec![("scope", format!("repository:{}:pull", self.reference.repository()))];
        fields.extend(bearer.get("service").map(|service| ("service", service.to_owned())));
        let request = match credentials {
            Some(Credentials::Identity(token)) => {
                fields.extend([
                    ("grant_type", "refresh_token".to_owned()),
                    ("client_id", "forkd".to_owned()),
                    ("refresh_token", token.0.clone()),
                ]);
                let form = Serializer::new(String::new()).extend_pairs(fields).finish();
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind)]);
                HttpRequest { method: Method::POST, headers, form: Some(form), ..HttpRequest::get(realm) }
            }
            other => {
                realm.query_pairs_mut().extend_pairs(fields);
                let mut request = HttpRequest::get(realm);
                if let Some(Credentials::Password { user, password }) = other {
                    request.headers.insert(AUTHORIZATION, basic(user, &password.0)?);
                }
                request
            }
        };
        let what = format!("{host}: the token server");
        let small = SmallAnswer { limit: 1 << 20, deadline: http.answer_deadline() };
        let request = HttpRequest { deadline: Some(small.deadline), ..request };
        let response = http.send(&request, &what, cancel)?;
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.unauthorised(from).into()),
            status if !status.is_success() => {
                let kind = if is_transient(status) { Kind::Transient } else { Kind::General };
                let wait = retry_after(response.headers());
                return Err(Failure {
                    error: Error::new(kind, format!("{what} answers {status}")),
                    retry_after: wait,
                });
            }
            _ => {}
        }
        let bytes = http.read_small(response, small, &what, cancel)?;
        let token: Option<Token> = serde_json::from_slice(&bytes).ok();
        let token = token.and_then(|token| token.token.or(token.access_token));
        token.ok_or_else(|| general("the token server's answer has no token").into())
    }

    fn unauthorised(&self, from: Option<&PathBuf>) -> Error {
        let (host, repository) = (self.reference.host(), self.reference.repository());
        let login = format!("`docker login {host}` or `podman login {host}`");
        let (message, hint) = match from {
            Some(path) => (
                format!(
                    "{host} refuses '{repository}' to the credentials from {}: the repository does not exist, or they may not read \
it or have expired",
                    path.display()
                ),
                format!("log in again by {login}"),
            ),
            None => (
                format!(
                    "{host}: '{repository}' does not exist, or needs credentials, and there are none for this host in: {}",
                    self.files.names()
                ),
                format!("log in by {login}"),
            ),
        };
        Error::new(Kind::Unauthorised, message).hint(hint)
    }

    /// What an answer that is no success means.
    fn refusal(&self, http: &HttpClient, response: Response, path: &str, cancel: &Cancel) -> Failure {
        let status = response.status();
        let (host, repository) = (self.reference.host(), self.reference.repository());
        let wait = retry_after(response.headers());
        let error = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return self.unauthorised(locked(&self.auth).from.as_ref()).into();
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                let small = SmallAnswer { limit: 64 << 10, deadline: http.answer_deadline() };
                let code = http.read_small(response, small, host, cancel).ok();
                let code = code.and_then(|bytes| serde_json::from_slice::<Refusals>(&bytes).ok());
                let unknown = code.is_some_and(|r| r.errors.iter().any(|e| e.code == "NAME_UNKNOWN"));
                let missing = |message: String| Error::new(Kind::NotFound, message);
                match path.split_once('/') {
                    _ if unknown => {
                        missing(format!("{host} has no repository '{repository}'")).hint("check the name")
                    }
                    Some(("manifests", name)) => missing(format!("{host} has no '{name}' in '{repository}'"))
                        .hint("check the name and tag"),
                    _ => missing(format!(
                        "{}: the registry lacks {path}, which the image names",
                        self.reference
                    )),
                }
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let message = format!("{host} answers {status}: too many pulls in a short time");
                Error::new(Kind::Transient, message).hint("log in for more, or try again later")
            }
            _ if is_transient(status) => {
                Error::new(Kind::Transient, format!("{host} answers {status}")).hint("try again later")
            }
            _ => Error::new(Kind::General, format!("{}: the registry answers {status}", self.reference)),
        };
        Failure { error, retry_after: wait }
    }
}

/// Whether a token server may be told who we are: over TLS, or where both it and the registry are on this machine.
fn may_have_credentials(realm: &Url, registry_is_here: bool) -> bool {
    let here = match realm.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    realm.scheme() == "https" || (realm.scheme() == "http" && registry_is_here && here)
}

fn is_transient(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
        || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
}

fn basic(user: &str, password: &str) -> Result<HeaderValue> {
    use base64::Engine;
    header(&format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"))))
}

/// A header that no log shows.
fn header(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| Error::new(Kind::General, "a token with characters that no header may hold"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_go_over_tls_or_nowhere_else() {
        let may = |realm: &str, here| may_have_credentials(&realm.parse().unwrap(), here);
        assert!(may("https://auth.example/token", false) && may("https://auth.example/token", true));
        assert!(may("http://127.0.0.1:5001/token", true) && may("http://localhost/token", true));
        assert!(may("http://[::1]:5001/token", true));
        assert!(!may("http://auth.example/token", false) && !may("http://auth.example/token", true));
        assert!(!may("http://127.0.0.1/token", false));
        assert!(!may("http://127.0.0.1.example/token", true) && !may("ftp://127.0.0.1/", true));
    }
}
