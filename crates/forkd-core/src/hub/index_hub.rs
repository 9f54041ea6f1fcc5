//! Hubs that are a `registry.json` and packs beside it or elsewhere: a folder, or a web server (`docs/format/registry.md`).

use crate::cache::folder::Cache;
use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::hub::offer::{Claim, Offer};
use crate::hub::port::Hub;
use crate::hub::registry_source::{RegistrySource, WebRegistry};
use crate::hub::release_offer::release_offers;
use crate::hub::remote::{Location, Remote, Request};
use crate::hub::repository::{ManifestName, check_manifest};
use crate::release::told::engine_of;
use forkd_format::registry::{
    self, Artifact, Missing, PackDetails, PackageSummary, ReleaseEntry, Variant, Version,
};
use forkd_format::release::MAX_RELEASE_MANIFEST;
use forkd_format::{Digest, PackId, Reference, Snapshot};
use serde_json::{Map, Value};
use std::sync::Arc;

/// A hub behind the URL of its `registry.json`.
#[derive(Clone)]
pub struct IndexHub<'a> {
    remote: &'a dyn Remote,
    source: Arc<dyn RegistrySource + 'a>,
}

impl<'a> IndexHub<'a> {
    /// The hub whose registry lies there. With a cache a registry that has not changed is not sent again.
    #[must_use]
    pub fn new(remote: &'a dyn Remote, index: &Location, cache: Option<&'a Cache>) -> Self {
        Self::of(remote, Arc::new(WebRegistry { remote, index: index.clone(), cache }))
    }

    /// The hub of a registry that comes from elsewhere.
    #[must_use]
    pub fn of(remote: &'a dyn Remote, source: Arc<dyn RegistrySource + 'a>) -> Self {
        Self { remote, source }
    }

    /// The registry's text as it is now.
    ///
    /// # Errors
    /// As [`RegistrySource::text`].
    pub fn text(&self, cancel: &Cancel) -> Result<String> {
        self.source.text(cancel)
    }

    /// A registry of the packages that are wanted, of their names and descriptions, and perhaps of more.
    ///
    /// # Errors
    /// As [`RegistrySource::text`].
    pub fn part(&self, wanted: &dyn Fn(&str, Option<&str>) -> bool, cancel: &Cancel) -> Result<String> {
        self.source.part(wanted, cancel)
    }

    /// What `look` finds in what the registry says of a package, or else in all of it: that says what there is instead.
    fn look_into<T>(
        &self,
        reference: &Reference,
        cancel: &Cancel,
        look: impl Fn(&str) -> Result<T>,
    ) -> Result<T> {
        let part = self.source.part(&|name, _| name == reference.package, cancel)?;
        match look(&part) {
            Err(error) if error.kind() == Kind::NotFound => look(&self.source.text(cancel)?),
            found => found,
        }
    }

    /// What the registry says of a version, and where its first pack lies.
    ///
    /// # Errors
    /// [`Kind::NotFound`] with what is there instead; [`Kind::Integrity`] where the registry is malformed.
    pub fn version(&self, reference: &Reference, cancel: &Cancel) -> Result<(Location, Version)> {
        let name = self.source.name();
        let version = self.look_into(reference, cancel, |text| look_up(text.as_bytes(), reference, &name))?;
        Ok((self.join(reference, &version.url)?, version))
    }

    /// The packs of a version that was looked up before; the registry is not asked.
    ///
    /// # Errors
    /// [`Kind::Integrity`] where they lie nowhere.
    pub fn locked(&self, reference: &Reference, version: Version) -> Result<Vec<Offer>> {
        self.packs(reference, version)
    }

    /// Sees whether a version's first pack is where the registry says, and as long.
    ///
    /// # Errors
    /// What the transport says; [`Kind::Integrity`] where it has another size.
    pub fn check_version(&self, location: &Location, version: &Version, cancel: &Cancel) -> Result<()> {
        let claim = Claim::Id(PackId::File(version.sha256));
        let size = Some(version.size_bytes);
        let offer = Offer { claim, size, ..Offer::at(&location.without_fragment())? };
        let download = self.remote.whole(location, &Request::range(0, 1), cancel)?;
        offer.check_size(download.size)
    }

