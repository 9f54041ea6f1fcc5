//! Blobs on their way into a registry (distribution-spec 1.1, pushing blobs): asked for first, taken over from a neighbour where that is
//! possible, else sent in one piece. Blobs of releases are small, so that what is lost with a connection is little.

use crate::client::{CallBody, CallTarget, RegistryCall, RegistryClient};
use forkd_core::hub::BlobFile;
use forkd_core::{Cancel, Error, Kind, Progress, Result};
use forkd_format::Digest;
use forkd_http::{FileBody, HttpClient, Try};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Method, Response, StatusCode};
use std::cell::Cell;
use url::Url;

impl RegistryClient {
    /// Whether a blob is there.
    ///
    /// # Errors
    /// Where the registry does not say.
    pub(crate) fn has_blob(&self, digest: &Digest, cancel: &Cancel) -> Result<bool> {
        let http = self.http()?;
        let path = format!("blobs/sha256:{digest}");
        let asked =
            http.with_retries(cancel, || self.call(&http, &RegistryCall::new(Method::HEAD, &path), cancel));
        match asked {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Has a blob taken over from another repository of the registry, where it is there and we may read it.
    ///
    /// # Errors
    /// Where the registry cannot be asked; a refusal is none.
    pub(crate) fn mount_blob(&self, digest: &Digest, from: &str, cancel: &Cancel) -> Result<bool> {
        self.door.add_neighbour(from);
        let http = self.http()?;
        let path = format!("blobs/uploads/?mount=sha256:{digest}&from={from}");
        let call = || RegistryCall::new(Method::POST, &path).header(CONTENT_LENGTH, "0");
        let answer = http.with_retries(cancel, || self.call(&http, &call(), cancel));
        match answer {
            Ok(response) if response.status() == StatusCode::CREATED => Ok(true),
            Ok(response) => {
                // An upload was begun instead, which nobody will finish.
                if let Ok(url) = self.upload_url(&response) {
                    let cancelled = RegistryCall {
                        target: CallTarget::Url(url),
                        ..RegistryCall::new(Method::DELETE, "")
                    };
                    let _ = self.call(&http, &cancelled, cancel);
                }
                Ok(false)
            }
            Err(error) if matches!(error.kind(), Kind::Interrupted | Kind::Transient) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Sends a blob.
    ///
    /// # Errors
    /// [`Kind::Integrity`] where the file is not what the digest says; those of the registry.
    pub(crate) fn put_blob(
        &self,
        file: BlobFile<'_>,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<()> {
        let http = self.http()?;
        let (told, careful) = (Cell::new(0), Cell::new(false));
        // Bytes that are sent once more do not count twice.
        let tell = |sent: u64| {
            progress.advance(sent.saturating_sub(told.get()));
            told.set(told.get().max(sent));
        };
        http.with_retries(cancel, || {
            let outcome = self.try_put(
                &http,
                file,
                FileBody { path: file.path, part: None, tell: &tell, careful: careful.get() },
                cancel,
            );
            careful.set(outcome.as_ref().is_err_and(|failed| failed.error.kind() == Kind::Transient));
            outcome
        })?;
        tell(file.blob.size);
        Ok(())
    }

    fn try_put(&self, http: &HttpClient, file: BlobFile<'_>, body: FileBody<'_>, cancel: &Cancel) -> Try<()> {
        let begin = RegistryCall::new(Method::POST, "blobs/uploads/").header(CONTENT_LENGTH, "0");
        let begun = self.call(http, &begin, cancel)?;
        let mut url = self.upload_url(&begun)?;
        url.query_pairs_mut().append_pair("digest", &format!("sha256:{}", file.blob.digest));
        let put = RegistryCall {
            target: CallTarget::Url(url),
            body: CallBody::File(body),
            ..RegistryCall::new(Method::PUT, "")
        };
        self.call(http, &put.header(CONTENT_TYPE, "application/octet-stream"), cancel).map(drop)
    }

    /// Where the registry wants an upload.
    fn upload_url(&self, response: &Response) -> Result<Url> {
        let wrong = |why: &str| Error::new(Kind::General, format!("{}: {why}", self.reference()));
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let url = location.and_then(|location| response.url().join(location).ok());
        let url = url.ok_or_else(|| wrong("the registry began an upload without saying where"))?;
        match (response.url().scheme(), url.scheme()) {
            (_, "https") | ("http", "http") => Ok(url),
            _ => Err(wrong("the registry wants an upload without TLS")),
        }
    }
}
