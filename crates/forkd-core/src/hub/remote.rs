//! The port to where packs lie: transports implement it, operations use it.

use crate::env::{Cancel, Progress};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::Read;
use std::path::Path;
use url::Url;

/// A URL that can be printed: user information, query and fragment never appear in text made from it, because a presigned
/// query is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Location(Url);

impl Location {
    /// Parses an `http:`, `https:` or `file:` URL.
    ///
    /// # Errors
    /// [`Kind::Usage`]; the message does not repeat the text, which may hold a secret.
    pub fn parse(text: &str) -> Result<Self> {
        let url = Url::parse(text).map_err(|e| {
            Error::new(Kind::Usage, format!("not a URL ({e}); expected http:, https: or file:"))
        })?;
        match url.scheme() {
            "http" | "https" | "file" => Ok(Self(url)),
            other => Err(Error::new(
                Kind::Usage,
                format!("'{other}:' URLs are not supported; expected http:, https: or file:"),
            )),
        }
    }

    /// Of a URL that we made ourselves.
    ///
    /// # Errors
    /// As [`Location::parse`].
    pub fn of_url(url: &Url) -> Result<Self> {
        Self::parse(url.as_str())
    }

    /// Of a file of this host, by its absolute path.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a path that is not absolute.
    pub fn of_file(path: &Path) -> Result<Self> {
        let wrong = |()| Error::new(Kind::Usage, format!("{} is no absolute path", path.display()));
        Url::from_file_path(path).map(Self).map_err(wrong)
    }

    /// The URL itself, for the transport only.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// The digest in a `#sha256=…` fragment.
    ///
    /// # Errors
    /// [`Kind::Usage`] where the fragment is there but holds no digest.
    pub fn pinned_digest(&self) -> Result<Option<forkd_format::Digest>> {
        // A misspelt pin must not pass for none.
        let Some(fragment) = self.0.fragment() else { return Ok(None) };
        let wrong =
            |why: &str| Error::new(Kind::Usage, format!("the URL's fragment: {why}; expected #sha256=<hex>"));
        let hex = fragment.strip_prefix("sha256=").ok_or_else(|| wrong("not a digest"))?;
        hex.to_ascii_lowercase()
            .parse()
            .map(Some)
            .map_err(|e: forkd_format::FormatError| wrong(&e.to_string()))
    }

    /// What names it in the cache and in locks: SHA-256 of the URL, which may hold a secret.
    pub(crate) fn digest(&self) -> forkd_format::Digest {
        forkd_format::Digest::of(self.0.as_str().as_bytes())
    }

    /// Whether it lies on this host.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.0.scheme() == "file"
    }

    /// The same without what may pin a digest: what a registry says goes before it.
    #[must_use]
    pub fn without_fragment(&self) -> Self {
        let mut url = self.0.clone();
        url.set_fragment(None);
        Self(url)
    }

    /// A URL relative to this one; an absolute one stands for itself. The query is not carried over.
    ///
    /// # Errors
    /// As [`Location::parse`].
    pub fn join(&self, relative: &str) -> Result<Self> {
        let joined = self.0.join(relative).map_err(|e| Error::new(Kind::Usage, format!("not a URL: {e}")))?;
        Self::parse(joined.as_str())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.0.scheme())?;
        if let Some(host) = self.0.host_str() {
            f.write_str(host)?;
        }
        if let Some(port) = self.0.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(self.0.path())
    }
}

impl Serialize for Location {
    /// As it is displayed: without user information, query and fragment.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which copy of an object a server has: told by the server, sent back to it to ask for the same copy (RFC 9110, 8.8).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validator {
    /// The entity tag, with its quotes; only a strong one is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// When it was last changed, as the server wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}

impl Validator {
    /// Whether the server told nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The first byte that is wanted.
    pub start: u64,
    /// The byte behind the last one that is wanted; `None` for all that there are.
    pub end: Option<u64>,
    /// The copy that the bytes must be of; where the server has another, the whole of that comes (`If-Range`).
    pub only_of: Option<Validator>,
    /// The copy that is known already: where the server still has it, nothing comes (`If-None-Match`, `If-Modified-Since`).
    pub unless: Option<Validator>,
    /// Whether it is a small text, such as a registry: a server that trickles it is not listened to for ever.
    pub is_small: bool,
}

impl Request {
    /// The bytes of a range.
    #[must_use]
    pub fn range(start: u64, end: u64) -> Self {
        Self { start, end: Some(end), ..Self::default() }
    }
}

/// What came.
#[derive(Debug)]
pub enum Answer {
    /// The bytes that were asked for; `size` is that of the whole object.
    Part(Download),
    /// The whole object from its first byte: all was asked for, or the server gives no ranges, or it has another copy.
    Whole(Download),
    /// The server still has the copy that is known.
    NotModified,
}

/// An object that is being read.
pub struct Download {
    /// The size of the whole object in bytes, where the server says so.
    pub size: Option<u64>,
    /// Which copy it is.
    pub validator: Validator,
    /// Its bytes. Where the connection breaks or stalls, the rest is asked for again, a few times without progress, before an
    /// error comes. Errors of the transport come as [`std::io::Error`] around an [`Error`]; [`Error::Changed`] where the
    /// server turned out to have another copy by then.
    pub body: Box<dyn Read + Send>,
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download").field("size", &self.size).finish_non_exhaustive()
    }
}

