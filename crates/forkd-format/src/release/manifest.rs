//! The manifest of a release: an OCI image manifest (image-spec 1.1, manifest.md) with forkd's artifact type.

use super::descriptor::{Annotations, Descriptor};
use crate::digest::Digest;
use crate::error::{FormatError, shorten};
use crate::manifest::MAX_UNPACKED;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The largest manifest that is read, in bytes: what registries take.
pub const MAX_RELEASE_MANIFEST: u64 = 4 << 20;
/// Blobs that a release may name.
pub const MAX_BLOBS: usize = 4096;

/// Media types.
pub mod media {
    /// OCI's image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI's image index.
    pub const IMAGE_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// A release, as an artifact type.
    pub const SNAPSHOT: &str = "application/vnd.forkd.snapshot.v1";
    /// What a release holds.
    pub const CONFIG: &str = "application/vnd.forkd.release.config.v1+json";
    /// Where the frames lie.
    pub const INDEX: &str = "application/vnd.forkd.release.index.v1";
    /// The frames of one file.
    pub const FRAMES: &str = "application/vnd.forkd.frames.v1";
}

/// What names all blobs of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseManifest {
    /// The description of the snapshot.
    pub config: Descriptor,
    /// The table of all frames.
    pub index: Descriptor,
    /// The frames of each file, each blob once.
    pub blobs: Vec<Descriptor>,
    /// For people and tools.
    pub annotations: Annotations,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: Annotations,
}

impl ReleaseManifest {
    /// As it is uploaded.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let layers = std::iter::once(&self.index).chain(&self.blobs).cloned().collect();
        let wire = Wire {
            schema_version: 2,
            media_type: Some(media::MANIFEST.to_owned()),
            artifact_type: Some(media::SNAPSHOT.to_owned()),
            config: self.config.clone(),
            layers,
            annotations: self.annotations.clone(),
        };
        // Maps of strings and numbers: nothing in it can fail to be written.
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// Reads a manifest, and holds it to the rules that it can be held to by itself.
    ///
    /// # Errors
    /// [`FormatError::Release`] where it is no release's, or breaks a rule of `docs/format/release.md`.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() as u64 > MAX_RELEASE_MANIFEST {
            return Err(wrong(format!("more than {MAX_RELEASE_MANIFEST} bytes")));
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(|e| wrong(shorten(&e.to_string())))?;
        if wire.schema_version != 2 || wire.media_type.as_deref().is_some_and(|kind| kind != media::MANIFEST)
        {
            let found = wire.media_type.as_deref().unwrap_or("none");
            return Err(wrong(format!(
                "its media type is '{}'; expected {}",
                shorten(found),
                media::MANIFEST
            )));
        }
        if wire.config.media_type != media::CONFIG {
            let found = wire.artifact_type.as_deref().unwrap_or(&wire.config.media_type);
            return Err(wrong(format!("it is no snapshot's, but of type '{}'", shorten(found))));
        }
        if wire.layers.len() > MAX_BLOBS + 1 {
            return Err(wrong(format!("{} layers; at most {MAX_BLOBS} are read", wire.layers.len())));
        }
        let mut layers = wire.layers.into_iter();
        let index = layers.next().filter(|index| index.media_type == media::INDEX);
        let index = index.ok_or_else(|| wrong(format!("its first layer is not of type {}", media::INDEX)))?;
        let blobs: Vec<Descriptor> = layers.collect();
        if let Some(other) = blobs.iter().find(|blob| blob.media_type != media::FRAMES) {
            let found = shorten(&other.media_type);
            return Err(wrong(format!("a layer of type '{found}'; expected {}", media::FRAMES)));
        }
        let mut known: BTreeMap<Digest, u64> = BTreeMap::new();
        let mut total = 0_u64;
        for blob in &blobs {
            if known.insert(blob.digest, blob.size).is_some() {
                return Err(wrong(format!("it names blob {} twice", blob.digest)));
            }
            total = total.saturating_add(blob.size);
        }
        if total > MAX_UNPACKED {
            return Err(wrong(format!("its blobs have {total} bytes; at most {MAX_UNPACKED} are read")));
        }
        for (small, most) in [(&wire.config, MAX_RELEASE_MANIFEST), (&index, ReleaseManifest::MAX_INDEX)] {
            if small.size > most {
                return Err(wrong(format!("a blob of {} bytes; at most {most} are read", small.size)));
            }
        }
        Ok(Self { config: wire.config, index, blobs, annotations: wire.annotations })
    }

    /// The largest index that is read, in bytes.
    pub const MAX_INDEX: u64 = 256 << 20;

    /// Bytes of all that it names.
    #[must_use]
    pub fn total(&self) -> u64 {
        let all = [&self.config, &self.index].into_iter().chain(&self.blobs);
        all.map(|blob| blob.size).sum()
    }
}

fn wrong(message: impl Into<String>) -> FormatError {
    FormatError::Release(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ReleaseManifest {
        ReleaseManifest {
            config: Descriptor::of(media::CONFIG, b"{}"),
            index: Descriptor::of(media::INDEX, b"index").titled("index"),
            blobs: vec![Descriptor::of(media::FRAMES, b"frames").titled("a/memory.bin")],
            annotations: Annotations::from([("a".to_owned(), "b".to_owned())]),
        }
    }

    fn refused(edit: impl Fn(&mut serde_json::Value)) -> String {
        let mut value: serde_json::Value = serde_json::from_slice(&sample().to_bytes()).unwrap();
        edit(&mut value);
        ReleaseManifest::parse(value.to_string().as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn round_trips() {
        assert_eq!(ReleaseManifest::parse(&sample().to_bytes()), Ok(sample()));
        assert_eq!(sample().total(), 2 + 5 + 6);
    }

    #[test]
    fn other_artifacts_and_wrong_layers_are_refused() {
        assert!(refused(|v| v["mediaType"] = "x".into()).contains("media type is 'x'"));
        assert!(refused(|v| v["schemaVersion"] = 1.into()).contains("media type"));
        let image = |v: &mut serde_json::Value| {
            v["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
            v["artifactType"] = serde_json::Value::Null;
        };
        assert!(refused(image).contains("no snapshot's"));
        assert!(refused(|v| v["layers"][0]["mediaType"] = "x".into()).contains("first layer"));
        assert!(
            refused(|v| v["layers"][1]["mediaType"] = "x\u{1b}[2J".into()).contains("type 'x\\u{1b}[2J'")
        );
        assert!(refused(|v| v["layers"] = serde_json::json!([])).contains("first layer"));
        assert!(refused(|v| v["layers"][1]["digest"] = "sha512:00".into()).contains("digest"));
        assert!(refused(|v| v["layers"][1]["size"] = (1_u64 << 60).into()).contains("bytes; at most"));
        assert!(refused(|v| v["layers"][0]["size"] = (1_u64 << 40).into()).contains("at most"));
        assert!(refused(|v| v["config"]["size"] = (-1).into()).contains("release"));
        let many = |v: &mut serde_json::Value| {
            let layer = v["layers"][1].clone();
            v["layers"].as_array_mut().unwrap().extend(vec![layer; 10_000]);
        };
        assert!(refused(many).contains("10002 layers"));
        assert!(
            refused(|v| {
                let layer = v["layers"][1].clone();
                v["layers"].as_array_mut().unwrap().push(layer)
            })
            .contains("twice")
        );
    }
}
