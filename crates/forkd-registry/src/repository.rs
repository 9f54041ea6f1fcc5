//! A repository of a registry as a place of releases.

use crate::client::{CallBody, RegistryCall, RegistryClient};
use crate::options::RegistryOptions;
use crate::reference::RegistryReference;
use forkd_core::hub::{Answer, BlobFile, Location, ManifestName, Remote, Repository, Request};
use forkd_core::{Cancel, Error, Kind, Progress, Result};
use forkd_format::Digest;
use forkd_format::release::{Descriptor, ReleaseDocument, media};
use forkd_http::SmallAnswer;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, LINK};
use serde::Deserialize;
use std::path::Path;

/// The most tags that are listed.
const MAX_TAGS: usize = 100_000;

/// Releases in a registry. As a transport it reads the repository's blobs, as [`Repository::blob_location`] names them.
#[derive(Debug)]
pub struct RegistryRepository {
    client: RegistryClient,
}

/// The repositories of a registry, as far as it tells, below a namespace or all.
///
/// # Errors
/// [`Kind::General`] where the registry does not tell.
pub fn repositories(
    host: &RegistryReference,
    namespace: &str,
    options: &RegistryOptions,
    cancel: &Cancel,
) -> Result<Vec<String>> {
    let client = RegistryClient::new(host.clone(), options);
    let http = client.http()?;
    let what = format!("oci://{}", host.host());
    let bytes = http.with_retries(cancel, || {
        let small = SmallAnswer { limit: 4 << 20, deadline: http.answer_deadline() };
        let mut call = RegistryCall::get("../_catalog?n=1000");
        call.deadline = Some(small.deadline);
        let response = client.call(&http, &call, cancel)?;
        http.read_small(response, small, &what, cancel).map_err(Into::into)
    });
    let untold = |_| {
        Error::new(Kind::General, format!("{what}: the registry does not list its repositories"))
            .hint("name them: owner/name")
    };
    let list: Catalog = serde_json::from_slice(&bytes.map_err(untold)?)
        .map_err(|_| Error::new(Kind::General, format!("{what}: its list of repositories is none")))?;
    let below = |name: &String| {
        namespace.is_empty() || name.strip_prefix(namespace).is_some_and(|rest| rest.starts_with('/'))
    };
    Ok(list.repositories.unwrap_or_default().into_iter().filter(below).collect())
}

