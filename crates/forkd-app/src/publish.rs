//! Versions on hubs: published, taken back.

use crate::app::App;
use crate::hub_place::HubPlace;
use crate::hubs::Hubs;
use crate::pack::{BaseSource, PackRequest};
use crate::release::ReleasePlace;
use forkd_core::hub::{Catalogue, Hub, ManifestName};
use forkd_core::{
    Error, Kind, PublishOptions, PublishReport, PublishTerms, PublishedPack, ReleaseOptions, ReleaseReport,
    Result, UnpublishReport,
};
use forkd_format::Reference;
use forkd_format::registry_text::RegistryText;
use forkd_remote::{AssetFolder, ObjectCatalogue};
use std::path::PathBuf;

/// Where a version goes.
#[derive(Debug, Clone)]
pub enum PublishTarget {
    Hub(HubPlace),
    /// Files that are uploaded elsewhere, and the change of a registry.
    Assets {
        dir: PathBuf,
        /// What goes before a file's name to make its URL.
        url: String,
        /// The hub whose registry is changed.
        hub: HubPlace,
    },
}

/// What is published, and how.
#[derive(Debug, Clone)]
pub struct PublishRequest {
    /// The snapshot; its bases are further earlier versions that hosts may have.
    pub pack: PackRequest,
    pub terms: PublishTerms,
}

/// What was published.
#[derive(Debug)]
pub enum Publication {
    /// Packs and an entry in a registry.
    Packs(PublishReport),
    /// A release, with its tag.
    Release(ReleaseReport),
}

impl App<'_> {
    /// Publishes a snapshot as a version of a package; `told` hears of each pack.
    ///
    /// # Errors
    /// As [`forkd_core::publish`] and [`forkd_core::push_release`]; [`Kind::Usage`] for a hub that is only read.
    pub fn publish(
        &self,
        request: &PublishRequest,
        target: &PublishTarget,
        told: &mut dyn FnMut(&PublishedPack),
    ) -> Result<Publication> {
        match target {
            PublishTarget::Hub(hub @ (HubPlace::Registry { .. } | HubPlace::Layout(_))) => {
                self.publish_release(request, hub).map(Publication::Release)
            }
            PublishTarget::Hub(hub) => {
                let catalogue = self.catalogue(hub)?;
                self.publish_packs(request, &*catalogue, hub, told)
            }
            PublishTarget::Assets { dir, url, hub } => {
                let registry = self.registry_text(hub)?;
                let catalogue = AssetFolder::new(dir, url, registry);
                self.publish_packs(request, &catalogue, hub, told)
            }
        }
    }

    fn publish_packs(
        &self,
        request: &PublishRequest,
        catalogue: &dyn Catalogue,
        hub: &HubPlace,
        told: &mut dyn FnMut(&PublishedPack),
    ) -> Result<Publication> {
        let mut pack = request.pack.clone();
        pack.bases.extend(self.previous(catalogue, &request.terms.reference, hub)?);
        pack.kernel = self.kernel_of(&pack.tag).is_ok();
        let named = request.pack.bases.len();
        let mut input = match self.pack_input(&pack) {
            Err(error)
                if pack.bases.len() > named && matches!(error.kind(), Kind::NotFound | Kind::Integrity) =>
            {
                self.env.progress.note(&format!("no update from the last version: {error}"));
                pack.bases.truncate(named);
                self.pack_input(&pack)?
            }
            input => input?,
        };
        if let Some(made) = self.settings.store.load(&pack.tag)?.made_at()
            && !self.settings.timestamp_is_fixed
        {
            // The same snapshot makes the same packs, whenever it is published.
            input.options.created_at = made;
        }
        let options = PublishOptions { pack: input.options.clone(), terms: request.terms.clone() };
        let place = (self.settings.temp_dir.as_path(), self.env);
        forkd_core::publish(&self.settings.store, catalogue, &options, place, told).map(Publication::Packs)
    }

    /// The version that hosts are likely to have.
    fn previous(
        &self,
        catalogue: &dyn Catalogue,
        reference: &Reference,
        hub: &HubPlace,
    ) -> Result<Option<BaseSource>> {
        let registry = catalogue.registry(self.env.cancel)?;
        let listed = |version: &str| registry.version(&reference.package, version);
        let sum = |entry: &serde_json::Map<String, serde_json::Value>| entry.get("sha256").cloned();
        let own = listed(&reference.version).map(sum);
        let Some(latest) = listed("latest").map(sum).filter(|latest| own.as_ref() != Some(latest)) else {
            return Ok(None);
        };
        // By the name that stays its.
        let versions = registry.versions(&reference.package);
        let named = versions
            .into_iter()
            .rfind(|name| *name != "latest" && listed(name).map(sum).as_ref() == Some(&latest));
        let version = named.unwrap_or("latest").to_owned();
        let previous = Reference { package: reference.package.clone(), version, digest: None };
        Ok(Some(BaseSource::Name(previous, Hubs::one(hub.clone()))))
    }

    fn publish_release(&self, request: &PublishRequest, hub: &HubPlace) -> Result<ReleaseReport> {
        let PackRequest { tag, description, base_image, level, .. } = &request.pack;
        let options = ReleaseOptions {
            tag: tag.clone(),
            description: description.clone(),
            base_image: base_image.clone(),
            level: Some(*level),
            bases: Vec::new(),
            variant: request.terms.variant,
            replace: request.terms.replace,
        };
        if request.terms.dry_run {
            return Err(Error::new(
                Kind::Usage,
                format!("{hub}: what a release would send is known once it is sent"),
            )
            .hint("--dry-run is for folders and buckets"));
        }
        let place = ReleasePlace::of_package(hub.clone(), &request.terms.reference);
        let open = place.open(self.opened(None, true))?;
        let version = ManifestName::Tag(request.terms.reference.version.clone());
        let connections = request.pack.connections.unwrap_or(forkd_core::CONNECTIONS);
        let report = self.push_release(&options, &place, connections)?;
        if request.terms.latest && request.terms.reference.version != "latest" {
            let manifest = open.repository.manifest(&version, self.env.cancel)?;
            open.repository.put_manifest(&ManifestName::Tag("latest".into()), &manifest, self.env.cancel)?;
        }
        Ok(report)
    }

    /// Takes a version off a hub's list.
    ///
    /// # Errors
    /// As [`forkd_core::unpublish`]; [`Kind::Usage`] for a hub that is only read.
    pub fn unpublish(&self, reference: &Reference, hub: &HubPlace, dry_run: bool) -> Result<UnpublishReport> {
        forkd_core::unpublish(&*self.catalogue(hub)?, reference, dry_run, self.env.cancel)
    }

    /// Makes a hub: an empty list where there is none. False where there was one.
    ///
    /// # Errors
    /// As [`App::unpublish`]; [`Kind::Integrity`] where what is there is no registry.
    pub fn init_hub(&self, hub: &HubPlace) -> Result<bool> {
        forkd_remote::init(&*hub.objects(self.opened(None, true))?, self.env.cancel)
    }

    fn catalogue(&self, hub: &HubPlace) -> Result<Box<dyn Catalogue>> {
        Ok(Box::new(ObjectCatalogue::new(hub.objects(self.opened(None, true))?)))
    }

    /// A hub's registry, to be changed.
    fn registry_text(&self, hub: &HubPlace) -> Result<RegistryText> {
        self.with_index(hub, None, |_, index| {
            let text = index.text(self.env.cancel)?;
            RegistryText::parse(text.as_bytes()).map_err(Error::malformed(index.name()))
        })
    }
}
