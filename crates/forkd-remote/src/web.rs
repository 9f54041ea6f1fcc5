//! One package of a hub that is read over HTTP only: what its `registry.json` lists.

use forkd_core::hub::{BlobFile, Location, ManifestName, Remote, Repository, Request, check_manifest};
use forkd_core::{Cancel, Error, Kind, Progress, Result};
use forkd_format::registry::{MAX_REGISTRY, list_all, look_up_release};
use forkd_format::release::{Descriptor, MAX_RELEASE_MANIFEST};
use forkd_format::{Digest, Reference};
use std::io::Read;
use std::sync::Arc;

/// Releases of one package behind a `registry.json`.
pub struct WebRepository {
    remote: Arc<dyn Remote>,
    index: Location,
    package: String,
}

impl WebRepository {
    /// A package of the registry that lies there.
    #[must_use]
    pub fn new(remote: Arc<dyn Remote>, index: &Location, package: &str) -> Self {
        Self { remote, index: index.clone(), package: package.to_owned() }
    }

    fn read_only(&self) -> Error {
        let message = format!("{} is read over HTTP only", self.index);
        Error::new(Kind::Usage, message).hint("publish to the bucket or the folder behind it")
    }
}

/// The packages of a registry that have releases or packs, sorted.
///
/// # Errors
/// Where it cannot be read.
pub fn web_packages(remote: &dyn Remote, index: &Location, cancel: &Cancel) -> Result<Vec<String>> {
    let text = small(remote, index, MAX_REGISTRY, cancel)?;
    let all = list_all(&text).map_err(Error::malformed(index.to_string()))?;
    Ok(all.into_iter().map(|package| package.name).collect())
}

fn small(remote: &dyn Remote, location: &Location, limit: u64, cancel: &Cancel) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let failed = |e: std::io::Error| {
        e.downcast::<Error>().unwrap_or_else(|e| Error::new(Kind::Transient, format!("{location}: {e}")))
    };
    remote.get_small(location, cancel)?.body.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(Kind::Integrity, format!("{location}: more than {limit} bytes")));
    }
    Ok(bytes)
}

impl Repository for WebRepository {
    fn name(&self) -> String {
        let index = self.index.to_string();
        format!("{}/{}", index.strip_suffix("/registry.json").unwrap_or(&index), self.package)
    }

    fn blob_location(&self, digest: &Digest) -> Result<Location> {
        self.index.join(&format!("blobs/sha256/{digest}"))
    }

    fn manifest(&self, name: &ManifestName, cancel: &Cancel) -> Result<Vec<u8>> {
        let digest = match name {
            ManifestName::Digest(digest) => *digest,
            ManifestName::Tag(tag) => {
                let text = small(&*self.remote, &self.index, MAX_REGISTRY, cancel)?;
                let (package, version) = (self.package.clone(), tag.clone());
                let found = look_up_release(&text, &Reference { package, version, digest: None });
                let found = found.map_err(Error::malformed(self.index.to_string()))?;
                let missing = |there: Vec<String>| {
                    let message = format!("{}: no tag '{tag}'; there are: {}", self.name(), there.join(", "));
                    Error::new(Kind::NotFound, message)
                };
                found.map_err(missing)?.digest
            }
        };
        let bytes = small(&*self.remote, &self.blob_location(&digest)?, MAX_RELEASE_MANIFEST, cancel)?;
        check_manifest(&bytes, &ManifestName::Digest(digest), &self.name())?;
        Ok(bytes)
    }

    fn tags(&self, cancel: &Cancel) -> Result<Vec<String>> {
        let text = small(&*self.remote, &self.index, MAX_REGISTRY, cancel)?;
        let (package, digest) = (self.package.clone(), None);
        // No tag is called so; those that are there come instead.
        let found = look_up_release(&text, &Reference { package, version: "\0".into(), digest });
        Ok(found.map_err(Error::malformed(self.index.to_string()))?.err().unwrap_or_default())
    }

    fn has_blob(&self, blob: &Descriptor, cancel: &Cancel) -> Result<bool> {
        match self.remote.whole(&self.blob_location(&blob.digest)?, &Request::range(0, 1), cancel) {
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            found => Ok(found?.size == Some(blob.size)),
        }
    }

    fn put_blob(&self, _: BlobFile<'_>, _: &dyn Progress, _: &Cancel) -> Result<()> {
        Err(self.read_only())
    }

    fn put_manifest(&self, _: &ManifestName, _: &[u8], _: &Cancel) -> Result<()> {
        Err(self.read_only())
    }

    fn delete(&self, _: &str, _: &Cancel) -> Result<()> {
        Err(self.read_only())
    }
}
