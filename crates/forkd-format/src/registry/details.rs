//! All that a registry tells people of packages: for lists, pages and checks.

use super::entry::{Artifact, PackDetails, ReleaseEntry, Variant, artifacts, small, variants};
use super::read::read_document;
use super::releases::parse_releases;
use crate::digest::Digest;
use crate::error::{FormatError, shorten};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;

/// A package, with what each of its versions is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PackageDetails {
    /// `owner/name`.
    pub name: String,
    /// In its publisher's words.
    pub description: Option<String>,
    /// In the order in which they are listed; releases that are no version come last.
    pub versions: Vec<VersionDetails>,
}

/// A version, as far as it is told.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct VersionDetails {
    pub version: String,
    /// The pack that every host reads.
    pub pack: Option<PackDetails>,
    /// Guest memory in MiB.
    pub memory_mib: Option<u64>,
    /// The container image behind the root disk.
    pub base_image: Option<String>,
    /// RFC 3339, where its publisher follows that.
    pub created_at: Option<String>,
    pub recipe_path: Option<String>,
    /// What it runs under, as `snapshot.json` has it.
    pub engine: Option<Value>,
    /// Its chain, root first; empty where it is no chain.
    pub chain: Vec<String>,
    pub artifacts: Vec<Artifact>,
    /// The same for other engines and processors.
    pub variants: Vec<Variant>,
    /// The same as a release.
    pub release: Option<ReleaseEntry>,
    /// Why what is said of it cannot be read.
    pub fault: Option<String>,
}

#[derive(Deserialize)]
struct VersionWire {
    url: String,
    sha256: Digest,
    size_bytes: u64,
    #[serde(default)]
    memory_mib: Option<u64>,
    #[serde(default)]
    base_image: Option<String>,
    #[serde(default, deserialize_with = "small")]
    created_at: Option<String>,
    #[serde(default, deserialize_with = "small")]
    recipe_path: Option<String>,
    #[serde(default, deserialize_with = "small")]
    engine: Option<Value>,
    #[serde(default, deserialize_with = "small")]
    chain: Option<Vec<String>>,
    #[serde(default, deserialize_with = "artifacts")]
    artifacts: Vec<Artifact>,
    #[serde(default, deserialize_with = "variants")]
    variants: Vec<Variant>,
}

impl VersionDetails {
    fn read(version: String, raw: &RawValue) -> Self {
        let wire = match serde_json::from_str::<VersionWire>(raw.get()) {
            Ok(wire) => wire,
            Err(error) => {
                return Self { version, fault: Some(shorten(&error.to_string())), ..Self::default() };
            }
        };
        let VersionWire { url, sha256, size_bytes, .. } = wire;
        Self {
            version,
            pack: Some(PackDetails { url, sha256, size_bytes }),
            memory_mib: wire.memory_mib,
            base_image: wire.base_image,
            created_at: wire.created_at,
            recipe_path: wire.recipe_path,
            engine: wire.engine.filter(Value::is_object),
            chain: wire.chain.unwrap_or_default(),
            artifacts: wire.artifacts,
            variants: wire.variants,
            release: None,
            fault: None,
        }
    }

    /// The fewest bytes with which a host that has nothing gets it.
    #[must_use]
    pub fn smallest(&self) -> Option<u64> {
        let alone = self.artifacts.iter().filter(|artifact| artifact.bases.is_empty());
        let packs = self.pack.iter().map(|pack| pack.size_bytes);
        packs
            .chain(alone.map(|artifact| artifact.size_bytes))
            .chain(self.release.iter().map(|r| r.size_bytes))
            .min()
    }

    /// The fewest bytes with which a host gets it that has what its artifacts refer to.
    #[must_use]
    pub fn update(&self) -> Option<u64> {
        let needing = self.artifacts.iter().filter(|artifact| !artifact.bases.is_empty());
        needing.map(|artifact| artifact.size_bytes).min()
    }
}

impl PackageDetails {
    /// What a name without a version stands for: `latest`, or what is listed last.
    #[must_use]
    pub fn latest(&self) -> Option<&VersionDetails> {
        self.version("latest").or(self.versions.last())
    }

    /// A version by its name.
    #[must_use]
    pub fn version(&self, name: &str) -> Option<&VersionDetails> {
        self.versions.iter().find(|version| version.version == name)
    }

    /// The name that stays a version's, beside `latest` and the one by which it was asked for.
    #[must_use]
    pub fn own_name(&self, of: &VersionDetails) -> Option<&str> {
        let same = |other: &&VersionDetails| {
            other.version != "latest" && other.pack == of.pack && other.release == of.release
        };
        self.versions.iter().rfind(same).map(|version| version.version.as_str())
    }
}

