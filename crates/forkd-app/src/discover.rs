//! What hubs offer: found by words, shown, compared with what is here.

use crate::app::App;
use crate::hub_place::HubPlace;
use crate::hubs::Hubs;
use crate::pull::{PullRequest, PullSource, TagChoice};
use forkd_core::hub::Hub;
use forkd_core::{Error, Kind, PullSummary, Result};
use forkd_engine::Qemu;
use forkd_format::registry::{PackageDetails, details};
use forkd_format::{PackId, Reference, Snapshot, Tag};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Packages of one hub.
#[derive(Debug, Clone, Serialize)]
pub struct FoundPackages {
    pub hub: String,
    pub packages: Vec<PackageDetails>,
    /// Why the hub could not be asked.
    pub fault: Option<String>,
}

/// A package, and what it would cost this host.
#[derive(Debug, Clone, Serialize)]
pub struct PackageReport {
    pub hub: String,
    #[serde(flatten)]
    pub package: PackageDetails,
    /// The version that was asked for, `latest` as a rule.
    pub version: String,
    /// What pulling that would fetch.
    pub pull: PullSummary,
    /// Why this host cannot fork it, where its engine is told and that is so.
    pub misfit: Option<String>,
}

/// A snapshot of the store that came from a hub, beside what the hub has now.
#[derive(Debug, Clone, Serialize)]
pub struct UpdateReport {
    pub tag: Tag,
    /// What it was pulled as.
    #[serde(serialize_with = "forkd_core::json::shown")]
    pub from: Reference,
    /// What the hub has: the version that `latest` stands for; `None` where nothing is newer.
    pub newer: Option<String>,
    /// Bytes that an update would fetch.
    pub fetch_bytes: Option<u64>,
}

