use crate::{Digest, FormatError, Tag};
use serde_json::{Map, Value};

/// A parsed `snapshot.json` (`docs/format/snapshot.md`). Unknown keys survive a round trip, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot(Map<String, Value>);

/// The edge from a chain link to its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentLink {
    /// The parent's tag.
    pub tag: Tag,
    /// SHA-256 of the parent's `memory.bin`, where the snapshot names one.
    pub content_hash: Option<Digest>,
}

impl Snapshot {
    /// The largest `snapshot.json` that is read, in bytes.
    pub const MAX_LEN: u64 = 1 << 20;

    /// An empty description, to be filled by the engine that bakes a snapshot.
    #[must_use]
    pub fn new(fields: Map<String, Value>) -> Self {
        Self(fields)
    }

    /// Parses and checks the types of the known keys.
    ///
    /// # Errors
    /// [`FormatError::Snapshot`] where the text is not a JSON object or a known key has another type.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let wrong = |message: String| FormatError::Snapshot(message);
        if bytes.len() as u64 > Self::MAX_LEN {
            return Err(wrong(format!("{} bytes; at most {} are read", bytes.len(), Self::MAX_LEN)));
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
        let Value::Object(map) = value else { return Err(wrong("expected a JSON object".into())) };
        for key in ["vmstate", "memory", "rootfs", "parent_tag", "parent_content_hash"] {
            if map.get(key).is_some_and(|v| !v.is_string() && !v.is_null()) {
                return Err(wrong(format!("'{key}' is not a string")));
            }
        }
        if map.get("volumes").is_some_and(|v| !v.is_array() && !v.is_null()) {
            return Err(wrong("'volumes' is not an array".into()));
        }
        let snapshot = Self(map);
        snapshot.parent()?;
        Ok(snapshot)
    }

    /// The parent in the chain, or `None` for a base.
    ///
    /// # Errors
    /// [`FormatError`] where the tag or the hash is malformed, or a hash stands without a tag.
    pub fn parent(&self) -> Result<Option<ParentLink>, FormatError> {
        match (self.text("parent_tag"), self.text("parent_content_hash")) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(FormatError::Snapshot("parent_content_hash without parent_tag".into())),
            (Some(tag), hash) => {
                Ok(Some(ParentLink { tag: tag.parse()?, content_hash: hash.map(str::parse).transpose()? }))
            }
        }
    }

    /// The path of a rootfs, as the host that wrote the file named it.
    #[must_use]
    pub fn rootfs(&self) -> Option<&str> {
        self.text("rootfs")
    }

    /// A field of any name.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str)
    }

    /// Points `vmstate`, `memory` and, where `rootfs` is given, `rootfs` into a folder. An empty prefix makes
    /// them bare file names: the form that goes into a pack, the same on every host.
    #[must_use]
    pub fn relocated(&self, prefix: &str, rootfs: Option<&str>) -> Self {
        let mut map = self.0.clone();
        map.insert("vmstate".into(), Value::String(format!("{prefix}vmstate")));
        map.insert("memory".into(), Value::String(format!("{prefix}memory.bin")));
        match rootfs {
            Some(path) => map.insert("rootfs".into(), Value::String(path.to_owned())),
            None => map.shift_remove("rootfs"),
        };
        Self(map)
    }

    /// The file's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        Value::Object(self.0.clone()).to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_survive_in_order() {
        let text = br#"{"zeta":[1,{"a":null}],"vmstate":"/h/v","memory":"/h/m","volumes":[],"rootfs":"/h/r","b":1.50}"#;
        let moved = Snapshot::parse(text).unwrap().relocated("/new/", None);
        assert_eq!(
            String::from_utf8(moved.to_bytes()).unwrap(),
            r#"{"zeta":[1,{"a":null}],"vmstate":"/new/vmstate","memory":"/new/memory.bin","volumes":[],"b":1.50}"#
        );
    }

    #[test]
    fn a_malformed_parent_is_refused() {
        for bad in [
            r#"{"parent_tag":"../x"}"#,
            r#"{"parent_tag":"x","parent_content_hash":"zz"}"#,
            r#"{"parent_content_hash":"00"}"#,
            r#"{"parent_tag":1}"#,
            "[]",
            "",
        ] {
            assert!(Snapshot::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
