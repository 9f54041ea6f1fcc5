//! One repository of a registry: requests, and what its answers mean.

use crate::auth::RegistryDoor;
use crate::options::{RegistryOptions, locked};
use crate::reference::RegistryReference;
use crate::refusal::refusal;
use forkd_core::hub::{Answer, Location, Request};
use forkd_core::{Cancel, Error, Kind, Result};
use forkd_format::Digest;
use forkd_http::{
    Authority, Failure, FileBody, HttpClient, HttpOptions, HttpRequest, SharedAuthority, SmallAnswer, Try,
    challenge, same_origin,
};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use url::Url;

/// The largest manifest that is read, in bytes: what registries take.
const MAX_MANIFEST: u64 = 4 << 20;

/// One repository of a registry. No connection is made before it is asked something.
pub struct RegistryClient {
    pub(crate) door: Arc<RegistryDoor>,
    http: Mutex<Option<Arc<HttpClient>>>,
}

/// A manifest or index as the registry has it.
#[derive(Debug)]
pub struct ManifestBytes {
    pub bytes: Vec<u8>,
    pub digest: Digest,
    pub content_type: Option<String>,
}

impl std::fmt::Debug for RegistryClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryClient")
            .field("reference", &self.reference().to_string())
            .finish_non_exhaustive()
    }
}

/// What is asked of a registry.
pub(crate) struct RegistryCall<'a> {
    pub(crate) method: Method,
    pub(crate) target: CallTarget<'a>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: CallBody<'a>,
    pub(crate) deadline: Option<Instant>,
}

/// Where a request goes.
pub(crate) enum CallTarget<'a> {
    /// Below the repository.
    Path(&'a str),
    /// Where the registry said.
    Url(Url),
}

/// What goes with it.
pub(crate) enum CallBody<'a> {
    Nothing,
    Text(String),
    File(FileBody<'a>),
}

impl<'a> RegistryCall<'a> {
    pub(crate) fn new(method: Method, path: &'a str) -> Self {
        Self {
            method,
            target: CallTarget::Path(path),
            headers: HeaderMap::new(),
            body: CallBody::Nothing,
            deadline: None,
        }
    }

    pub(crate) fn get(path: &'a str) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::try_from(value) {
            self.headers.insert(name, value);
        }
        self
    }

    fn path(&self) -> &str {
        match &self.target {
            CallTarget::Path(path) => path,
            CallTarget::Url(_) => "blobs/uploads",
        }
    }
}

impl RegistryClient {
    /// A client that reads.
    #[must_use]
    pub fn new(reference: RegistryReference, options: &RegistryOptions) -> Self {
        Self { door: Arc::new(RegistryDoor::new(reference, options, "pull")), http: Mutex::default() }
    }

    /// A client that writes too.
    #[must_use]
    pub fn writing(reference: RegistryReference, options: &RegistryOptions) -> Self {
        Self { door: Arc::new(RegistryDoor::new(reference, options, "pull,push")), http: Mutex::default() }
    }

    /// What it is a client of.
    #[must_use]
    pub fn reference(&self) -> &RegistryReference {
        &self.door.reference
    }

    /// The connections, made when they are first needed.
    ///
    /// # Errors
    /// Where HTTP cannot be set up.
    pub fn http(&self) -> Result<Arc<HttpClient>> {
        let mut http = locked(&self.http);
        if let Some(http) = &*http {
            return Ok(Arc::clone(http));
        }
        let options = HttpOptions {
            direct: self.reference().is_loopback(),
            authority: Some(SharedAuthority(self.door.clone())),
            ..self.door.options.http.clone()
        };
        let made = Arc::new(HttpClient::new(&options)?);
        *http = Some(Arc::clone(&made));
        Ok(made)
    }

    /// The URL of what lies below the repository.
    pub(crate) fn url(&self, path: &str) -> Result<Url> {
        let url = format!(
            "{}/{}/{path}",
            self.reference().base(self.door.is_plain()),
            self.reference().repository()
        );
        Url::parse(&url).map_err(|e| Error::new(Kind::Usage, format!("{}: {e}", self.reference())))
    }

