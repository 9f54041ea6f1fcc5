//! Names held fast: what they stand for now is what they stand for later.

use crate::app::App;
use crate::hub_place::HubPlace;
use crate::hubs::Hubs;
use crate::release::ReleasePlace;
use forkd_core::hub::{Hub, ManifestName};
use forkd_core::{Error, Kind, Result};
use forkd_format::registry::details;
use forkd_format::{Digest, LockedPackage, Reference};

impl App<'_> {
    /// What a name stands for now.
    ///
    /// # Errors
    /// [`Kind::NotFound`] with what is there instead, and those of the hub.
    pub fn lock(&self, reference: &Reference, hubs: &Hubs) -> Result<LockedPackage> {
        let hub = self.find_hub(reference, hubs)?;
        let bare = LockedPackage {
            reference: reference.to_string(),
            hub: hub.index_name(),
            release_sha256: None,
            engine: None,
            pack: None,
            artifacts: Vec::new(),
            variants: Vec::new(),
        };
        if !self.has_index(&hub, reference)? {
            let place = ReleasePlace::of_package(hub, reference);
            let open = place.open(self.opened(None, false))?;
            let manifest = open.repository.manifest(&place.name(), self.env.cancel)?;
            return Ok(LockedPackage { release_sha256: Some(Digest::of(&manifest)), ..bare });
        }
        self.with_index(&hub, None, |_, index| {
            // Says what is there instead, where this is not.
            index.offers(reference, self.env.cancel)?;
            let text = index.part(&|name, _| name == reference.package, self.env.cancel)?;
            let found = details(text.as_bytes(), &|name, _| name == reference.package)
                .map_err(Error::malformed(index.name()))?;
            let versions = found.into_iter().flat_map(|package| package.versions);
            let missing = || Error::new(Kind::NotFound, format!("no '{reference}' in {}", index.name()));
            let version = versions
                .into_iter()
                .find(|version| version.version == reference.version)
                .ok_or_else(missing)?;
            let release_sha256 = version.release.as_ref().map(|release| release.digest);
            let engine = version.engine.as_ref().map(ToString::to_string);
            let mut urls = version.pack.iter().map(|pack| &pack.url);
            if urls.any(|url| may_be_secret(url))
                || version.artifacts.iter().any(|one| may_be_secret(&one.url))
            {
                let message = format!("{}: '{reference}' lies at a URL that may hold a secret", index.name());
                return Err(Error::new(Kind::General, message)
                    .hint("a lockfile is for everybody to read: publish it where its URL may be known"));
            }
            let variants = version.variants.into_iter().map(Into::into).collect();
            Ok(LockedPackage {
                release_sha256,
                engine,
                pack: version.pack,
                artifacts: version.artifacts,
                variants,
                ..bare
            })
        })
    }

    /// Where a locked name's hub is.
    pub(crate) fn locked_place(package: &LockedPackage) -> Result<(Reference, HubPlace)> {
        let reference = package.reference().map_err(Error::malformed("lockfile"))?;
        Ok((reference, HubPlace::parse(&package.hub)?))
    }

    /// The release that a name was locked to.
    pub(crate) fn locked_release(
        &self,
        package: &LockedPackage,
        hub: HubPlace,
        reference: &Reference,
    ) -> Result<ReleasePlace> {
        let nothing =
            || Error::new(Kind::Integrity, format!("'{reference}' has neither a pack nor a release"));
        let digest = package.release_sha256.ok_or_else(nothing)?;
        let name = ManifestName::Digest(digest);
        Ok(ReleasePlace::Package { hub, package: reference.package.clone(), name })
    }
}

/// Whether a URL has a query or user information.
fn may_be_secret(url: &str) -> bool {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
    url.contains('?') || authority.contains('@')
}
