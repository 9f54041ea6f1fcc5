//! Hubs that are a `registry.json` and packs beside it or elsewhere: a folder, or a web server (`docs/format/registry.md`).

use crate::cache::answers::AnswerCache;
use crate::cache::folder::Cache;
use crate::env::{Cancel, Progress};
use crate::error::{Error, Kind, Result};
use crate::hub::offer::{Claim, Offer};
use crate::hub::port::Hub;
use crate::hub::release::{Release, ReleasePack};
use crate::hub::release_offer::release_offers;
use crate::hub::remote::{Location, Remote, Request};
use crate::hub::repository::{ManifestName, check_manifest};
use forkd_format::registry::{self, Artifact, MAX_REGISTRY, Missing, PackageSummary, ReleaseEntry, Version};
use forkd_format::registry_text::RegistryText;
use forkd_format::release::MAX_RELEASE_MANIFEST;
use forkd_format::{Digest, PackFormat, PackId, Reference};
use std::io::Write;

/// A hub behind the URL of its `registry.json`.
#[derive(Clone)]
pub struct IndexHub<'a> {
    remote: &'a dyn Remote,
    index: Location,
    answers: AnswerCache<'a>,
}

impl<'a> IndexHub<'a> {
    /// The hub whose registry lies there. With a cache a registry that has not changed is not sent again.
    #[must_use]
    pub fn new(remote: &'a dyn Remote, index: &Location, cache: Option<&'a Cache>) -> Self {
        Self { remote, index: index.clone(), answers: AnswerCache(cache) }
    }

    /// What the registry says of a version, and where its first pack lies.
    ///
    /// # Errors
    /// [`Kind::NotFound`] with what is there instead; [`Kind::Integrity`] where the registry is malformed.
    pub fn version(&self, reference: &Reference, cancel: &Cancel) -> Result<(Location, Version)> {
        let text = self.answers.get_text(self.remote, &self.index, MAX_REGISTRY, cancel)?;
        let version = look_up(text.as_bytes(), reference, &self.index)?;
        Ok((self.join(reference, &version.url)?, version))
    }

    /// Sees whether a version's first pack is where the registry says, and as long.
    ///
    /// # Errors
    /// What the transport says; [`Kind::Integrity`] where it has another size.
    pub fn check_version(&self, location: &Location, version: &Version, cancel: &Cancel) -> Result<()> {
        let claim = Claim::Id(PackId::File(version.sha256));
        let size = Some(version.size_bytes);
        let offer = Offer {
            location: location.clone(),
            claim,
            size,
            header_bytes: None,
            bases: Vec::new(),
            release: None,
            variant: None,
            choice: None,
        };
        let download = self.remote.whole(location, &Request::range(0, 1), cancel)?;
        offer.check_size(download.size)
    }

    /// The packs of a version.
    fn packs(&self, reference: &Reference, version: Version) -> Result<Vec<Offer>> {
        let location = self.join(reference, &version.url)?;
        let mut offers = vec![Offer {
            location,
            claim: Claim::Id(PackId::File(version.sha256)),
            size: Some(version.size_bytes),
            header_bytes: None,
            bases: Vec::new(),
            release: None,
            variant: None,
            choice: None,
        }];
        for Artifact { url, manifest_sha256, size_bytes, head_bytes, bases, .. } in version.paged {
            offers.push(Offer {
                location: self.join(reference, &url)?,
                claim: Claim::Id(PackId::Manifest(manifest_sha256)),
                size: Some(size_bytes),
                header_bytes: head_bytes,
                bases,
                release: None,
                variant: None,
                choice: None,
            });
        }
        Ok(offers)
    }

