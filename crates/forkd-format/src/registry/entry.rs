//! What a registry says of packages, versions and packs.

use crate::digest::Digest;
use crate::manifest::Base;
use serde::de::{DeserializeOwned, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::fmt;

/// What is listed for one `owner/name`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PackageSummary {
    /// `owner/name`.
    pub name: String,
    /// In its publisher's words, shown to people.
    pub description: Option<String>,
    /// Names of its versions, in order; `latest` is always there.
    pub versions: Vec<String>,
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
    /// Its version 3 packs, at most 16. What this forkd does not understand is passed over, as an older host passes over all.
    #[serde(default, rename = "artifacts", deserialize_with = "artifacts")]
    pub paged: Vec<Artifact>,
    /// What it runs under, as `snapshot.json` has it; passed over where it is no object.
    #[serde(default, deserialize_with = "small")]
    pub engine: Option<Value>,
    /// The same for other engines and processors, at most 16; what is not understood is passed over.
    #[serde(default, deserialize_with = "variants")]
    pub variants: Vec<Variant>,
}

/// A version for another engine or processor than the one that every host reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "VariantWire")]
pub struct Variant {
    /// What it runs under, as `snapshot.json` has it.
    pub engine: Map<String, Value>,
    /// Its stream pack.
    #[serde(flatten)]
    pub pack: PackDetails,
    /// Its version 3 packs.
    #[serde(rename = "artifacts", skip_serializing_if = "Vec::is_empty")]
    pub paged: Vec<Artifact>,
}

/// As it is read: `flatten` would keep what it does not know in memory, and that may be much.
#[derive(Deserialize)]
struct VariantWire {
    #[serde(default, deserialize_with = "small")]
    engine: Option<Map<String, Value>>,
    url: String,
    sha256: Digest,
    size_bytes: u64,
    #[serde(default, deserialize_with = "artifacts")]
    artifacts: Vec<Artifact>,
}

impl From<VariantWire> for Variant {
    fn from(wire: VariantWire) -> Self {
        let VariantWire { engine, url, sha256, size_bytes, artifacts } = wire;
        let pack = PackDetails { url, sha256, size_bytes };
        Self { engine: engine.unwrap_or_default(), pack, paged: artifacts }
    }
}

/// A stream pack, as a registry lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PackDetails {
    pub url: String,
    pub sha256: Digest,
    pub size_bytes: u64,
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
    #[serde(default)]
    pub bases: Vec<Base>,
}

/// A release of a package: what a hub lists under a tag (`docs/format/registry.md`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseEntry {
    /// SHA-256 of the release's manifest.
    pub digest: Digest,
    /// Bytes of all that the release names, and of its manifest.
    pub size_bytes: u64,
    /// In its publisher's words, shown to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Artifacts of one version that are looked at.
pub(crate) const MAX_ARTIFACTS: usize = 16;

/// What people are told beside the packs is no longer than so many bytes; what is, or is of another type, is passed over.
const MAX_TOLD: usize = 64 << 10;

/// A value that is small.
pub(super) fn small<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = <&RawValue>::deserialize(deserializer)?.get();
    Ok(if text.len() > MAX_TOLD { None } else { serde_json::from_str(text).ok() })
}

pub(super) fn artifacts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Artifact>, D::Error> {
    let read = |text: &RawValue| {
        serde_json::from_str(text.get()).ok().filter(|artifact: &Artifact| artifact.format == 3)
    };
    deserializer.deserialize_any(Known { what: "an array of artifacts", read })
}

pub(super) fn variants<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Variant>, D::Error> {
    let read = |text: &RawValue| serde_json::from_str(text.get()).ok();
    deserializer.deserialize_any(Known { what: "an array of variants", read })
}

/// Reads an array, the first [`MAX_ARTIFACTS`] of what is understood of it; the rest is passed over as it comes.
struct Known<R> {
    what: &'static str,
    read: R,
}

impl<'de, T, R: Fn(&RawValue) -> Option<T>> Visitor<'de> for Known<R> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut known = Vec::new();
        while let Some(text) = seq.next_element::<&RawValue>()? {
            if known.len() < MAX_ARTIFACTS {
                known.extend((self.read)(text));
            }
        }
        Ok(known)
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
