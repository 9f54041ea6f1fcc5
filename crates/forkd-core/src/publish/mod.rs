//! From a snapshot in the store to a version on a hub: all packs of it that are of use, then the list.

mod entry;
pub(crate) mod options;
mod packs;
mod take_back;

pub use packs::{PackKind, PublishedPack};
pub use take_back::{UnpublishReport, unpublish};

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::hub::catalogue::{Catalogue, VersionChange};
use crate::publish::entry::{Described, entry};
use crate::publish::options::{PublishOptions, PublishTerms};
use crate::publish::packs::PackMaker;
use crate::store::root::Store;
use forkd_format::Reference;
use forkd_format::registry::VersionNote;
use forkd_format::registry_text::RegistryText;
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::Path;

/// What became of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishOutcome {
    /// It is new, or has other packs now.
    Published,
    /// It was there, with the same bytes.
    Unchanged,
    /// It would have been published.
    Planned,
}

/// What was published.
#[derive(Debug, Clone, Serialize)]
pub struct PublishReport {
    pub hub: String,
    /// `owner/name@version`.
    #[serde(serialize_with = "crate::json::shown")]
    pub reference: Reference,
    pub outcome: PublishOutcome,
    /// Whether it is the package's `latest` now.
    pub latest: bool,
    pub packs: Vec<PublishedPack>,
    /// Bytes that were sent, or would be.
    pub sent_bytes: u64,
}

/// Publishes a version. `told` hears of each pack when it is made.
///
/// # Errors
/// As [`crate::pack()`] and [`Catalogue`]; [`Kind::General`] where the version is there with other bytes and may not be replaced.
pub fn publish(
    store: &Store,
    catalogue: &dyn Catalogue,
    options: &PublishOptions,
    (temp, env): (&Path, Env<'_>),
    told: &mut dyn FnMut(&PublishedPack),
) -> Result<PublishReport> {
    let terms = &options.terms;
    let mut maker = PackMaker::new(store, catalogue, options, (temp, env));
    let stream = maker.stream(told)?;
    let described = Described::of(store, options)?;
    let wish = Wish { terms, described: &described, sha256: stream.id.digest().to_string() };
    let registry = catalogue.registry(env.cancel)?;
    let is_listed = wish.is_listed(&registry, &catalogue.name())?;
    let is_there =
        is_listed && !terms.replace && catalogue.has_file(&stream.file_name, stream.size, env.cancel)?;
    let latest = wish.is_latest(&registry);
    let mut report = PublishReport {
        hub: catalogue.name(),
        reference: terms.reference.clone(),
        outcome: PublishOutcome::Unchanged,
        latest,
        packs: vec![stream],
        sent_bytes: 0,
    };
    if is_there && wish.latest_is_it(&registry) {
        return Ok(report);
    }
    report.outcome = if terms.dry_run { PublishOutcome::Planned } else { PublishOutcome::Published };
    // Where only `latest` moves, all packs are there.
    if !is_there {
        maker.paged(&mut report.packs, told)?;
        report.sent_bytes = maker.send()?;
    }
    if terms.dry_run {
        return Ok(report);
    }
    let own = entry(catalogue, &described, options, &report.packs);
    let name = catalogue.name();
    catalogue.change(&|registry| wish.changes(registry, is_there, &own, &name), env.cancel)?;
    Ok(report)
}

/// What is to be listed.
struct Wish<'a> {
    terms: &'a PublishTerms,
    described: &'a Described,
    /// Of the pack that every host reads.
    sha256: String,
}

impl Wish<'_> {
    fn listed<'r>(&self, registry: &'r RegistryText) -> Option<&'r Map<String, Value>> {
        registry.version(&self.terms.reference.package, &self.terms.reference.version)
    }

    /// What is listed in the place that this is to have: the version, or what it is for the same engine and processor.
    fn there<'r>(&self, registry: &'r RegistryText) -> Option<&'r Map<String, Value>> {
        let listed = self.listed(registry)?;
        if self.terms.variant { self.described.own(listed) } else { Some(listed) }
    }

    fn is_it(&self, listed: &Map<String, Value>) -> bool {
        listed.get("sha256").and_then(Value::as_str) == Some(&self.sha256)
    }

    /// Whether it is listed already; refused where other bytes are and may not be replaced.
    fn is_listed(&self, registry: &RegistryText, hub: &str) -> Result<bool> {
        match self.there(registry) {
            None => Ok(false),
            Some(there) if self.is_it(there) => Ok(true),
            Some(_) if self.terms.replace => Ok(false),
            Some(_) => {
                let reference = &self.terms.reference;
                let message = format!("{hub}: '{reference}' is published already, with other bytes");
                Err(Error::new(Kind::General, message).hint(
                    "publish under another version, or add --replace: hosts that pinned the old bytes are then refused",
                ))
            }
        }
    }

    fn is_latest(&self, registry: &RegistryText) -> bool {
        let versions = registry.versions(&self.terms.reference.package);
        self.terms.latest || !versions.contains(&"latest") || self.terms.reference.version == "latest"
    }

    /// Whether `latest` is what it is to be.
    fn latest_is_it(&self, registry: &RegistryText) -> bool {
        let latest = registry.version(&self.terms.reference.package, "latest");
        let same = |latest: &Map<String, Value>| {
            self.listed(registry).is_some_and(|listed| listed.get("sha256") == latest.get("sha256"))
        };
        !self.is_latest(registry) || latest.is_some_and(same)
    }

    /// What becomes of the version, by the registry as it is now: the version before what points to it.
    fn changes(
        &self,
        registry: &RegistryText,
        was_there: bool,
        own: &Map<String, Value>,
        hub: &str,
    ) -> Result<Vec<VersionChange>> {
        let PublishTerms { reference, variant, .. } = self.terms;
        self.is_listed(registry, hub)?;
        let entry = match self.listed(registry) {
            // All that it had stays.
            Some(listed) if was_there => listed.clone(),
            Some(listed) if *variant => self.described.beside(listed, own.clone()),
            _ => own.clone(),
        };
        let note = VersionNote { entry: Some(entry), description: self.described.description.clone() };
        let change = |version: &str| VersionChange {
            package: reference.package.clone(),
            version: version.to_owned(),
            note: note.clone(),
        };
        let mut changes = vec![change(&reference.version)];
        // A variant of what `latest` stands for is one of that too.
        let twin = self.listed(registry).is_some_and(|listed| {
            registry.version(&reference.package, "latest").map(|latest| latest.get("sha256"))
                == Some(listed.get("sha256"))
        });
        if (self.is_latest(registry) || (*variant && twin)) && reference.version != "latest" {
            changes.push(change("latest"));
        }
        Ok(changes)
    }
}
