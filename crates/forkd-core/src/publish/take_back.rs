//! A version is taken off a hub's list. What it named stays until the hub is collected: others may pin it.

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::hub::catalogue::{Catalogue, VersionChange};
use forkd_format::Reference;
use forkd_format::registry::VersionNote;
use serde::Serialize;

/// What was taken back.
#[derive(Debug, Clone, Serialize)]
pub struct UnpublishReport {
    pub hub: String,
    /// `owner/name@version`.
    #[serde(serialize_with = "crate::json::shown")]
    pub reference: Reference,
    /// The versions that are left.
    pub left: Vec<String>,
    /// Whether `latest` stands for another version now, or for none.
    pub latest_moved: bool,
    /// Whether it was only asked for.
    pub dry_run: bool,
}

/// Takes a version back.
///
/// # Errors
/// As [`Catalogue`]; [`Kind::NotFound`] with what is there instead.
pub fn unpublish(
    catalogue: &dyn Catalogue,
    reference: &Reference,
    dry_run: bool,
    cancel: &Cancel,
) -> Result<UnpublishReport> {
    let (package, version) = (reference.package.as_str(), reference.version.as_str());
    let before = catalogue.registry(cancel)?;
    let mut after = before.clone();
    if !after.remove_version(package, version) {
        let there = before.versions(package).join(", ");
        let message = if there.is_empty() {
            format!("no '{package}' in {}", catalogue.name())
        } else {
            format!("'{package}' has no version '{version}' in {}; there are: {there}", catalogue.name())
        };
        return Err(Error::new(Kind::NotFound, message));
    }
    let moved = before.version(package, "latest") != after.version(package, "latest");
    let mut changes = Vec::new();
    for name in [version, "latest"].into_iter().take(1 + usize::from(moved && version != "latest")) {
        let note = VersionNote { entry: after.version(package, name).cloned(), description: None };
        changes.push(VersionChange { package: package.to_owned(), version: name.to_owned(), note });
    }
    if !dry_run {
        catalogue.change(&changes, true, cancel)?;
    }
    let left = after.versions(package).into_iter().map(str::to_owned).collect();
    Ok(UnpublishReport {
        hub: catalogue.name(),
        reference: reference.clone(),
        left,
        latest_moved: moved,
        dry_run,
    })
}
