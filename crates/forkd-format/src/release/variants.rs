//! Variants of one release: the same snapshot for other engines and processors, under one tag (an OCI image index, image-spec 1.1).

use super::descriptor::Descriptor;
use super::manifest::{MAX_RELEASE_MANIFEST, ReleaseManifest, media};
use crate::error::{FormatError, shorten};
use serde::{Deserialize, Serialize};

/// What a tag stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReleaseDocument {
    Release(ReleaseManifest),
    Variants(ReleaseVariants),
}

/// The manifests of all variants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseVariants {
    /// Each with its [`ReleaseVariants::ENGINE`].
    pub manifests: Vec<Descriptor>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    schema_version: u32,
    media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    media_type: Option<String>,
}

impl ReleaseDocument {
    /// Reads what a tag stands for.
    ///
    /// # Errors
    /// [`FormatError::Release`] where it is neither a release nor variants of one.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() as u64 > MAX_RELEASE_MANIFEST {
            return Err(wrong(format!("more than {MAX_RELEASE_MANIFEST} bytes")));
        }
        let kind: Kind = serde_json::from_slice(bytes).map_err(|e| wrong(shorten(&e.to_string())))?;
        if kind.media_type.as_deref() != Some(media::IMAGE_INDEX) {
            return ReleaseManifest::parse(bytes).map(Self::Release);
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(|e| wrong(shorten(&e.to_string())))?;
        if wire.artifact_type.as_deref() != Some(media::SNAPSHOT) {
            return Err(wrong("it is no snapshot's, but an index of something else"));
        }
        if wire.manifests.is_empty() || wire.manifests.len() > ReleaseVariants::MAX {
            let count = wire.manifests.len();
            return Err(wrong(format!("{count} variants; expected 1 to {}", ReleaseVariants::MAX)));
        }
        let is_manifest =
            |found: &Descriptor| found.media_type == media::MANIFEST && found.size <= MAX_RELEASE_MANIFEST;
        if !wire.manifests.iter().all(is_manifest) {
            return Err(wrong("a variant that is no manifest"));
        }
        Ok(Self::Variants(ReleaseVariants { manifests: wire.manifests }))
    }
}

impl ReleaseVariants {
    /// Variants that are read.
    pub const MAX: usize = 32;
    /// The annotation that says which engine and processor a variant is for.
    pub const ENGINE: &str = "dev.forkd.engine";

    /// As it is uploaded.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let wire = Wire {
            schema_version: 2,
            media_type: media::IMAGE_INDEX.to_owned(),
            artifact_type: Some(media::SNAPSHOT.to_owned()),
            manifests: self.manifests.clone(),
        };
        // Maps of strings and numbers: nothing in it can fail to be written.
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// Adds a variant, in the place of another one for the same engine and processor.
    pub fn set(&mut self, manifest: &[u8], engine: &str) {
        let mut added = Descriptor::of(media::MANIFEST, manifest);
        added.annotations.insert(Self::ENGINE.to_owned(), engine.to_owned());
        self.manifests
            .retain(|other| other.annotations.get(Self::ENGINE).is_none_or(|known| known != engine));
        self.manifests.push(added);
        // The same variants make the same bytes, in whatever order they came.
        self.manifests.sort_by(|one, other| one.annotations.cmp(&other.annotations));
    }
}

fn wrong(message: impl Into<String>) -> FormatError {
    FormatError::Release(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_take_each_others_place() {
        let mut variants = ReleaseVariants::default();
        variants.set(b"one", "qemu-tcg x");
        variants.set(b"two", "qemu-kvm x");
        variants.set(b"three", "qemu-tcg x");
        assert_eq!(variants.manifests.len(), 2);
        assert_eq!(variants.manifests[0].annotations[ReleaseVariants::ENGINE], "qemu-kvm x");
        let bytes = variants.to_bytes();
        assert_eq!(ReleaseDocument::parse(&bytes), Ok(ReleaseDocument::Variants(variants)));
    }

    #[test]
    fn other_indexes_are_refused() {
        let refused = |text: &str| ReleaseDocument::parse(text.as_bytes()).unwrap_err().to_string();
        let index = media::IMAGE_INDEX;
        assert!(
            refused(&format!(r#"{{"schemaVersion":2,"mediaType":"{index}","manifests":[]}}"#))
                .contains("no snapshot's")
        );
        let ours = media::SNAPSHOT;
        let none =
            format!(r#"{{"schemaVersion":2,"mediaType":"{index}","artifactType":"{ours}","manifests":[]}}"#);
        assert!(refused(&none).contains("0 variants"));
        let digest = crate::Digest::of(b"");
        let many =
            vec![format!(r#"{{"mediaType":"{}","digest":"sha256:{digest}","size":1}}"#, media::MANIFEST); 40]
                .join(",");
        assert!(refused(&none.replace("[]", &format!("[{many}]"))).contains("40 variants"));
        let nested = format!(r#"{{"mediaType":"{index}","digest":"sha256:{digest}","size":1}}"#);
        assert!(refused(&none.replace("[]", &format!("[{nested}]"))).contains("no manifest"));
        assert!(refused("7").contains("release"));
    }
}