/// An engine in words, as `snapshot.json` has it: `qemu 7.2.22 (tcg), processor Nehalem-v1`. Empty where it says nothing.
#[must_use]
pub fn engine_words(engine: &Value) -> String {
    let text = |name: &str| engine.get(name).and_then(Value::as_str);
    let mut words: Vec<String> =
        [text("name"), text("version")].into_iter().flatten().map(str::to_owned).collect();
    words.extend(text("accel").map(|accel| format!("({accel})")));
    let cpu = text("cpu").map_or_else(String::new, |cpu| format!(", processor {cpu}"));
    words.join(" ") + &cpu
}

/// All packages that `wanted` says yes to, of their names and descriptions, sorted by name.
///
/// # Errors
/// [`FormatError::Registry`] where it is not JSON or not schema version 1. What is wrong with one version is its `fault`.
pub fn details(
    bytes: &[u8],
    wanted: &dyn Fn(&str, Option<&str>) -> bool,
) -> Result<Vec<PackageDetails>, FormatError> {
    let mut found = read_document(bytes, DetailsSeed { wanted })?;
    for (name, tags) in parse_releases(bytes)? {
        let description = tags.values().find_map(|entry| entry.description.as_deref());
        if !found.contains_key(&name) {
            if !wanted(&name, description) {
                continue;
            }
            let details = PackageDetails {
                name: name.clone(),
                description: description.map(str::to_owned),
                versions: Vec::new(),
            };
            found.insert(name.clone(), details);
        }
        let Some(package) = found.get_mut(&name) else { continue };
        for (tag, entry) in tags {
            match package.versions.iter_mut().find(|version| version.version == tag) {
                Some(version) => version.release = Some(entry),
                None => package.versions.push(VersionDetails {
                    version: tag,
                    release: Some(entry),
                    ..VersionDetails::default()
                }),
            }
        }
    }
    Ok(found.into_values().collect())
}

#[derive(Deserialize)]
struct PackageWire<'a> {
    #[serde(default)]
    description: Option<String>,
    #[serde(borrow)]
    versions: &'a RawValue,
}

struct DetailsSeed<'w> {
    wanted: &'w dyn Fn(&str, Option<&str>) -> bool,
}

impl<'de> DeserializeSeed<'de> for DetailsSeed<'_> {
    type Value = BTreeMap<String, PackageDetails>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for DetailsSeed<'_> {
    type Value = BTreeMap<String, PackageDetails>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("packages")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = BTreeMap::new();
        while let Some((name, package)) = map.next_entry::<String, PackageWire<'de>>()? {
            if !(self.wanted)(&name, package.description.as_deref()) {
                continue;
            }
            let versions = serde_json::from_str::<ListedVersions<'de>>(package.versions.get());
            let versions = versions.map_err(serde::de::Error::custom)?;
            let versions =
                versions.0.into_iter().map(|(name, raw)| VersionDetails::read(name, raw)).collect();
            found.insert(name.clone(), PackageDetails { name, description: package.description, versions });
        }
        Ok(found)
    }
}

/// Versions in their order.
struct ListedVersions<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for ListedVersions<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Versions;

        impl<'de> Visitor<'de> for Versions {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("versions")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(all)
            }
        }

        deserializer.deserialize_map(Versions).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_can_be_read_and_what_cannot() {
        let digest = Digest::of(b"x");
        let text = format!(
            r#"{{"schema_version":1,"packages":{{"b/b":{{"description":"warm Python","versions":{{
"v1":{{"url":"u","sha256":"{digest}","size_bytes":9,"memory_mib":512,"created_at":"2026-01-01T00:00:00Z","engine":{{"name":"qemu"}},"chain":["a","b"],
"artifacts":[{{"format":3,"url":"w","manifest_sha256":"{digest}","size_bytes":5}}]}},
"latest":{{"url":7}}}}}},"a/a":{{"versions":{{"latest":{{"url":"u","sha256":"{digest}","size_bytes":1}}}}}}}},
"releases":{{"a/a":{{"latest":{{"digest":"{digest}","size_bytes":7}}}},"c/c":{{"v1":{{"digest":"{digest}","size_bytes":7,"description":"Python too"}}}}}}}}"#
        );
        let all = details(text.as_bytes(), &|_, _| true).unwrap();
        let names: Vec<&str> = all.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["a/a", "b/b", "c/c"]);
        assert_eq!(all[0].versions[0].smallest(), Some(1));
        let (v1, latest) = (&all[1].versions[0], &all[1].versions[1]);
        assert_eq!((v1.smallest(), v1.memory_mib, v1.chain.len()), (Some(5), Some(512), 2));
        assert!(v1.fault.is_none() && latest.fault.is_some());
        let python =
            details(text.as_bytes(), &|_, description| description.is_some_and(|d| d.contains("Python")));
        assert_eq!(python.unwrap().len(), 2);
    }
}
