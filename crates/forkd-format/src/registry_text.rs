//! A `registry.json` that is changed: keys that we do not know, and the order of all, stay as they are (`docs/format/registry.md`).

use crate::error::FormatError;
use crate::manifest::{Base, BaseKind};
use crate::registry::{PUBLISHED, ReleaseEntry, VersionNote, read};
use serde_json::{Map, Value, json};
use std::fmt;

/// The text of a registry, as a document that can be changed.
#[derive(Debug, Clone, PartialEq)]
pub struct RegistryText(Map<String, Value>);

impl Default for RegistryText {
    fn default() -> Self {
        let mut document = Map::new();
        document.insert("schema_version".into(), json!(1));
        document.insert("packages".into(), json!({}));
        Self(document)
    }
}

impl RegistryText {
    /// Parses a registry.
    ///
    /// # Errors
    /// As [`read::check`].
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        read::check(bytes)?;
        serde_json::from_slice(bytes).map(Self).map_err(|e| FormatError::Registry(e.to_string()))
    }

    /// The entry of a version, as it is written.
    #[must_use]
    pub fn version(&self, package: &str, version: &str) -> Option<&Map<String, Value>> {
        self.0.get("packages")?.get(package)?.get("versions")?.get(version)?.as_object()
    }

    /// What a publisher said of a version becomes true: it is listed, or no longer. Keys of it that nobody publishes stay, where it
    /// was listed before; of `latest` they go, which stands for another version now.
    pub fn apply(&mut self, package: &str, version: &str, note: &VersionNote) {
        let Some(entry) = &note.entry else {
            self.remove_version(package, version);
            return;
        };
        let package = object(object(&mut self.0, "packages"), package);
        if let Some(description) = &note.description {
            package.insert("description".into(), description.as_str().into());
        }
        let versions = object(package, "versions");
        let listed = object(versions, version);
        if version == "latest" && listed.get("sha256") != entry.get("sha256") {
            listed.clear();
        }
        listed.retain(|key, _| !PUBLISHED.contains(&key.as_str()) || entry.contains_key(key));
        listed.extend(entry.clone());
        if !versions.contains_key("latest") {
            versions.insert("latest".into(), Value::Object(entry.clone()));
        }
    }

    /// The names of a package's versions, in the order in which they are listed.
    pub fn versions(&self, package: &str) -> Vec<&str> {
        let versions = self.0.get("packages").and_then(|all| all.get(package)?.get("versions")?.as_object());
        versions.into_iter().flat_map(|versions| versions.keys().map(String::as_str)).collect()
    }

    /// The names of all files that it names, wherever it says that they lie: packs, and the kernels beside these. `None` among them: a pack
    /// that does not say which kernels it refers to.
    #[must_use]
    pub fn named_files(&self) -> Vec<Option<String>> {
        let mut named = Vec::new();
        let packages = self.0.get("packages").and_then(Value::as_object);
        let versions =
            packages.into_iter().flat_map(Map::values).filter_map(|one| one.get("versions")?.as_object());
        for pack in versions.flat_map(Map::values).flat_map(packs) {
            let url = pack.get("url").and_then(Value::as_str).unwrap_or_default();
            let path = url.split(['?', '#']).next().unwrap_or_default();
            named.extend(path.rsplit('/').next().map(|name| Some(unescaped(name))));
            let bases = pack.get("bases").and_then(Value::as_array);
            if pack.get("format").is_some() && bases.is_none() {
                named.push(None);
            }
            let bases = bases
                .into_iter()
                .flatten()
                .filter_map(|base| serde_json::from_value::<Base>(base.clone()).ok());
            named.extend(
                bases.filter(|base| base.kind == BaseKind::Kernel).map(|base| Some(base.file_name())),
            );
        }
        named
    }

    /// Lists these releases, by package and tag, and no others.
    pub fn set_releases(&mut self, releases: &[(String, String, ReleaseEntry)]) {
        if releases.is_empty() {
            self.0.shift_remove("releases");
            return;
        }
        let mut packages = Map::new();
        for (package, tag, entry) in releases {
            let value = serde_json::to_value(entry).unwrap_or_default();
            object(&mut packages, package).insert(tag.clone(), value);
        }
        self.0.insert("releases".into(), Value::Object(packages));
    }

    /// Takes a version off the list; says whether it was there. A package goes with its last one, and with its `latest`: every package has one.
    pub fn remove_version(&mut self, package: &str, version: &str) -> bool {
        let packages = object(&mut self.0, "packages");
        let Some(Value::Object(found)) = packages.get_mut(package) else { return false };
        let versions = object(found, "versions");
        let Some(removed) = versions.shift_remove(version) else { return false };
        // What `latest` stands for is gone too; the one that was listed last takes its place.
        let sum = |entry: &Value| entry.get("sha256").cloned();
        if versions.get("latest").is_some_and(|latest| sum(latest) == sum(&removed)) {
            versions.shift_remove("latest");
        }
        let last = versions.iter().next_back().map(|(_, entry)| entry.clone());
        match last {
            None => drop(packages.shift_remove(package)),
            Some(last) if !versions.contains_key("latest") => drop(versions.insert("latest".into(), last)),
            Some(_) => {}
        }
        true
    }
}

