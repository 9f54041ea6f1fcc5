//! The distribution protocol, as far as pulling needs it: who may read, manifests, and where layers are.

use crate::credentials::CredentialFiles;
use crate::manifest::{ACCEPT, MAX_MANIFEST};
use crate::reference::RegistryReference;
use forkd_core::{Cancel, Error, Kind, Result};
use forkd_format::Digest;
use forkd_http::{Failure, HttpClient, HttpOptions, HttpRequest, SmallAnswer, Try, retry_after, same_origin};
use reqwest::header::{ACCEPT as ACCEPT_HEADER, AUTHORIZATION, HeaderMap, HeaderValue, RANGE};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use url::Url;

/// One repository of a registry. No connection is made before it is asked something.
pub(crate) struct RegistryClient {
    pub(crate) reference: RegistryReference,
    pub(crate) files: CredentialFiles,
    options: HttpOptions,
    http: Mutex<Option<Arc<HttpClient>>>,
    pub(crate) auth: Mutex<RegistryAuth>,
}

/// What lets us in; nothing until a server asks for it.
#[derive(Default)]
pub(crate) struct RegistryAuth {
    pub(crate) header: Option<HeaderValue>,
    /// Where the credentials came from, once they have been looked for.
    pub(crate) from: Option<PathBuf>,
}

/// A manifest or index as the registry has it.
pub(crate) struct ManifestBytes {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) content_type: Option<String>,
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

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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

pub(crate) fn is_transient(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
        || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
}
