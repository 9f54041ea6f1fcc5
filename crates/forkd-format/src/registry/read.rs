//! How a registry is gone through: what is asked for is kept, the rest is passed over.

use crate::error::{FormatError, shorten};
use crate::reference::Reference;
use crate::registry::entry::{Missing, PackageSummary, Version};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeSet;
use std::fmt;

/// The largest registry that is read, in bytes.
pub const MAX_REGISTRY: u64 = 64 << 20;
/// Names of what is there instead that are told.
const MAX_SIMILAR: usize = 5;
const MAX_VERSIONS: usize = 50;

/// Finds what a reference names in a `registry.json`, schema version 1.
///
/// # Errors
/// [`FormatError::Registry`] where it is not JSON, not schema version 1, a package lacks `latest`, or the version that is asked for lacks
/// what it must have. [`Missing`] with what is there instead.
pub fn look_up(bytes: &[u8], reference: &Reference) -> Result<Result<Version, Missing>, FormatError> {
    read_document(bytes, LookUpSeed { reference })
}

/// All packages, sorted by name.
///
/// # Errors
/// [`FormatError::Registry`] where it is not JSON, not schema version 1, or a package lacks `latest`.
pub fn list(bytes: &[u8]) -> Result<Vec<PackageSummary>, FormatError> {
    read_document(bytes, ListSeed)
}

/// Refuses what is no `registry.json`.
///
/// # Errors
/// As [`list`].
pub fn check(bytes: &[u8]) -> Result<(), FormatError> {
    list(bytes).map(drop)
}

/// Reads a `registry.json`; its packages are the seed's business.
pub(super) fn read_document<'de, S: DeserializeSeed<'de>>(
    bytes: &'de [u8],
    packages: S,
) -> Result<S::Value, FormatError> {
    if bytes.len() as u64 > MAX_REGISTRY {
        return Err(FormatError::Registry(format!("more than {MAX_REGISTRY} bytes")));
    }
    let wrong = |e: serde_json::Error| FormatError::Registry(e.to_string());
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let found = json.deserialize_map(Document(packages)).map_err(wrong)?;
    json.end().map_err(wrong)?;
    Ok(found)
}

struct Document<S>(S);

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Document<S> {
    type Value = S::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a registry")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<S::Value, A::Error> {
        let (mut seed, mut found, mut schema) = (Some(self.0), None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "schema_version" => schema = Some(map.next_value::<u64>()?),
                "packages" => {
                    let seed = seed.take().ok_or_else(|| A::Error::duplicate_field("packages"))?;
                    found = Some(map.next_value_seed(seed)?);
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match schema.ok_or_else(|| A::Error::missing_field("schema_version"))? {
            1 => found.ok_or_else(|| A::Error::missing_field("packages")),
            other => Err(A::Error::custom(format!("schema_version is {other}; expected 1"))),
        }
    }
}

/// Looks a reference up among all packages.
struct LookUpSeed<'r> {
    reference: &'r Reference,
}

impl<'de> DeserializeSeed<'de> for LookUpSeed<'_> {
    type Value = Result<Version, Missing>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for LookUpSeed<'_> {
    type Value = Result<Version, Missing>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("packages")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let wanted = &self.reference.package;
        let last = |name: &str| name.split('/').next_back().unwrap_or_default().to_owned();
        let own = last(wanted);
        let (mut found, mut similar) = (None, BTreeSet::new());
        while let Some(name) = map.next_key::<String>()? {
            let version = (name == *wanted).then_some(self.reference.version.as_str());
            let package = map.next_value_seed(PackageSeed { name: &name, wanted: version })?;
            if version.is_some() {
                found = Some(package);
            } else if similar.len() < MAX_SIMILAR {
                let other = last(&name);
                if other.contains(&own) || own.contains(&other) {
                    similar.insert(shorten(&name));
                }
            }
        }
        Ok(match found {
            None => Err(Missing::Package(similar.into_iter().collect())),
            Some(SeenPackage { found: Some(version), .. }) => Ok(version),
            Some(SeenPackage { versions, .. }) => {
                Err(Missing::Version(versions.iter().take(MAX_VERSIONS).map(|name| shorten(name)).collect()))
            }
        })
    }
}

/// Lists all packages.
struct ListSeed;

