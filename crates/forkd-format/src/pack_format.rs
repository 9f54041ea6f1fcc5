//! The formats of packs, and what names a pack of each.

use crate::digest::Digest;
use crate::manifest::Manifest;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The format of a pack: `manifest_version` of its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub enum PackFormat {
    /// Version 1: one snapshot in one stream (`docs/format/pack.md`).
    Single,
    /// Version 2: a chain in one stream (`docs/format/pack.md`).
    Chain,
    /// Version 3: frames with an index, each of which can be fetched alone (`docs/format/pack-v3.md`).
    Paged,
}

impl PackFormat {
    /// The version that manifests, registries and command lines write.
    #[must_use]
    pub fn version(self) -> u32 {
        match self {
            Self::Single => 1,
            Self::Chain => 2,
            Self::Paged => 3,
        }
    }

    /// Whether it is made of frames that can be fetched alone.
    #[must_use]
    pub fn is_paged(self) -> bool {
        self == Self::Paged
    }
}

impl From<PackFormat> for u32 {
    fn from(format: PackFormat) -> Self {
        format.version()
    }
}

impl TryFrom<u32> for PackFormat {
    type Error = String;

    fn try_from(version: u32) -> Result<Self, String> {
        match version {
            1 => Ok(Self::Single),
            2 => Ok(Self::Chain),
            3 => Ok(Self::Paged),
            other => Err(format!("pack format {other}; expected 1, 2 or 3")),
        }
    }
}

impl fmt::Display for PackFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.version())
    }
}

impl Manifest {
    /// The format of the pack that it describes.
    #[must_use]
    pub fn format(&self) -> PackFormat {
        // Parsing refuses all others.
        PackFormat::try_from(self.version).unwrap_or(PackFormat::Single)
    }
}

/// What names a pack. The two kinds of digest are never compared with each other: a stream pack is all of its bytes, a paged one is
/// named by its manifest, which names its index, which names every frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PackId {
    /// SHA-256 of the whole file of a stream pack (versions 1 and 2).
    #[serde(rename = "sha256")]
    File(Digest),
    /// SHA-256 of `manifest.toml` of a paged pack (version 3).
    #[serde(rename = "manifest_sha256")]
    Manifest(Digest),
    /// SHA-256 of the manifest of a release (`docs/format/release.md`).
    #[serde(rename = "release_sha256")]
    Release(Digest),
}

impl PackId {
    /// The digest alone, for people and for names of files.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match self {
            Self::File(digest) | Self::Manifest(digest) | Self::Release(digest) => *digest,
        }
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(digest) => write!(f, "sha256 {digest}"),
            Self::Manifest(digest) => write!(f, "manifest sha256 {digest}"),
            Self::Release(digest) => write!(f, "sha256:{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_digest_of_two_things_names_two_packs() {
        let digest = Digest::of(b"x");
        assert_ne!(PackId::File(digest), PackId::Manifest(digest));
        let text = serde_json::to_string(&PackId::Manifest(digest)).unwrap();
        assert_eq!(text, format!("{{\"manifest_sha256\":\"{digest}\"}}"));
    }

    #[test]
    fn formats_are_written_as_their_versions() {
        for format in [PackFormat::Single, PackFormat::Chain, PackFormat::Paged] {
            assert_eq!(PackFormat::try_from(format.version()), Ok(format));
            assert_eq!(serde_json::to_string(&format).unwrap(), format.to_string());
        }
        assert!(PackFormat::try_from(0).is_err() && PackFormat::try_from(4).is_err());
    }
}
