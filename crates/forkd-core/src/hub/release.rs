//! What is published under a name.

use forkd_format::PackId;
use forkd_format::manifest::Base;
use std::path::Path;

/// One version of a package.
#[derive(Debug, Clone)]
pub struct Release<'a> {
    /// `owner/name`.
    pub package: String,
    /// Its name in the package; `latest` alone is allowed.
    pub version: String,
    /// Whether it becomes the package's `latest` too.
    pub latest: bool,
    /// For people.
    pub description: Option<String>,
    /// Guest memory in MiB, for people.
    pub memory_mib: Option<u64>,
    /// The container image behind the root disk, for people.
    pub base_image: Option<String>,
    /// Its packs; one of them is a stream pack, which every host reads.
    pub packs: Vec<ReleasePack<'a>>,
}

/// A pack of a release.
#[derive(Debug, Clone)]
pub struct ReleasePack<'a> {
    pub file: &'a Path,
    /// Its name on the hub, relative to the registry.
    pub file_name: String,
    /// What names it.
    pub id: PackId,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes before the first frame of a paged pack.
    pub header_bytes: Option<u64>,
    /// Files that it refers to and does not hold.
    pub bases: Vec<Base>,
}
