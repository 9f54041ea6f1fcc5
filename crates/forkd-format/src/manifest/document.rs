//! What a manifest says, whatever its version.

use super::base::Base;
use super::link::{FileEntry, IndexEntry, Link, RootfsSidecar};
use crate::tag::Tag;

/// What a pack says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// 1 (one base), 2 (a chain) or 3 (either, in frames with an index).
    pub version: u32,
    /// What the last link is called, and where the pack unpacks to unless told otherwise.
    pub tag: Tag,
    /// What it is, in its publisher's words; shown to people, read by no rule.
    pub description: Option<String>,
    /// The container image that the rootfs was made from, for audit.
    pub base_image: Option<String>,
    /// When it was packed: RFC 3339, UTC. Not checked.
    pub created_at: Option<String>,
    /// The version of forkd that packed.
    pub forkd_version: Option<String>,
    /// The links, root first. Version 1 has one.
    pub links: Vec<Link>,
    /// A root disk beside the pack (version 1 only).
    pub rootfs: Option<RootfsSidecar>,
    /// The index (version 3 only, where it must be).
    pub index: Option<IndexEntry>,
    /// Files that frames refer to and that are not in the pack (version 3 only).
    pub bases: Vec<Base>,
}

impl Manifest {
    /// The files of all links, in the order in which they are numbered.
    pub fn files(&self) -> impl Iterator<Item = (&Link, &FileEntry)> {
        self.links.iter().flat_map(|link| link.files.iter().map(move |file| (link, file)))
    }

    /// The link that the pack is named after.
    #[must_use]
    pub fn head(&self) -> &Link {
        &self.links[self.links.len() - 1]
    }

    /// Bytes that the pack unpacks to.
    #[must_use]
    pub fn unpacked_size(&self) -> u64 {
        let inside: u64 = self.files().map(|(_, file)| file.size).sum();
        inside + self.rootfs.as_ref().map_or(0, |rootfs| rootfs.size)
    }

    /// The most bytes that the tar stream of its files may have: each with a header, an extended header before it, and padding.
    #[must_use]
    pub fn most_streamed(&self) -> u64 {
        const PER_FILE: u64 = 4 * 512;
        self.files().fold(0, |sum: u64, (_, file)| sum.saturating_add(file.size).saturating_add(PER_FILE))
    }

    /// The name of a file's tar entry.
    #[must_use]
    pub fn entry_name(&self, link: &Link, file: &FileEntry) -> String {
        if self.version == 1 { file.path.clone() } else { format!("{}/{}", link.tag, file.path) }
    }
}