    /// Fetches what lies under a tag or digest, of the media types that are named.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Unauthorised`], [`Kind::Transient`]; [`Kind::Integrity`] where it has another digest.
    pub fn manifest(&self, name: &str, accept: &str, cancel: &Cancel) -> Result<ManifestBytes> {
        let http = self.http()?;
        http.with_retries(cancel, || {
            let small = SmallAnswer { limit: MAX_MANIFEST, deadline: http.answer_deadline() };
            let path = format!("manifests/{name}");
            let mut call = RegistryCall::get(&path).header(ACCEPT, accept);
            call.deadline = Some(small.deadline);
            let response = self.call(&http, &call, cancel)?;
            let headers = response.headers().clone();
            let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let what = self.reference().to_string();
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
    ///
    /// # Errors
    /// As [`RegistryClient::manifest`].
    pub fn small_blob(&self, digest: &Digest, size: u64, cancel: &Cancel) -> Result<Vec<u8>> {
        let http = self.http()?;
        http.with_retries(cancel, || {
            let small = SmallAnswer { limit: size, deadline: http.answer_deadline() };
            let path = format!("blobs/sha256:{digest}");
            let mut call = RegistryCall::get(&path);
            call.deadline = Some(small.deadline);
            let response = self.call(&http, &call, cancel)?;
            let what = format!("{}: the configuration", self.reference());
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
    ///
    /// # Errors
    /// As [`RegistryClient::manifest`].
    pub fn blob(&self, http: &HttpClient, digest: &Digest, offset: u64, cancel: &Cancel) -> Try<Response> {
        let path = format!("blobs/sha256:{digest}");
        let call = RegistryCall::get(&path);
        let call = if offset > 0 { call.header(RANGE, &format!("bytes={offset}-")) } else { call };
        self.call(http, &call, cancel)
    }

    /// Opens a range of a blob, as any object of a web server.
    ///
    /// # Errors
    /// As [`RegistryClient::manifest`].
    pub fn open_blob(&self, digest: &Digest, request: &Request, cancel: &Cancel) -> Result<Answer> {
        let location = Location::of_url(&self.url(&format!("blobs/sha256:{digest}"))?)?;
        self.http()?.request(&location, request, cancel)
    }

    /// One try, and a second with credentials where the server asks for them.
    pub(crate) fn call(&self, http: &HttpClient, call: &RegistryCall<'_>, cancel: &Cancel) -> Try<Response> {
        let what = self.reference().to_string();
        let url = match &call.target {
            CallTarget::Path(path) => self.url(path)?,
            CallTarget::Url(url) => url.clone(),
        };
        // Only the registry itself is told who we are, and may ask: not where it sends us.
        let may_know = same_origin(&url, &self.url("")?);
        let mut again = true;
        loop {
            let mut headers = call.headers.clone();
            let used = self.door.header(&url);
            if let Some(header) = &used {
                headers.insert(AUTHORIZATION, header.clone());
            }
            let form = match &call.body {
                CallBody::Text(text) => Some(text.clone()),
                _ => None,
            };
            let request = HttpRequest {
                method: call.method.clone(),
                url: url.clone(),
                headers,
                form,
                deadline: call.deadline,
            };
            let response = match &call.body {
                CallBody::File(file) => http.send_file(&request, *file, &what, cancel)?,
                _ => http.send(&request, &what, cancel)?,
            };
            let status = response.status();
            let ranged = call.headers.contains_key(RANGE);
            if status.is_success() || (ranged && status == StatusCode::RANGE_NOT_SATISFIABLE) {
                return Ok(response);
            }
            let asks = may_know && same_origin(response.url(), &url);
            if status == StatusCode::UNAUTHORIZED && asks && again {
                again = false;
                self.door.knock(http, &challenge::of(&response), used.as_ref(), cancel)?;
                continue;
            }
            return Err(self.refusal(http, response, call.path(), cancel));
        }
    }

    /// What an answer that is no success means.
    pub(crate) fn refusal(
        &self,
        http: &HttpClient,
        response: Response,
        path: &str,
        cancel: &Cancel,
    ) -> Failure {
        let unauthorised = || self.door.unauthorised(self.door.from().as_ref());
        refusal(http, response, (self.reference(), path), &unauthorised, cancel)
    }
}
