//! Where in a registry's text its packages stand, so that of a large one that is known only what is asked for need be read.

use super::read::check;
use crate::error::FormatError;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

/// A value of the text, by the name that it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryPart {
    /// `owner/name`.
    pub name: String,
    /// The package's, or that of one of its releases.
    pub description: Option<String>,
    /// Its bytes in the text.
    pub bytes: Range<u64>,
}

/// Packages and releases of a registry, as they stand in its text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryParts {
    pub packages: Vec<RegistryPart>,
    pub releases: Vec<RegistryPart>,
}

#[derive(Deserialize)]
struct Document<'t> {
    #[serde(borrow)]
    packages: BTreeMap<Cow<'t, str>, &'t RawValue>,
    #[serde(borrow, default)]
    releases: BTreeMap<Cow<'t, str>, &'t RawValue>,
}

/// What is told of a package, or of a release.
#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    description: Option<String>,
}

impl RegistryParts {
    /// Finds them in a registry that is well-formed as a whole.
    ///
    /// # Errors
    /// As [`check`].
    pub fn of(text: &str) -> Result<Self, FormatError> {
        check(text.as_bytes())?;
        let document: Document<'_> =
            serde_json::from_str(text).map_err(|e| FormatError::Registry(e.to_string()))?;
        let part = |name: Cow<'_, str>, raw: &RawValue, description: Option<String>| {
            let start = (raw.get().as_ptr() as usize - text.as_ptr() as usize) as u64;
            RegistryPart {
                name: name.into_owned(),
                description,
                bytes: start..start + raw.get().len() as u64,
            }
        };
        let packages = document.packages.into_iter().map(|(name, raw)| {
            let package = serde_json::from_str::<Told>(raw.get()).ok();
            part(name, raw, package.and_then(|package| package.description))
        });
        let releases = document.releases.into_iter().map(|(name, raw)| {
            let tags = serde_json::from_str::<BTreeMap<String, Told>>(raw.get()).unwrap_or_default();
            part(name, raw, tags.into_values().find_map(|tag| tag.description))
        });
        Ok(Self { packages: packages.collect(), releases: releases.collect() })
    }

    /// A registry of those that `wanted` says yes to, of their names and descriptions; `read` gives the text of each, which is told by
    /// its number among all packages and, behind these, all releases.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn registry<E>(
        &self,
        wanted: &dyn Fn(&str, Option<&str>) -> bool,
        mut read: impl FnMut(usize, &Range<u64>) -> Result<String, E>,
    ) -> Result<String, E> {
        let mut text = String::from("{\"schema_version\":1");
        let mut number = 0;
        for (key, parts) in [("packages", &self.packages), ("releases", &self.releases)] {
            text += &format!(",\"{key}\":{{");
            let mut comma = "";
            for part in parts {
                if wanted(&part.name, part.description.as_deref()) {
                    let name = serde_json::to_string(&part.name).unwrap_or_default();
                    text += &format!("{comma}{name}:{}", read(number, &part.bytes)?);
                    comma = ",";
                }
                number += 1;
            }
            text.push('}');
        }
        text.push('}');
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{details, list_all};

    #[test]
    fn a_part_of_a_registry_says_what_the_whole_says() {
        let digest = crate::Digest::of(b"x");
        let latest = format!(r#"{{"latest":{{"url":"u","sha256":"{digest}","size_bytes":1}}}}"#);
        let text = format!(
            r#"{{"_note":[1,{{"packages":7}}],"schema_version":1,
"packages":{{ "b/b" : {{"description":"warm \"Pythön\"","versions":{latest}}},"a/a":{{"versions":{latest}}}}},
"releases":{{"c/c":{{"v1":{{"digest":"{digest}","size_bytes":7,"description":"Python too"}}}}}}}}"#
        );
        let parts = RegistryParts::of(&text).unwrap();
        let read = |_: usize, bytes: &Range<u64>| {
            Ok::<_, ()>(text[bytes.start as usize..bytes.end as usize].to_owned())
        };
        let all = parts.registry(&|_, _| true, read).unwrap();
        assert_eq!(list_all(all.as_bytes()), list_all(text.as_bytes()));
        let wanted =
            |_: &str, description: Option<&str>| description.is_some_and(|text| text.contains("Pyth"));
        let some = parts.registry(&wanted, read).unwrap();
        let found = details(some.as_bytes(), &|_, _| true).unwrap();
        assert_eq!(found, details(text.as_bytes(), &wanted).unwrap());
        assert_eq!(found.len(), 2);
        assert!(RegistryParts::of("{}").is_err());
    }
}