    /// The packs of a version, and of its variants.
    fn packs(&self, reference: &Reference, version: Version) -> Result<Vec<Offer>> {
        let Version { url, sha256, size_bytes, paged, engine, variants, .. } = version;
        let engine = match engine {
            Some(Value::Object(engine)) => Some(engine),
            _ => None,
        };
        let mut offers = self.packs_of(reference, &PackDetails { url, sha256, size_bytes }, paged)?;
        tell(&mut offers, engine, !variants.is_empty());
        for Variant { engine, pack, paged } in variants {
            let mut more = self.packs_of(reference, &pack, paged)?;
            tell(&mut more, Some(engine), true);
            offers.extend(more);
        }
        Ok(offers)
    }

    fn packs_of(
        &self,
        reference: &Reference,
        pack: &PackDetails,
        paged: Vec<Artifact>,
    ) -> Result<Vec<Offer>> {
        let stream = Offer {
            claim: Claim::Id(PackId::File(pack.sha256)),
            size: Some(pack.size_bytes),
            ..Offer::at(&self.join(reference, &pack.url)?.without_fragment())?
        };
        let mut offers = vec![stream];
        for Artifact { url, manifest_sha256, size_bytes, head_bytes, bases, .. } in paged {
            offers.push(Offer {
                claim: Claim::Id(PackId::Manifest(manifest_sha256)),
                size: Some(size_bytes),
                header_bytes: head_bytes,
                bases,
                ..Offer::at(&self.join(reference, &url)?.without_fragment())?
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
        let place = self.source.name();
        let place = place.strip_suffix("/registry.json").unwrap_or(&place);
        release_offers(&bytes, &format!("{place}/{}", reference.package), (&locate, &read))
    }

    /// All that a registry's text offers under a name.
    fn offers_in(&self, text: &str, reference: &Reference, cancel: &Cancel) -> Result<Vec<Offer>> {
        let found = registry::look_up_release(text.as_bytes(), reference)
            .map_err(Error::malformed(self.source.name()))?;
        let packs = look_up(text.as_bytes(), reference, &self.source.name());
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
                    self.source.name(),
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
            Some(pin) => pinned(offers, pin, reference, &self.source.name()),
            None => Ok(offers),
        }
    }

    /// Where the registry says that a pack lies.
    fn join(&self, reference: &Reference, url: &str) -> Result<Location> {
        let index = self.source.name();
        let wrong =
            |why: String| Error::new(Kind::Integrity, format!("{index}: '{}': {why}", reference.package));
        let location = self.source.locate(url).map_err(|e| wrong(e.to_string()))?;
        if location.url().scheme() == "file" && !self.source.is_local() {
            return Err(wrong(
                "its url names a file of this host, which a registry elsewhere may not".into(),
            ));
        }
        Ok(location)
    }
}

impl Hub for IndexHub<'_> {
    fn name(&self) -> String {
        self.source.name()
    }

    fn offers(&self, reference: &Reference, cancel: &Cancel) -> Result<Vec<Offer>> {
        self.look_into(reference, cancel, |text| self.offers_in(text, reference, cancel))
    }

    fn list(&self, cancel: &Cancel) -> Result<Vec<PackageSummary>> {
        let text = self.source.text(cancel)?;
        registry::list_all(text.as_bytes()).map_err(Error::malformed(self.source.name()))
    }
}

/// Notes what packs are for.
fn tell(offers: &mut [Offer], engine: Option<Map<String, Value>>, is_variant: bool) {
    let needs = engine.map(|engine| {
        Arc::new(Snapshot::new(Map::from_iter([("engine".to_owned(), Value::Object(engine))])))
    });
    for offer in offers {
        offer.variant = is_variant.then(|| needs.as_deref().map_or_else(|| "unknown".to_owned(), engine_of));
        offer.needs.clone_from(&needs);
    }
}

fn look_up(bytes: &[u8], reference: &Reference, index: &str) -> Result<Version> {
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
fn pinned(offers: Vec<Offer>, pin: Digest, reference: &Reference, index: &str) -> Result<Vec<Offer>> {
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
