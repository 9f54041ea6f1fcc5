//! What an OCI manifest says of a blob (image-spec 1.1, descriptor.md).

use crate::digest::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// Free text by key.
pub type Annotations = BTreeMap<String, String>;

/// A blob, by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: String,
    /// SHA-256 of its bytes. Other algorithms are not read.
    #[serde(serialize_with = "write_digest", deserialize_with = "read_digest")]
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// For people; its file name for other tools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: Annotations,
}

impl Descriptor {
    /// The annotation under which other tools look for a file's name.
    pub const TITLE: &str = "org.opencontainers.image.title";

    /// Of bytes in memory.
    #[must_use]
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            annotations: Annotations::new(),
        }
    }

    /// The same with a file name.
    #[must_use]
    pub fn titled(mut self, title: impl Into<String>) -> Self {
        self.annotations.insert(Self::TITLE.to_owned(), title.into());
        self
    }
}

fn write_digest<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("sha256:{digest}"))
}

fn read_digest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    let text = String::deserialize(deserializer)?;
    let hex = text.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
    hex.ok_or_else(|| serde::de::Error::custom("a digest that is not sha256:<64 lower-case digits>"))
}
