//! The releases that a registry lists, beside its packs.

use super::entry::{PackageSummary, ReleaseEntry};
use super::read;
use crate::error::FormatError;
use crate::reference::Reference;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// What a registry is asked for, and nothing else of it.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default)]
    releases: BTreeMap<String, &'a RawValue>,
}

pub(super) type Tags = BTreeMap<String, ReleaseEntry>;

/// Finds the release that a reference names; with the tags that are there instead, where the package is listed.
///
/// # Errors
/// [`FormatError::Registry`] where the registry is malformed, or the package's releases are.
pub fn look_up_release(
    bytes: &[u8],
    reference: &Reference,
) -> Result<Result<ReleaseEntry, Vec<String>>, FormatError> {
    let wire = parse(bytes)?;
    let Some(raw) = wire.releases.get(&reference.package) else { return Ok(Err(Vec::new())) };
    let mut tags: Tags = serde_json::from_str(raw.get()).map_err(|e| FormatError::Registry(e.to_string()))?;
    Ok(match tags.remove(&reference.version) {
        Some(entry) => Ok(entry),
        None => Err(tags.into_keys().take(50).map(|tag| crate::error::shorten(&tag)).collect()),
    })
}

/// All packages, those that have releases only among them, sorted by name.
///
/// # Errors
/// As [`read::list`].
pub fn list_all(bytes: &[u8]) -> Result<Vec<PackageSummary>, FormatError> {
    let mut all: BTreeMap<String, PackageSummary> =
        read::list(bytes)?.into_iter().map(|package| (package.name.clone(), package)).collect();
    for (name, raw) in parse(bytes)?.releases {
        let Ok(tags) = serde_json::from_str::<Tags>(raw.get()) else { continue };
        let summary = all.entry(name.clone()).or_insert_with(|| PackageSummary {
            name,
            description: None,
            versions: Vec::new(),
        });
        for (tag, entry) in tags {
            summary.description = summary.description.take().or(entry.description);
            summary.versions.push(tag);
        }
        summary.versions.sort_unstable();
        summary.versions.dedup();
    }
    Ok(all.into_values().collect())
}

/// All releases that can be read, by package and tag.
pub(super) fn parse_releases(bytes: &[u8]) -> Result<BTreeMap<String, Tags>, FormatError> {
    let all = parse(bytes)?.releases.into_iter();
    Ok(all.filter_map(|(name, raw)| Some((name, serde_json::from_str(raw.get()).ok()?))).collect())
}

fn parse(bytes: &[u8]) -> Result<Wire<'_>, FormatError> {
    if bytes.len() as u64 > read::MAX_REGISTRY {
        return Err(FormatError::Registry(format!("more than {} bytes", read::MAX_REGISTRY)));
    }
    serde_json::from_slice(bytes).map_err(|e| FormatError::Registry(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn releases_stand_beside_packs() {
        let digest = Digest::of(b"x");
        let text = format!(
            r#"{{"schema_version":1,"packages":{{"a/b":{{"versions":{{"latest":{{"url":"u","sha256":"{digest}","size_bytes":1}}}}}}}},
"releases":{{"a/b":{{"v1":{{"digest":"{digest}","size_bytes":7,"description":"d"}}}},"c/d":{{"v2":{{"digest":"{digest}","size_bytes":8,"odd":[]}}}}}}}}"#
        );
        let look = |name: &str| look_up_release(text.as_bytes(), &name.parse().unwrap()).unwrap();
        assert_eq!(look("a/b@v1").unwrap().size_bytes, 7);
        assert_eq!(look("a/b"), Err(vec!["v1".to_owned()]));
        assert_eq!(look("x/y"), Err(Vec::new()));
        let all = list_all(text.as_bytes()).unwrap();
        assert_eq!(all[0].versions, ["latest", "v1"]);
        assert_eq!((all[1].name.as_str(), all[1].versions.len()), ("c/d", 1));
        assert!(look_up_release(br#"{"releases":{"a/b":7}}"#, &"a/b".parse().unwrap()).is_err());
    }
}
