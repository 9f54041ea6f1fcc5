//! The configuration of a release: the snapshot and its ancestors, and which files of the index are theirs.

use super::manifest::MAX_RELEASE_MANIFEST;
use crate::digest::Digest;
use crate::error::{FormatError, shorten};
use crate::manifest::{Base, FileEntry, IndexEntry, Link, Manifest};
use crate::paged::FileRoot;
use crate::tag::Tag;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

const VERSION: u32 = 1;

/// What a release holds, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseConfig {
    /// The same as a paged pack's; its bases are the files that are in the release only for others to refer to.
    pub manifest: Manifest,
    /// The files of each link, by their numbers in the index.
    pub links: Vec<LinkFiles>,
    /// And those of the manifest's bases.
    pub bases: Vec<usize>,
    /// Working sets of snapshots that are no links: bases' own.
    pub sets: Vec<usize>,
    /// Of the last link's description what tells where it runs: `engine` and the like.
    pub told: Map<String, Value>,
}

/// The files of one link, by their numbers in the index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkFiles {
    /// In the manifest's order.
    pub files: Vec<usize>,
    /// Its working set.
    pub set: Option<usize>,
}

/// A file that is in a release only for others to refer to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseBase {
    #[serde(flatten)]
    base: Base,
    file: usize,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    forkd_release_version: u32,
    tag: Tag,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base_image: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forkd_version: Option<String>,
    links: Vec<WireLink>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bases: Vec<ReleaseBase>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sets: Vec<usize>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    snapshot: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct WireLink {
    tag: Tag,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent_tag: Option<Tag>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent_content_hash: Option<Digest>,
    files: Vec<WireFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    working_set: Option<usize>,
}

#[derive(Serialize, Deserialize)]
struct WireFile {
    path: String,
    size: u64,
    sha256: Digest,
    root: FileRoot,
    file: usize,
}

impl ReleaseConfig {
    /// As it is uploaded.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let manifest = &self.manifest;
        let link = |(link, files): (&Link, &LinkFiles)| WireLink {
            tag: link.tag.clone(),
            parent_tag: link.parent_tag.clone(),
            parent_content_hash: link.parent_content_hash,
            files: link
                .files
                .iter()
                .zip(&files.files)
                .map(|(file, number)| WireFile {
                    path: file.path.clone(),
                    size: file.size,
                    sha256: file.sha256,
                    root: file.root.unwrap_or_else(|| FileRoot::from_bytes([0; 32])),
                    file: *number,
                })
                .collect(),
            working_set: files.set,
        };
        let bases = manifest.bases.iter().zip(&self.bases);
        let wire = Wire {
            forkd_release_version: VERSION,
            tag: manifest.tag.clone(),
            description: manifest.description.clone(),
            base_image: manifest.base_image.clone(),
            created_at: manifest.created_at.clone(),
            forkd_version: manifest.forkd_version.clone(),
            links: manifest.links.iter().zip(&self.links).map(link).collect(),
            bases: bases.map(|(base, file)| ReleaseBase { base: base.clone(), file: *file }).collect(),
            sets: self.sets.clone(),
            snapshot: self.told.clone(),
        };
        // Maps of strings and numbers: nothing in it can fail to be written.
        serde_json::to_vec_pretty(&wire).unwrap_or_default()
    }

    /// Reads a configuration. `index` is what the release's manifest says of its index.
    ///
    /// # Errors
    /// [`FormatError::Release`] and [`FormatError::Manifest`] where it breaks a rule of `docs/format/release.md`.
    pub fn parse(bytes: &[u8], index: &IndexEntry) -> Result<Self, FormatError> {
        let wrong = |why: String| FormatError::Release(format!("the configuration: {why}"));
        if bytes.len() as u64 > MAX_RELEASE_MANIFEST {
            return Err(wrong(format!("more than {MAX_RELEASE_MANIFEST} bytes")));
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(|e| wrong(shorten(&e.to_string())))?;
        if wire.forkd_release_version != VERSION {
            return Err(wrong(format!(
                "it is of version {}; this forkd reads {VERSION} (a newer forkd may read it)",
                wire.forkd_release_version
            )));
        }
        let (mut links, mut link_files) = (Vec::new(), Vec::new());
        for link in wire.links {
            link_files.push(LinkFiles {
                files: link.files.iter().map(|file| file.file).collect(),
                set: link.working_set,
            });
            let file = |file: WireFile| FileEntry {
                path: file.path,
                size: file.size,
                sha256: file.sha256,
                root: Some(file.root),
            };
            links.push(Link {
                tag: link.tag,
                parent_tag: link.parent_tag,
                parent_content_hash: link.parent_content_hash,
                files: link.files.into_iter().map(file).collect(),
            });
        }
        let (base_files, bases) = wire.bases.into_iter().map(|base| (base.file, base.base)).unzip();
        let manifest = Manifest {
            version: 3,
            tag: wire.tag,
            description: wire.description,
            base_image: wire.base_image,
            created_at: wire.created_at,
            forkd_version: wire.forkd_version,
            links,
            rootfs: None,
            index: Some(index.clone()),
            bases,
        };
        manifest.check()?;
        let config =
            Self { manifest, links: link_files, bases: base_files, sets: wire.sets, told: wire.snapshot };
        let mut all = config.files();
        all.sort_unstable();
        match all.iter().enumerate().find(|(at, file)| at != *file) {
            Some((at, _)) => Err(wrong(format!("file {at} of the index is named never or twice"))),
            None => Ok(config),
        }
    }

    /// What a configuration says of its snapshot, and nothing else of it.
    ///
    /// # Errors
    /// [`FormatError::Release`] where it is none.
    pub fn snapshot(bytes: &[u8]) -> Result<Map<String, Value>, FormatError> {
        #[derive(Deserialize)]
        struct Told {
            #[serde(default)]
            snapshot: Map<String, Value>,
        }
        let told: Result<Told, _> = serde_json::from_slice(bytes);
        told.map(|told| told.snapshot)
            .map_err(|e| FormatError::Release(format!("the configuration: {}", shorten(&e.to_string()))))
    }

    /// The numbers of all files that it names.
    #[must_use]
    pub fn files(&self) -> Vec<usize> {
        let links = self.links.iter().flat_map(|link| link.files.iter().chain(&link.set));
        links.chain(&self.bases).chain(&self.sets).copied().collect()
    }
}