    /// A release that is listed, whose blobs lie beside the registry.
    fn release(&self, reference: &Reference, entry: &ReleaseEntry, cancel: &Cancel) -> Result<Vec<Offer>> {
        let locate = |digest: &Digest| self.join(reference, &format!("blobs/sha256/{digest}"));
        let read = |digest: &Digest| {
            let location = locate(digest)?;
            let download = self.remote.get_small(&location, cancel)?;
            let name = location.to_string();
            let bytes = crate::hub::remote::read_small(download, &name, MAX_RELEASE_MANIFEST)?;
            check_manifest(&bytes, &ManifestName::Digest(*digest), &name)?;
            Ok(bytes)
        };
        let bytes = read(&entry.digest)?;
        let place = self.index.to_string();
        let place = place.strip_suffix("/registry.json").unwrap_or(&place);
        release_offers(&bytes, &format!("{place}/{}", reference.package), (&locate, &read))
    }

    /// Where the registry says that a pack lies.
    fn join(&self, reference: &Reference, url: &str) -> Result<Location> {
        let index = &self.index;
        let wrong =
            |why: String| Error::new(Kind::Integrity, format!("{index}: '{}': {why}", reference.package));
        let location = index.join(url).map_err(|e| wrong(e.to_string()))?;
        if location.url().scheme() == "file" && index.url().scheme() != "file" {
            return Err(wrong(
                "its url names a file of this host, which a registry elsewhere may not".into(),
            ));
        }
        Ok(location)
    }

    fn put_text(&self, text: &str, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        let mut file =
            tempfile::NamedTempFile::new().map_err(Error::io("create a file in", &std::env::temp_dir()))?;
        file.write_all(text.as_bytes()).map_err(Error::io("write", file.path()))?;
        self.remote.put(&self.index, file.path(), progress, cancel)
    }

    /// The registry as it is now; an empty one where there is none.
    fn text(&self, cancel: &Cancel) -> Result<RegistryText> {
        let name = self.index.to_string();
        match self.remote.get_small(&self.index, cancel) {
            Err(error) if error.kind() == Kind::NotFound => Ok(RegistryText::default()),
            download => {
                let bytes = crate::hub::remote::read_small(download?, &name, MAX_REGISTRY)?;
                RegistryText::parse(&bytes).map_err(Error::malformed(name))
            }
        }
    }
}

impl Hub for IndexHub<'_> {
    fn name(&self) -> String {
        self.index.to_string()
    }

    fn offers(&self, reference: &Reference, cancel: &Cancel) -> Result<Vec<Offer>> {
        let text = self.answers.get_text(self.remote, &self.index, MAX_REGISTRY, cancel)?;
        let found = registry::look_up_release(text.as_bytes(), reference)
            .map_err(Error::malformed(self.index.to_string()))?;
        let packs = look_up(text.as_bytes(), reference, &self.index);
        let release = match (found, &packs) {
            (Ok(entry), _) => {
                let offers = self.release(reference, &entry, cancel)?;
                // Variants are pinned by what names all of them, or one by one.
                if reference.digest == Some(entry.digest) {
                    return Ok(offers);
                }
                offers
            }
            (Err(there), Err(error)) if !there.is_empty() && error.kind() == Kind::NotFound => {
                let message = format!(
                    "'{}' has no '{}' in {}; there are: {}",
                    reference.package,
                    reference.version,
                    self.index,
                    there.join(", ")
                );
                return Err(Error::new(Kind::NotFound, message));
            }
            _ => Vec::new(),
        };
        let mut offers = match packs {
            Err(error) if !release.is_empty() && error.kind() == Kind::NotFound => Vec::new(),
            version => self.packs(reference, version?)?,
        };
        offers.extend(release);
        match reference.digest {
            Some(pin) => pinned(offers, pin, reference, &self.index),
            None => Ok(offers),
        }
    }

    fn list(&self, cancel: &Cancel) -> Result<Vec<PackageSummary>> {
        let text = self.answers.get_text(self.remote, &self.index, MAX_REGISTRY, cancel)?;
        registry::list_all(text.as_bytes()).map_err(Error::malformed(self.index.to_string()))
    }

    fn publish(&self, release: &Release<'_>, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        let entry = entry(release)?;
        let (package, version) = (release.package.as_str(), release.version.as_str());
        let mut text = self.text(cancel)?;
        if text.version(package, version).is_some_and(|there| there.get("sha256") != entry.get("sha256")) {
            let message =
                format!("{}: '{package}@{version}' is published already, with other bytes", self.index);
            return Err(Error::new(Kind::General, message));
        }
        // The registry last: what it names is there.
        for pack in &release.packs {
            self.remote.put(&self.index.join(&pack.file_name)?, pack.file, progress, cancel)?;
        }
        text.set_version(package, version, release.description.as_deref(), entry, release.latest);
        self.put_text(&text.to_string(), progress, cancel)
    }

    fn delete(&self, reference: &Reference, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        let mut text = self.text(cancel)?;
        if !text.remove_version(&reference.package, &reference.version) {
            let message =
                format!("'{}' has no version '{}' in {}", reference.package, reference.version, self.index);
            return Err(Error::new(Kind::NotFound, message));
        }
        self.put_text(&text.to_string(), progress, cancel)
    }
}

