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
use crate::publish::options::PublishOptions;
use crate::publish::packs::PackMaker;
use crate::store::root::Store;
use forkd_format::Reference;
use forkd_format::registry::VersionNote;
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
    let PublishOptions { reference, latest, replace, dry_run, .. } = options;
    let (package, version) = (reference.package.as_str(), reference.version.as_str());
    let registry = catalogue.registry(env.cancel)?;
    let mut maker = PackMaker::new(store, catalogue, options, (temp, env));
    let stream = maker.stream(told)?;
    let described = Described::of(store, options)?;
    let listed = registry.version(package, version);
    let there = listed.and_then(|listed| if options.variant { described.own(listed) } else { Some(listed) });
    let digest = stream.id.digest().to_string();
    let same = |listed: &Map<String, Value>| listed.get("sha256").and_then(Value::as_str) == Some(&digest);
    if there.is_some_and(|listed| !same(listed)) && !replace {
        let message =
            format!("{}: '{package}@{version}' is published already, with other bytes", catalogue.name());
        return Err(Error::new(Kind::General, message)
            .hint("publish under another version, or add --replace: hosts that pinned the old bytes are then refused"));
    }
    let is_latest = *latest || !registry.versions(package).contains(&"latest");
    let moves = is_latest && registry.version(package, "latest") != listed;
    let mut report = PublishReport {
        hub: catalogue.name(),
        reference: reference.clone(),
        outcome: PublishOutcome::Unchanged,
        latest: is_latest,
        packs: vec![stream],
        sent_bytes: 0,
    };
    if there.is_some_and(same) && !moves {
        return Ok(report);
    }
    maker.paged(&mut report.packs, told)?;
    report.outcome = if *dry_run { PublishOutcome::Planned } else { PublishOutcome::Published };
    report.sent_bytes = maker.send()?;
    if *dry_run {
        return Ok(report);
    }
    let own = entry(catalogue, &described, options, &report.packs);
    let note = VersionNote {
        entry: Some(match listed.filter(|_| options.variant) {
            Some(listed) => described.beside(listed, own),
            None => own,
        }),
        description: described.description.clone(),
    };
    let change = |version: &str| VersionChange {
        package: package.to_owned(),
        version: version.to_owned(),
        note: note.clone(),
    };
    // The version before what points to it.
    let mut changes = vec![change(version)];
    if is_latest && version != "latest" {
        changes.push(change("latest"));
    }
    catalogue.change(&changes, *replace || options.variant, env.cancel)?;
    Ok(report)
}
