//! A version is taken off a hub's list. What it named stays until the hub is collected: others may pin it.

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::hub::catalogue::{Catalogue, VersionChange};
use forkd_format::Reference;
use forkd_format::registry::VersionNote;
use forkd_format::registry_text::RegistryText;
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
    let before = catalogue.registry(cancel)?;
    let (after, _) = without(&before, reference, &catalogue.name())?;
    if !dry_run {
        let name = catalogue.name();
        catalogue
            .change(&|registry| without(registry, reference, &name).map(|(_, changes)| changes), cancel)?;
    }
    let package = reference.package.as_str();
    let latest_moved = before.version(package, "latest") != after.version(package, "latest");
    let left = after.versions(package).into_iter().map(str::to_owned).collect();
    Ok(UnpublishReport { hub: catalogue.name(), reference: reference.clone(), left, latest_moved, dry_run })
}

/// A registry without a version, and what is to be said of its versions for that.
fn without(
    registry: &RegistryText,
    reference: &Reference,
    hub: &str,
) -> Result<(RegistryText, Vec<VersionChange>)> {
    let (package, version) = (reference.package.as_str(), reference.version.as_str());
    let mut after = registry.clone();
    if !after.remove_version(package, version) {
        let there = registry.versions(package).join(", ");
        let message = if there.is_empty() {
            format!("no '{package}' in {hub}")
        } else {
            format!("'{package}' has no version '{version}' in {hub}; there are: {there}")
        };
        return Err(Error::new(Kind::NotFound, message));
    }
    let sum = |text: &RegistryText| {
        text.version(package, "latest").and_then(|latest| latest.get("sha256").cloned())
    };
    if version == "latest" && sum(registry) == sum(&after) {
        let message = format!("'{package}@latest' stands for the version that is listed last");
        return Err(Error::new(Kind::Usage, message).hint("take that one back by its own name"));
    }
    let moved = registry.version(package, "latest") != after.version(package, "latest");
    let names = [version, "latest"].into_iter().take(1 + usize::from(moved && version != "latest"));
    let changes = names.map(|name| VersionChange {
        package: package.to_owned(),
        version: name.to_owned(),
        note: VersionNote { entry: after.version(package, name).cloned(), description: None },
    });
    let changes = changes.collect();
    Ok((after, changes))
}
