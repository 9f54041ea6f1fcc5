//! What is written under a tag: which release it stands for.

use forkd_format::registry::ReleaseEntry;

/// Blobs, by their digests.
pub(crate) const BLOBS: &str = "blobs/sha256/";
/// Tags, by package and name.
pub(crate) const RELEASES: &str = "releases/";
/// What publishers said of versions of packs, by package and version.
pub(crate) const PACKAGES: &str = "packages/";
/// Packs, by names that tell their content.
pub(crate) const PACKS: &str = "packs/";
/// Publishers and collectors that are at work.
pub(crate) const MARKERS: &str = "markers/";
/// What is made from all tags, for who reads over plain HTTP.
pub(crate) const REGISTRY: &str = "registry.json";

/// The key of a tag.
pub(crate) fn tag_key(package: &str, tag: &str) -> String {
    format!("{RELEASES}{package}/{tag}.json")
}

/// The package and the tag of a key.
pub(crate) fn parse_tag_key(key: &str) -> Option<(String, String)> {
    let (package, file) = key.strip_prefix(RELEASES)?.rsplit_once('/')?;
    Some((package.to_owned(), file.strip_suffix(".json")?.to_owned()))
}

/// The key of what was said of a version.
pub(crate) fn note_key(package: &str, version: &str) -> String {
    format!("{PACKAGES}{package}/{version}.json")
}

/// The package and the version of a key.
pub(crate) fn parse_note_key(key: &str) -> Option<(String, String)> {
    let (package, file) = key.strip_prefix(PACKAGES)?.rsplit_once('/')?;
    Some((package.to_owned(), file.strip_suffix(".json")?.to_owned()))
}

/// The text of a tag.
pub(crate) fn to_bytes(entry: &ReleaseEntry) -> Vec<u8> {
    serde_json::to_vec_pretty(entry).unwrap_or_default()
}

/// Reads one; `None` for what is none.
pub(crate) fn parse(bytes: &[u8]) -> Option<ReleaseEntry> {
    serde_json::from_slice(bytes).ok()
}