impl App<'_> {
    /// Packages whose names or descriptions hold all words, whatever their case.
    ///
    /// # Errors
    /// Those of the hub, where there is one only.
    pub fn search(&self, words: &[String], hubs: &Hubs) -> Result<Vec<FoundPackages>> {
        let words: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
        let wanted = |name: &str, description: Option<&str>| {
            let text = format!("{name} {}", description.unwrap_or_default()).to_lowercase();
            words.iter().all(|word| text.contains(word))
        };
        let mut all = Vec::new();
        for entry in &hubs.0 {
            let mut found = self.packages_of(&entry.place, &wanted);
            for mirror in &entry.mirrors {
                if found.as_ref().is_err_and(|error| error.kind() == Kind::Transient) {
                    found = self.packages_of(mirror, &wanted);
                }
            }
            let hub = entry.place.index_name();
            all.push(match found {
                Ok(packages) => FoundPackages { hub, packages, fault: None },
                Err(error) if hubs.0.len() == 1 => return Err(error),
                Err(error) => FoundPackages { hub, packages: Vec::new(), fault: Some(error.to_string()) },
            });
        }
        Ok(all)
    }

    pub(crate) fn packages_of(
        &self,
        hub: &HubPlace,
        wanted: &dyn Fn(&str, Option<&str>) -> bool,
    ) -> Result<Vec<PackageDetails>> {
        match hub {
            HubPlace::Registry { .. } | HubPlace::Layout(_) => {
                let names = hub.packages(self.opened(None, false), self.env.cancel)?;
                let named = names.into_iter().filter(|name| wanted(name, None));
                Ok(named
                    .map(|name| PackageDetails { name, description: None, versions: Vec::new() })
                    .collect())
            }
            _ => self.with_index(hub, None, |_, index| {
                let text = index.part(wanted, self.env.cancel)?;
                details(text.as_bytes(), wanted).map_err(Error::malformed(index.name()))
            }),
        }
    }

    /// A package, its versions, and what pulling one would cost this host.
    ///
    /// # Errors
    /// As a pull's plan.
    pub fn show(&self, reference: &Reference, hubs: &Hubs) -> Result<PackageReport> {
        let hub = self.find_hub(reference, hubs)?;
        // Where an earlier version is here, what an update would cost.
        let tag = self.tag_of(&reference.package, hubs)?;
        let place = TagChoice { update: tag.is_some(), tag, force: false };
        let source = PullSource::Name(reference.clone(), Hubs::one(hub.clone()));
        let request = PullRequest { source, place, connections: None, limit_rate: None };
        let pull = self.pull_summary(&request)?;
        let found = self.packages_of(&hub, &|name, _| name == reference.package)?;
        let bare =
            || PackageDetails { name: reference.package.clone(), description: None, versions: Vec::new() };
        let package = found.into_iter().next().unwrap_or_else(bare);
        let engine = package.version(&reference.version);
        let misfit = engine.and_then(|version| {
            let variants = version.variants.iter().map(|variant| Value::Object(variant.engine.clone()));
            let check = |engine: Value| {
                let told = Map::from_iter([("engine".to_owned(), engine)]);
                let host = Qemu::find(self.settings.search_path.as_deref());
                host.and_then(|qemu| qemu.check_engine(&Snapshot::new(told)))
            };
            let all: Vec<Result<()>> = version.engine.iter().cloned().chain(variants).map(check).collect();
            let fits = all.iter().any(Result::is_ok);
            all.into_iter().find_map(Result::err).filter(|_| !fits).map(|error| error.to_string())
        });
        Ok(PackageReport { hub: hub.index_name(), version: reference.version.clone(), package, pull, misfit })
    }

    /// Snapshots of the store that were pulled by names, and what is newer on the hubs; those of some packages, where any are named.
    ///
    /// # Errors
    /// Those of the hubs; [`Kind::NotFound`] where a package that is named was never pulled.
    pub fn updates(&self, packages: &[Reference], hubs: &Hubs) -> Result<Vec<UpdateReport>> {
        let mut pulled = self.pulled(hubs)?;
        if let Some(never) =
            packages.iter().find(|one| !pulled.values().any(|(from, _)| from.package == one.package))
        {
            let message = format!("nothing here was pulled as '{}'", never.package);
            return Err(Error::new(Kind::NotFound, message).hint(format!("`forkd pull {}`", never.package)));
        }
        pulled.retain(|_, (from, _)| {
            packages.is_empty() || packages.iter().any(|one| one.package == from.package)
        });
        let mut reports = Vec::new();
        for (tag, (from, id)) in pulled {
            let asked = packages.iter().find(|one| one.package == from.package);
            let version = asked.map_or_else(|| "latest".to_owned(), |one| one.version.clone());
            let wanted = Reference { package: from.package.clone(), version, digest: None };
            reports.push(match self.newer(&wanted, id, hubs) {
                Ok(None) => UpdateReport { tag, from, newer: None, fetch_bytes: None },
                Ok(Some(newer)) => {
                    let request = self.update_request(&wanted, &tag, hubs);
                    let summary = self.pull_summary(&request)?;
                    UpdateReport { tag, from, newer: Some(newer), fetch_bytes: summary.fetch_bytes }
                }
                // One hub's package that went away does not hide the others.
                Err(error) if error.kind() == Kind::NotFound && packages.is_empty() => {
                    self.env.progress.note(&error.to_string());
                    continue;
                }
                Err(error) => return Err(error),
            });
        }
        Ok(reports)
    }

    /// The pull that moves a tag to another version of its package.
    #[must_use]
    pub fn update_request(&self, wanted: &Reference, tag: &Tag, hubs: &Hubs) -> PullRequest {
        PullRequest {
            source: PullSource::Name(wanted.clone(), hubs.clone()),
            place: TagChoice { tag: Some(tag.clone()), force: false, update: true },
            connections: None,
            limit_rate: None,
        }
    }

    /// The tag under which a package was pulled last.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn tag_of(&self, package: &str, hubs: &Hubs) -> Result<Option<Tag>> {
        Ok(self.pulled(hubs)?.into_iter().find(|(_, (from, _))| from.package == package).map(|(tag, _)| tag))
    }

    /// What was pulled by a name, by tag.
    fn pulled(&self, hubs: &Hubs) -> Result<BTreeMap<Tag, (Reference, Option<PackId>)>> {
        let store = &self.settings.store;
        let mut found = BTreeMap::new();
        let mut parents = Vec::new();
        for tag in store.tags()? {
            let Ok(stored) = store.load(&tag) else { continue };
            let Some(source) = stored.record.and_then(|record| record.source) else { continue };
            let Some(from) = named(&source.name, hubs) else { continue };
            let parent = stored.snapshot.parent().ok().flatten();
            parents.extend(parent.map(|parent| (parent.tag, from.package.clone())));
            found.insert(tag, (from, source.id));
        }
        // Links that only came along are moved with their heads.
        for (parent, package) in parents {
            if found.get(&parent).is_some_and(|(own, _)| own.package == package) {
                found.remove(&parent);
            }
        }
        Ok(found)
    }

    /// What a hub has, where that is not what is here.
    fn newer(&self, wanted: &Reference, here: Option<PackId>, hubs: &Hubs) -> Result<Option<String>> {
        let hub = self.find_hub(wanted, hubs)?;
        let source = PullSource::Name(wanted.clone(), Hubs::one(hub.clone()));
        let request =
            PullRequest { source, place: TagChoice::default(), connections: None, limit_rate: None };
        let ids = self.with_pull(&request, None, |_, options| forkd_core::offered_ids(options, self.env))?;
        if here.is_some_and(|id| ids.contains(&id)) {
            return Ok(None);
        }
        // Under the name that stays its, where it has one.
        let found = self.packages_of(&hub, &|name, _| name == wanted.package).unwrap_or_default();
        let own = found.first().and_then(|package| package.own_name(package.version(&wanted.version)?));
        Ok(Some(own.unwrap_or(&wanted.version).to_owned()))
    }
}

/// The name that a record has: as it was asked for, or the place of a release on one of the hubs.
fn named(recorded: &str, hubs: &Hubs) -> Option<Reference> {
    if let Ok(reference) = recorded.parse() {
        return Some(reference);
    }
    let below = hubs.places().find_map(|place| recorded.strip_prefix(&format!("{place}/")))?;
    let (package, version) = below.rsplit_once(':')?;
    format!("{package}@{version}").parse().ok()
}
