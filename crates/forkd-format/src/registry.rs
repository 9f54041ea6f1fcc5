//! `registry.json`: the list behind `owner/name` (`docs/format/registry.md`).

use crate::digest::Digest;
use crate::error::FormatError;
use crate::manifest::Base;
use crate::reference::Reference;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The largest registry that is read, in bytes.
pub const MAX_REGISTRY: u64 = 64 << 20;

/// A parsed registry. Keys that it does not know are ignored.
#[derive(Debug, Deserialize)]
pub struct Registry {
    schema_version: u64,
    packages: BTreeMap<String, Package>,
}

/// What is listed for one `owner/name`.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// In its publisher's words, shown to people.
    #[serde(default)]
    pub description: Option<String>,
    /// Version name to artifact; `latest` is always there.
    pub versions: BTreeMap<String, Version>,
}

/// What a version's name stands for: the pack that every host reads, and others of the same snapshot.
#[derive(Debug, Clone, Deserialize)]
pub struct Version {
    /// Where the pack lies; may be relative to the registry's own URL.
    pub url: String,
    /// Of the pack file as it is downloaded.
    pub sha256: Digest,
    /// Size of the pack file, in bytes.
    pub size_bytes: u64,
    /// Memory that a guest of it takes, in MiB; for people.
    #[serde(default)]
    pub memory_mib: Option<u64>,
    /// The container image behind the rootfs.
    #[serde(default)]
    pub base_image: Option<String>,
    /// Other packs of the same snapshot; read by [`Version::paged`].
    #[serde(default)]
    artifacts: Option<Vec<serde_json::Value>>,
}

/// A version 3 pack of a snapshot, beside the one that every host reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// The version of the pack's format; other numbers than 3 are passed over.
    pub format: u32,
    /// Where the pack lies; may be relative to the registry's own URL.
    pub url: String,
    /// SHA-256 of the pack's manifest, which names its index and so all of it.
    pub manifest_sha256: Digest,
    /// Size of the pack file, in bytes.
    pub size_bytes: u64,
    /// Bytes before the first frame: what a pull asks for first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_bytes: Option<u64>,
    /// Files that it refers to and does not hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bases: Vec<Base>,
}

/// Artifacts of one version that are looked at.
const MAX_ARTIFACTS: usize = 16;

impl Version {
    /// The version 3 packs of it, at most 16. What this forkd does not understand is passed over, as an older host passes over all.
    #[must_use]
    pub fn paged(&self) -> Vec<Artifact> {
        let artifacts = self.artifacts.iter().flatten();
        let parsed = artifacts.filter_map(|value| serde_json::from_value(value.clone()).ok());
        parsed.filter(|artifact: &Artifact| artifact.format == 3).take(MAX_ARTIFACTS).collect()
    }
}

/// Why a reference has no artifact here.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    /// The package is not listed; similar names.
    Package(Vec<String>),
    /// The package has other versions only; their names.
    Version(Vec<String>),
}

impl Registry {
    /// Reads `registry.json`, schema version 1.
    ///
    /// # Errors
    /// [`FormatError::Registry`] where it is not JSON, not schema version 1, or a package lacks `latest`.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let wrong = FormatError::Registry;
        if bytes.len() as u64 > MAX_REGISTRY {
            return Err(wrong(format!("more than {MAX_REGISTRY} bytes")));
        }
        let registry: Self = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
        if registry.schema_version != 1 {
            return Err(wrong(format!("schema_version is {}; expected 1", registry.schema_version)));
        }
        for (name, package) in &registry.packages {
            if !package.versions.contains_key("latest") {
                return Err(wrong(format!(
                    "package '{}' has no version 'latest'",
                    crate::error::shorten(name)
                )));
            }
        }
        Ok(registry)
    }

    /// All packages, sorted by name.
    pub fn packages(&self) -> impl Iterator<Item = (&str, &Package)> {
        self.packages.iter().map(|(name, package)| (name.as_str(), package))
    }

    /// The artifact that a reference names.
    ///
    /// # Errors
    /// [`Missing`] with what is there instead.
    pub fn resolve(&self, reference: &Reference) -> Result<&Version, Missing> {
        let Some(package) = self.packages.get(&reference.package) else {
            let name = reference.package.split('/').next_back().unwrap_or_default();
            let similar = |key: &&String| {
                key.split('/').next_back().is_some_and(|k| k.contains(name) || name.contains(k))
            };
            return Err(Missing::Package(self.packages.keys().filter(similar).take(5).cloned().collect()));
        };
        package
            .versions
            .get(&reference.version)
            .ok_or_else(|| Missing::Version(package.versions.keys().take(50).cloned().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(versions: &str) -> String {
        format!(
            r#"{{"_note":"x","schema_version":1,"packages":{{"acme/py":{{"versions":{{{versions}}}}}}}}}"#
        )
    }

    fn version(name: &str) -> String {
        let digest = Digest::of(name.as_bytes());
        format!(r#""{name}":{{"url":"https://h/p","sha256":"{digest}","size_bytes":5,"release_tag":"r"}}"#)
    }

    #[test]
    fn resolves_versions_and_says_what_is_there() {
        let both = format!("{},{}", version("latest"), version("v1"));
        let registry = Registry::parse(text(&both).as_bytes()).unwrap();
        assert_eq!(registry.resolve(&"acme/py@v1".parse().unwrap()).unwrap().sha256, Digest::of(b"v1"));
        assert_eq!(registry.resolve(&"acme/py".parse().unwrap()).unwrap().size_bytes, 5);
        let missing = registry.resolve(&"acme/py@v9".parse().unwrap()).unwrap_err();
        assert_eq!(missing, Missing::Version(vec!["latest".into(), "v1".into()]));
        let missing = registry.resolve(&"other/py".parse().unwrap()).unwrap_err();
        assert_eq!(missing, Missing::Package(vec!["acme/py".into()]));
    }

    #[test]
    fn refuses_what_is_not_schema_1() {
        for bad in [text(&version("v1")), text("").replace(":1,", ":2,"), "{}".into(), "<html>".into()] {
            assert!(Registry::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