/// The registry's entry for a release.
fn entry(release: &Release<'_>) -> Result<serde_json::Map<String, serde_json::Value>> {
    let stream = |pack: &&ReleasePack<'_>| matches!(pack.id, PackId::File(_));
    let Some(main) = release.packs.iter().find(stream) else {
        let message = format!("'{}' has no pack of version 1 or 2, which every host reads", release.package);
        return Err(Error::new(Kind::Usage, message));
    };
    let mut entry = serde_json::Map::new();
    entry.insert("url".into(), main.file_name.as_str().into());
    entry.insert("sha256".into(), main.id.digest().to_string().into());
    entry.insert("size_bytes".into(), main.size.into());
    if let Some(memory) = release.memory_mib {
        entry.insert("memory_mib".into(), memory.into());
    }
    if let Some(image) = &release.base_image {
        entry.insert("base_image".into(), image.as_str().into());
    }
    let artifacts: Vec<serde_json::Value> = release
        .packs
        .iter()
        .filter_map(|pack| match pack.id {
            PackId::File(_) | PackId::Release(_) => None,
            PackId::Manifest(manifest_sha256) => serde_json::to_value(Artifact {
                format: PackFormat::Paged.version(),
                url: pack.file_name.clone(),
                manifest_sha256,
                size_bytes: pack.size,
                head_bytes: pack.header_bytes,
                bases: pack.bases.clone(),
            })
            .ok(),
        })
        .collect();
    if !artifacts.is_empty() {
        entry.insert("artifacts".into(), artifacts.into());
    }
    Ok(entry)
}

fn look_up(bytes: &[u8], reference: &Reference, index: &Location) -> Result<Version> {
    let found = registry::look_up(bytes, reference).map_err(Error::malformed(index.to_string()))?;
    found.map_err(|missing| {
        let package = &reference.package;
        let message = match missing {
            Missing::Package(similar) if similar.is_empty() => format!("no '{package}' in {index}"),
            Missing::Package(similar) => {
                format!("no '{package}' in {index}; similar: {}", similar.join(", "))
            }
            Missing::Version(there) => format!(
                "'{package}' has no version '{}' in {index}; there are: {}",
                reference.version,
                there.join(", ")
            ),
        };
        Error::new(Kind::NotFound, message)
    })
}

/// Leaves the packs that the reference pins, each as what the registry says that the digest is of.
fn pinned(offers: Vec<Offer>, pin: Digest, reference: &Reference, index: &Location) -> Result<Vec<Offer>> {
    let digests = offers.iter().filter_map(|offer| offer.claim.digest());
    let listed: Vec<String> = digests.map(|digest| digest.to_string()).collect();
    let kept: Vec<Offer> = offers.into_iter().filter(|offer| offer.claim.digest() == Some(pin)).collect();
    if kept.is_empty() {
        let message = format!(
            "{index}: '{}' has sha256 {}; the reference pins {pin}",
            reference.package,
            listed.join(", ")
        );
        return Err(Error::new(Kind::Integrity, message));
    }
    Ok(kept)
}