#[derive(Deserialize)]
struct Catalog {
    #[serde(default)]
    repositories: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct TagList {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl RegistryRepository {
    /// One that is read.
    #[must_use]
    pub fn reading(reference: RegistryReference, options: &RegistryOptions) -> Self {
        Self { client: RegistryClient::new(reference, options) }
    }

    /// One that is written to.
    #[must_use]
    pub fn writing(reference: RegistryReference, options: &RegistryOptions) -> Self {
        Self { client: RegistryClient::writing(reference, options) }
    }

    fn base(&self) -> String {
        let url = self.client.url("blobs/sha256:").map(|url| url.to_string());
        url.unwrap_or_default()
    }

    /// The digest of what a tag points to.
    fn digest_of(&self, tag: &str, cancel: &Cancel) -> Result<Digest> {
        Ok(self.client.manifest(tag, &accepted(), cancel)?.digest)
    }
}

/// The media types of manifests that are read.
fn accepted() -> String {
    format!("{}, {}", media::MANIFEST, media::IMAGE_INDEX)
}

impl Repository for RegistryRepository {
    fn name(&self) -> String {
        self.client.reference().url()
    }

    fn blob_location(&self, digest: &Digest) -> Result<Location> {
        Location::of_url(&self.client.url(&format!("blobs/sha256:{digest}"))?)
    }

    fn manifest(&self, name: &ManifestName, cancel: &Cancel) -> Result<Vec<u8>> {
        let found = self.client.manifest(&name.to_string(), &accepted(), cancel);
        match found {
            Err(error) if error.kind() == Kind::NotFound => {
                let there = self.tags(cancel).ok().filter(|tags| !tags.is_empty());
                let shown = there.map(|tags| {
                    tags.iter().take(20).map(|tag| crate::shown::shown(tag)).collect::<Vec<_>>().join(", ")
                });
                Err(match shown {
                    Some(shown) => {
                        Error::new(Kind::NotFound, format!("{}; there are: {shown}", error.message()))
                    }
                    None => error,
                })
            }
            found => Ok(found?.bytes),
        }
    }

    fn tags(&self, cancel: &Cancel) -> Result<Vec<String>> {
        let http = self.client.http()?;
        let what = self.name();
        let (mut tags, mut path) = (Vec::new(), "tags/list?n=1000".to_owned());
        loop {
            let (list, next) = http.with_retries(cancel, || {
                let small = SmallAnswer { limit: 4 << 20, deadline: http.answer_deadline() };
                let mut call = RegistryCall::get(&path);
                call.deadline = Some(small.deadline);
                let response = self.client.call(&http, &call, cancel)?;
                let link =
                    response.headers().get(LINK).and_then(|link| link.to_str().ok()).and_then(next_page);
                let bytes = http.read_small(response, small, &what, cancel)?;
                let wrong = |_| Error::new(Kind::General, format!("{what}: its list of tags is none"));
                let list: TagList = serde_json::from_slice(&bytes).map_err(wrong)?;
                Ok((list.tags.unwrap_or_default(), link))
            })?;
            let more = !list.is_empty();
            tags.extend(list);
            match next.filter(|_| more && tags.len() < MAX_TAGS) {
                Some(next) => path = format!("tags/list?{next}"),
                None => break,
            }
        }
        tags.sort_unstable();
        tags.dedup();
        Ok(tags)
    }

    fn has_blob(&self, blob: &Descriptor, cancel: &Cancel) -> Result<bool> {
        self.client.has_blob(&blob.digest, cancel)
    }

    fn mount_blob(&self, blob: &Descriptor, from: &str, cancel: &Cancel) -> Result<bool> {
        let Ok(from) = RegistryReference::parse_url(from) else { return Ok(false) };
        let here = self.client.reference();
        if from.host() != here.host() || from.repository() == here.repository() {
            return Ok(false);
        }
        self.client.mount_blob(&blob.digest, from.repository(), cancel)
    }

    fn put_blob(&self, file: BlobFile<'_>, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        self.client.put_blob(file, progress, cancel)
    }

    fn put_manifest(&self, name: &ManifestName, manifest: &[u8], cancel: &Cancel) -> Result<()> {
        let http = self.client.http()?;
        let path = format!("manifests/{name}");
        let kind = match ReleaseDocument::parse(manifest).map_err(Error::malformed(self.name()))? {
            ReleaseDocument::Release(_) => media::MANIFEST,
            ReleaseDocument::Variants(_) => media::IMAGE_INDEX,
        };
        let text = String::from_utf8_lossy(manifest).into_owned();
        http.with_retries(cancel, || {
            let call = RegistryCall {
                body: CallBody::Text(text.clone()),
                ..RegistryCall::new(Method::PUT, &path).header(CONTENT_TYPE, kind)
            };
            self.client.call(&http, &call, cancel).map(drop)
        })
    }

    fn delete(&self, tag: &str, cancel: &Cancel) -> Result<()> {
        let http = self.client.http()?;
        let delete = |name: &str| {
            let path = format!("manifests/{name}");
            http.with_retries(cancel, || {
                let call = RegistryCall::new(Method::DELETE, &path).header(ACCEPT, &accepted());
                self.client.call(&http, &call, cancel).map(drop)
            })
        };
        let digest = self.digest_of(tag, cancel)?;
        // Registries may take a tag away and leave others of the same release alone; older ones know digests only.
        match delete(tag) {
            Err(error)
                if !matches!(error.kind(), Kind::Unauthorised | Kind::Transient | Kind::Interrupted) => {}
            outcome => return outcome,
        }
        let mut others = self.tags(cancel)?;
        others
            .retain(|other| other != tag && self.digest_of(other, cancel).is_ok_and(|found| found == digest));
        if !others.is_empty() {
            let others: Vec<String> = others.iter().map(|other| crate::shown::shown(other)).collect();
            let message = format!(
                "{}: the registry deletes whole releases only, and '{tag}' is also: {}",
                self.name(),
                others.join(", ")
            );
            return Err(Error::new(Kind::General, message).hint("push something else under one of the names"));
        }
        delete(&format!("sha256:{digest}"))
    }
}

/// The query of the next page (RFC 8288): a registry is asked nowhere else.
fn next_page(link: &str) -> Option<String> {
    let (target, parameters) = link.trim_start().strip_prefix('<')?.split_once('>')?;
    parameters.contains("next").then(|| target.split_once('?').map(|(_, query)| query.to_owned()))?
}

impl Remote for RegistryRepository {
    fn request(&self, location: &Location, request: &Request, cancel: &Cancel) -> Result<Answer> {
        if !location.url().as_str().starts_with(&self.base()) {
            return Err(Error::new(Kind::General, format!("{location} is no blob of {}", self.name())));
        }
        self.client.http()?.request(location, request, cancel)
    }

    fn put(&self, location: &Location, _: &Path, _: &dyn Progress, _: &Cancel) -> Result<()> {
        Err(Error::new(Kind::General, format!("{location}: blobs of a registry are pushed")))
    }
}

#[cfg(test)]
mod tests {
    use super::next_page;

    #[test]
    fn pages_follow_each_other() {
        assert_eq!(next_page(r#"</v2/a/tags/list?last=x&n=5>; rel="next""#).as_deref(), Some("last=x&n=5"));
        assert_eq!(next_page(r#"<https://evil/?last=x>; rel="next""#).as_deref(), Some("last=x"));
        assert_eq!(next_page("<x>; rel=prev"), None);
        assert_eq!(next_page("x"), None);
    }
}