/// A part of a URL's path as it is meant: `%2B` is `+`.
fn unescaped(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()).filter(|_| *first == b'%');
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A version, its variants, and the artifacts of all of them.
fn packs(version: &Value) -> Vec<&Value> {
    fn list<'v>(of: &'v Value, key: &str) -> Vec<&'v Value> {
        of.get(key).and_then(Value::as_array).into_iter().flatten().collect()
    }
    let mut all = vec![version];
    all.extend(list(version, "variants"));
    let artifacts: Vec<&Value> = all.iter().flat_map(|one| list(one, "artifacts")).collect();
    all.extend(artifacts);
    all
}

/// The object under a key; made where there is none.
fn object<'m>(map: &'m mut Map<String, Value>, key: &str) -> &'m mut Map<String, Value> {
    let value = map.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(found) => found,
        _ => unreachable!("it was made one just now"),
    }
}

impl fmt::Display for RegistryText {
    /// As people read it: indented, with a line's end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string_pretty(&self.0).map_err(|_| fmt::Error)?;
        writeln!(f, "{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn entry(name: &str) -> Map<String, Value> {
        let value =
            json!({ "url": name, "sha256": Digest::of(name.as_bytes()).to_string(), "size_bytes": 1 });
        value.as_object().unwrap().clone()
    }

    fn note(name: &str) -> VersionNote {
        VersionNote { entry: Some(entry(name)), description: Some("d".into()) }
    }

    #[test]
    fn what_it_does_not_know_stays_as_it_is() {
        let text = r#"{"_note":"x","packages":{"b/b":{"stars":7,"versions":{"latest":{"url":"u","sha256":
"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size_bytes":5,"odd":[1]}}}},"schema_version":1}"#;
        let mut registry = RegistryText::parse(text.as_bytes()).unwrap();
        registry.apply("a/a", "v1", &note("one"));
        let shown = registry.to_string();
        let value: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(value["_note"], "x");
        assert_eq!(value["packages"]["b/b"]["versions"]["latest"]["odd"], json!([1]));
        assert!(shown.find("_note").unwrap() < shown.find("packages").unwrap());
        assert_eq!(value["packages"]["a/a"]["versions"]["latest"]["url"], "one");
        assert!(registry.remove_version("a/a", "v1") && !registry.remove_version("a/a", "v1"));
        let mut expected = RegistryText::parse(text.as_bytes()).unwrap();
        assert!(!expected.remove_version("a/a", "v1"));
        assert_eq!(registry, expected);
    }

    #[test]
    fn latest_is_always_there() {
        let mut registry = RegistryText::default();
        registry.apply("a/a", "v1", &note("one"));
        assert_eq!(registry.version("a/a", "latest").unwrap()["url"], "one");
        registry.apply("a/a", "v2", &note("two"));
        assert_eq!(registry.version("a/a", "latest").unwrap()["url"], "one");
        registry.apply("a/a", "latest", &note("two"));
        assert_eq!(registry.versions("a/a"), ["v1", "latest", "v2"]);
        assert_eq!(registry.version("a/a", "latest").unwrap()["url"], "two");
        assert!(registry.remove_version("a/a", "v2"));
        assert_eq!(registry.version("a/a", "latest").unwrap()["url"], "one");
        read::check(registry.to_string().as_bytes()).unwrap();
        registry.apply("a/a", "v1", &VersionNote::withdrawn());
        assert_eq!(registry, RegistryText::default());
    }

    #[test]
    fn keys_of_others_survive_a_version_that_is_replaced() {
        let mut registry = RegistryText::default();
        let mut by_hand = entry("one");
        by_hand.insert("_ticket".into(), json!(7));
        by_hand.insert("base_image".into(), json!("debian"));
        registry.apply("a/a", "v1", &VersionNote { entry: Some(by_hand), description: None });
        registry.apply("a/a", "v1", &note("two"));
        let listed = registry.version("a/a", "v1").unwrap();
        assert_eq!(
            (&listed["_ticket"], &listed["url"], listed.get("base_image")),
            (&json!(7), &json!("two"), None)
        );
        registry.apply("a/a", "latest", &note("two"));
        assert_eq!(registry.version("a/a", "latest").unwrap().get("_ticket"), None);
    }
}