/// Presigned URLs for an upload in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartUrls {
    /// Bytes of each part but the last.
    pub part_bytes: u64,
    /// Where each part is put, in order.
    pub parts: Vec<Location>,
    /// What is posted to when all are there.
    pub complete: Location,
}

impl PartUrls {
    /// Reads `{"part_bytes": N, "parts": [URL…], "complete": URL}`.
    ///
    /// # Errors
    /// [`Kind::Usage`]; the message does not repeat the text, which holds secrets.
    pub fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Wire {
            part_bytes: u64,
            parts: Vec<String>,
            complete: String,
        }
        let wrong = |why: &str| Error::new(Kind::Usage, format!("the URLs of the parts: {why}"));
        let wire: Wire = serde_json::from_str(text)
            .map_err(|_| wrong("expected JSON with part_bytes, parts and complete (docs/hubs.md)"))?;
        if wire.part_bytes == 0 || wire.parts.is_empty() {
            return Err(wrong("no parts, or parts of no bytes"));
        }
        let parts = wire.parts.iter().map(|url| Location::parse(url)).collect::<Result<_>>()?;
        Ok(Self { part_bytes: wire.part_bytes, parts, complete: Location::parse(&wire.complete)? })
    }
}

/// A transport.
pub trait Remote: Send + Sync {
    /// Opens an object, or a range of it, for reading, following redirects, trying again where that may help.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Unauthorised`], [`Kind::Transient`] or [`Kind::General`], naming the redacted URL.
    fn request(&self, location: &Location, request: &Request, cancel: &Cancel) -> Result<Answer>;

    /// Whether no server is asked anything: what is known must do.
    fn is_offline(&self) -> bool {
        false
    }

    /// Opens a whole object for reading.
    ///
    /// # Errors
    /// As [`Remote::request`].
    fn get(&self, location: &Location, cancel: &Cancel) -> Result<Download> {
        self.whole(location, &Request::default(), cancel)
    }

    /// Opens a small text for reading: all of it must come soon.
    ///
    /// # Errors
    /// As [`Remote::request`].
    fn get_small(&self, location: &Location, cancel: &Cancel) -> Result<Download> {
        self.whole(location, &Request { is_small: true, ..Request::default() }, cancel)
    }

    /// Opens a whole object for reading, as a request says.
    ///
    /// # Errors
    /// As [`Remote::request`].
    fn whole(&self, location: &Location, request: &Request, cancel: &Cancel) -> Result<Download> {
        match self.request(location, request, cancel)? {
            Answer::Part(download) | Answer::Whole(download) => Ok(download),
            Answer::NotModified => {
                Err(Error::new(Kind::General, format!("{location}: an answer to another question")))
            }
        }
    }

    /// Looks whether something could be stored under a location, before the work of making it. Where that cannot be known without
    /// storing something, all is well.
    ///
    /// # Errors
    /// As [`Remote::request`].
    fn ask_to_put(&self, location: &Location, cancel: &Cancel) -> Result<()> {
        let _ = (location, cancel);
        Ok(())
    }

    /// Stores a file under a location, whole or not at all as far as the server can.
    ///
    /// # Errors
    /// As [`Remote::request`].
    fn put(&self, location: &Location, file: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<()>;

    /// Stores a file in parts.
    ///
    /// # Errors
    /// As [`Remote::request`]; [`Kind::Usage`] where there are too few parts, or this is no transport for them.
    fn put_parts(
        &self,
        urls: &PartUrls,
        file: &Path,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<()> {
        let _ = (file, progress, cancel);
        Err(Error::new(Kind::Usage, format!("{} takes no parts", urls.complete)))
    }
}

/// Reads what an answer holds, which must be small.
pub(crate) fn read_small(download: Download, name: &str, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    download
        .body
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| crate::pack::stream::zstd_frames::read_error(name, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(Kind::Integrity, format!("{name}: more than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_never_prints_its_secrets() {
        let text = "https://user:pw@bucket.example:8443/p.tar.zst?X-Amz-Signature=abc#sha256=00";
        let location = Location::parse(text).unwrap();
        for shown in [location.to_string(), format!("{location:?}")] {
            assert_eq!(shown, "https://bucket.example:8443/p.tar.zst");
        }
        assert!(location.pinned_digest().is_err());
        assert_eq!(
            location.join("x.zst").unwrap().url().as_str(),
            "https://user:pw@bucket.example:8443/x.zst"
        );
        let error = Location::parse("ftp://user:pw@h/?sig=1").unwrap_err().to_string();
        assert!(!error.contains("pw") && !error.contains("sig"), "{error}");
        assert_eq!(
            Location::parse("file:///tmp/hub/registry.json").unwrap().to_string(),
            "file:///tmp/hub/registry.json"
        );
    }
}
