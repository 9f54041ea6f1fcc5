//! One package of an object hub as a repository.

use super::entry::{BLOBS, RELEASES, parse, parse_tag_key, tag_key, to_bytes};
use super::marker::{Marker, publish};
use super::port::Objects;
use super::registry::{MAX_ENTRY, update_registry};
use forkd_core::hub::{BlobFile, Location, ManifestName, Repository, check_manifest};
use forkd_core::{Cancel, Error, Kind, Progress, Result};
use forkd_format::Digest;
use forkd_format::registry::ReleaseEntry;
use forkd_format::release::{Descriptor, MAX_RELEASE_MANIFEST, ReleaseDocument, ReleaseManifest};
use std::sync::{Arc, Mutex, PoisonError};

/// Releases of one package of a hub of objects.
pub struct ObjectRepository {
    objects: Arc<dyn Objects>,
    package: String,
    /// Keeps collectors away, from the first question about a blob on.
    marker: Mutex<Option<Marker>>,
}

impl ObjectRepository {
    /// A package; nothing is asked or made yet.
    #[must_use]
    pub fn new(objects: Arc<dyn Objects>, package: &str) -> Self {
        Self { objects, package: package.to_owned(), marker: Mutex::default() }
    }

    fn announce(&self, cancel: &Cancel) -> Result<()> {
        let mut marker = self.marker.lock().unwrap_or_else(PoisonError::into_inner);
        if marker.is_none() {
            *marker = Some(publish(&self.objects, cancel)?);
        }
        Ok(())
    }

    fn retire(&self) {
        *self.marker.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The key of a blob.
pub(crate) fn blob_key(digest: &Digest) -> String {
    format!("{BLOBS}{digest}")
}

/// The manifest that a document is, or those of all its variants.
pub(crate) fn manifests(
    objects: &dyn Objects,
    document: &[u8],
    name: &str,
    cancel: &Cancel,
) -> Result<Vec<ReleaseManifest>> {
    let variants = match ReleaseDocument::parse(document).map_err(Error::malformed(name))? {
        ReleaseDocument::Release(manifest) => return Ok(vec![manifest]),
        ReleaseDocument::Variants(variants) => variants,
    };
    let read = |variant: &Descriptor| {
        let bytes = objects.read(&blob_key(&variant.digest), MAX_RELEASE_MANIFEST, cancel)?;
        let lost = || Error::new(Kind::Integrity, format!("{name}: the manifest of a variant is not there"));
        ReleaseManifest::parse(&bytes.ok_or_else(lost)?).map_err(Error::malformed(name))
    };
    variants.manifests.iter().map(read).collect()
}

impl Repository for ObjectRepository {
    fn name(&self) -> String {
        format!("{}/{}", self.objects.name(), self.package)
    }

    fn blob_location(&self, digest: &Digest) -> Result<Location> {
        self.objects.location(&blob_key(digest))
    }

    fn manifest(&self, name: &ManifestName, cancel: &Cancel) -> Result<Vec<u8>> {
        let digest = match name {
            ManifestName::Digest(digest) => *digest,
            ManifestName::Tag(tag) => {
                let key = tag_key(&self.package, tag);
                let Some(bytes) = self.objects.read(&key, MAX_ENTRY, cancel)? else {
                    let tags = self.tags(cancel).unwrap_or_default();
                    let there = if tags.is_empty() {
                        format!("no '{}' in {}", self.package, self.objects.name())
                    } else {
                        format!("{}: no tag '{tag}'; there are: {}", self.name(), tags.join(", "))
                    };
                    return Err(Error::new(Kind::NotFound, there));
                };
                let wrong = || {
                    Error::new(Kind::Integrity, format!("{}/{key}: it names no release", self.objects.name()))
                };
                parse(&bytes).ok_or_else(wrong)?.digest
            }
        };
        let found = self.objects.read(&blob_key(&digest), MAX_RELEASE_MANIFEST, cancel)?;
        let missing = || Error::new(Kind::NotFound, format!("{}: no release sha256:{digest}", self.name()));
        let bytes = found.ok_or_else(missing)?;
        check_manifest(&bytes, &ManifestName::Digest(digest), &self.name())?;
        Ok(bytes)
    }

    fn tags(&self, cancel: &Cancel) -> Result<Vec<String>> {
        let listed = self.objects.list(&format!("{RELEASES}{}/", self.package), cancel)?;
        let own = |key: &str| parse_tag_key(key).filter(|(package, _)| *package == self.package);
        Ok(listed.iter().filter_map(|object| own(&object.key)).map(|(_, tag)| tag).collect())
    }

    fn has_blob(&self, blob: &Descriptor, cancel: &Cancel) -> Result<bool> {
        self.announce(cancel)?;
        Ok(self.objects.head(&blob_key(&blob.digest), cancel)?.is_some_and(|found| found.size == blob.size))
    }

    fn put_blob(&self, file: BlobFile<'_>, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        self.announce(cancel)?;
        self.objects.put_file(&blob_key(&file.blob.digest), file.path, progress, cancel)
    }

    fn put_manifest(&self, name: &ManifestName, manifest: &[u8], cancel: &Cancel) -> Result<()> {
        self.announce(cancel)?;
        let all = manifests(&*self.objects, manifest, &self.name(), cancel)?;
        let digest = Digest::of(manifest);
        self.objects.put(&blob_key(&digest), manifest, cancel)?;
        let ManifestName::Tag(tag) = name else { return Ok(()) };
        let description =
            |read: &ReleaseManifest| read.annotations.get("org.opencontainers.image.description").cloned();
        let size_bytes = all.iter().map(ReleaseManifest::total).sum::<u64>() + manifest.len() as u64;
        let entry = ReleaseEntry { digest, size_bytes, description: all.iter().find_map(description) };
        self.objects.put(&tag_key(&self.package, tag), &to_bytes(&entry), cancel)?;
        update_registry(&*self.objects, cancel)?;
        self.retire();
        Ok(())
    }

    fn delete(&self, tag: &str, cancel: &Cancel) -> Result<()> {
        let key = tag_key(&self.package, tag);
        if self.objects.head(&key, cancel)?.is_none() {
            return Err(Error::new(Kind::NotFound, format!("{}: no tag '{tag}'", self.name())));
        }
        self.objects.delete(&key, cancel)?;
        update_registry(&*self.objects, cancel)
    }
}