impl<'de> DeserializeSeed<'de> for ListSeed {
    type Value = Vec<PackageSummary>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ListSeed {
    type Value = Vec<PackageSummary>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("packages")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut listed = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let package = map.next_value_seed(PackageSeed { name: &name, wanted: None })?;
            let SeenPackage { description, versions, .. } = package;
            listed.push(PackageSummary { name, description, versions: versions.into_iter().collect() });
        }
        listed.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(listed)
    }
}

/// One package, of which one version may be wanted.
struct PackageSeed<'n> {
    name: &'n str,
    wanted: Option<&'n str>,
}

#[derive(Default)]
struct SeenPackage {
    description: Option<String>,
    versions: BTreeSet<String>,
    found: Option<Version>,
}

impl<'de> DeserializeSeed<'de> for PackageSeed<'_> {
    type Value = SeenPackage;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for PackageSeed<'_> {
    type Value = SeenPackage;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a package")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut seen = SeenPackage::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "description" => seen.description = map.next_value()?,
                "versions" => map.next_value_seed(VersionsSeed { wanted: self.wanted, into: &mut seen })?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if seen.versions.contains("latest") {
            Ok(seen)
        } else {
            Err(A::Error::custom(format!("package '{}' has no version 'latest'", shorten(self.name))))
        }
    }
}

struct VersionsSeed<'n, 's> {
    wanted: Option<&'n str>,
    into: &'s mut SeenPackage,
}

impl<'de> DeserializeSeed<'de> for VersionsSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for VersionsSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("versions")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if self.wanted == Some(name.as_str()) {
                self.into.found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            self.into.versions.insert(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::registry::entry::MAX_ARTIFACTS;

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
        let registry = text(&both);
        let find = |name: &str| look_up(registry.as_bytes(), &name.parse().unwrap()).unwrap();
        assert_eq!(find("acme/py@v1").unwrap().sha256, Digest::of(b"v1"));
        assert_eq!(find("acme/py").unwrap().size_bytes, 5);
        let missing = find("acme/py@v9").unwrap_err();
        assert_eq!(missing, Missing::Version(vec!["latest".into(), "v1".into()]));
        let missing = find("other/py").unwrap_err();
        assert_eq!(missing, Missing::Package(vec!["acme/py".into()]));
        let listed = list(registry.as_bytes()).unwrap();
        let versions = vec!["latest".into(), "v1".into()];
        assert_eq!(listed, [PackageSummary { name: "acme/py".into(), description: None, versions }]);
    }

    #[test]
    fn refuses_what_is_not_schema_1() {
        for bad in [text(&version("v1")), text("").replace(":1,", ":2,"), "{}".into(), "<html>".into()] {
            assert!(check(bad.as_bytes()).is_err(), "{bad}");
            assert!(look_up(bad.as_bytes(), &"acme/py".parse().unwrap()).is_err(), "{bad}");
        }
        // What is wrong with a version is the business of who asks for it.
        let broken = text(&format!(r#"{},"v1":{{"url":5}}"#, version("latest")));
        assert!(look_up(broken.as_bytes(), &"acme/py".parse().unwrap()).unwrap().is_ok());
        assert!(look_up(broken.as_bytes(), &"acme/py@v1".parse().unwrap()).is_err());
    }

    #[test]
    fn artifacts_that_are_not_understood_are_passed_over() {
        let digest = Digest::of(b"m");
        let known =
            format!(r#"{{"format":3,"url":"u","manifest_sha256":"{digest}","size_bytes":7,"later":[1]}}"#);
        let odd = r#"0,null,{"format":4,"url":{}},"x",[[]],{"format":3}"#;
        for (artifacts, count) in [
            ("null".to_owned(), 0),
            (format!("[{odd},{known}]"), 1),
            (format!("[{}]", vec![known.clone(); 40].join(",")), MAX_ARTIFACTS),
        ] {
            let latest =
                version("latest").replace(r#""release_tag":"r""#, &format!(r#""artifacts":{artifacts}"#));
            let found = look_up(text(&latest).as_bytes(), &"acme/py".parse().unwrap()).unwrap().unwrap();
            assert_eq!(found.paged.len(), count, "{artifacts}");
        }
        let wrong = version("latest").replace(r#""release_tag":"r""#, r#""artifacts":5"#);
        assert!(look_up(text(&wrong).as_bytes(), &"acme/py".parse().unwrap()).is_err());
    }
}
