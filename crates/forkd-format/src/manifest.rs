//! `manifest.toml`, versions 1 and 2 (`docs/format/pack.md`) and 3 (`docs/format/pack-v3.md`).

use crate::v3::{MAX_BASES, TreeHash};
use crate::{Digest, FormatError, Snapshot, Tag};
use serde::{Deserialize, Deserializer, Serialize};

/// The name of the manifest inside a pack; always the first entry.
pub const MANIFEST: &str = "manifest.toml";
/// Guest state file.
pub const SNAPSHOT_JSON: &str = "snapshot.json";
/// Device state file.
pub const VMSTATE: &str = "vmstate";
/// Root disk file.
pub const ROOTFS: &str = "rootfs.ext4";
/// Guest memory file.
pub const MEMORY: &str = "memory.bin";
/// The files of one link in the order in which a pack holds them; only the root disk may be absent.
pub const FILE_ORDER: [&str; 4] = [SNAPSHOT_JSON, VMSTATE, ROOTFS, MEMORY];

/// The largest manifest that is read, in bytes.
pub const MAX_MANIFEST: u64 = 1 << 20;
/// The longest chain that is read, in links.
pub const MAX_CHAIN: usize = 256;
/// The most that a pack may declare to unpack to, in bytes.
pub const MAX_UNPACKED: u64 = 256 << 30;
/// The longest name of a base, in bytes.
const MAX_LABEL: usize = 128;

/// One file of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// One of [`FILE_ORDER`].
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the whole file.
    pub sha256: Digest,
    /// What its frames make (version 3 only, where every file has one). There it is what is checked when the file is unpacked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<TreeHash>,
}

/// One snapshot of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its tag.
    pub tag: Tag,
    /// The tag of the link before it; none for the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_tag: Option<Tag>,
    /// SHA-256 of the parent's `memory.bin`; none for the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_content_hash: Option<Digest>,
    /// Its files.
    pub files: Vec<FileEntry>,
}

impl Link {
    /// The entry of one file.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&FileEntry> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The digest of the memory image, which names the link to its children. Every parsed link has one.
    #[must_use]
    pub fn memory(&self) -> Option<Digest> {
        self.file(MEMORY).map(|file| file.sha256)
    }
}

/// A root disk that lies beside the pack, as 0.5.3 hosts write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootfsSidecar {
    /// Where the packing host had the image. Never used as a path.
    pub target_path: String,
    /// SHA-256 of the uncompressed image.
    pub sha256: Digest,
    /// Size of the uncompressed image, in bytes.
    pub size: u64,
}

impl RootfsSidecar {
    /// The file beside the pack that holds the image.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}.rootfs.zst", &self.sha256.to_string()[..16])
    }
}

/// Where a pack's index ends, and what it is (version 3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// Its size in bytes, padding not counted.
    pub size: u64,
    /// SHA-256 of it.
    pub sha256: Digest,
}

/// What a base file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseKind {
    /// A file of a snapshot.
    Snapshot,
    /// The uncompressed kernel of a guest.
    Kernel,
}

/// A file that is not in the pack and that its frames refer to (version 3). What it is called proves nothing: it is known by its
/// size and by either of its digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// What it is.
    pub kind: BaseKind,
    /// The snapshot's tag, or the kernel's release; for people.
    #[serde(deserialize_with = "label")]
    pub name: String,
    /// Its name in the snapshot, or `vmlinux`; for people.
    #[serde(deserialize_with = "label")]
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of the whole file.
    pub sha256: Digest,
    /// What its frames make.
    pub root: TreeHash,
    /// Pages of it that frames copy.
    pub copied_pages: u64,
    /// Pages of it that frames are compressed with.
    pub similar_pages: u64,
}

impl Base {
    /// Whether no frame refers to it: then it need not be there.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.copied_pages == 0 && self.similar_pages == 0
    }

    /// The file beside the pack that holds a kernel, compressed with zstd.
    #[must_use]
    pub fn file_name(&self) -> String {
        kernel_file_name(&self.sha256)
    }
}

/// What stands in messages as it is: one line, and short.
fn label<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() > MAX_LABEL || text.contains(char::is_control) {
        let message = format!("a base's name or path: expected at most {MAX_LABEL} bytes on one line");
        return Err(serde::de::Error::custom(message));
    }
    Ok(text)
}

/// The file beside a pack that holds the kernel with this SHA-256, compressed with zstd.
#[must_use]
pub fn kernel_file_name(sha256: &Digest) -> String {
    format!("{}.vmlinux.zst", &sha256.to_string()[..16])
}

/// What a pack says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// 1 (one base), 2 (a chain) or 3 (either, in frames with an index).
    pub version: u32,
    /// The tag of the head.
    pub tag: Tag,
    /// For people.
    pub description: Option<String>,
    /// The container image that the rootfs was made from, for audit.
    pub base_image: Option<String>,
    /// RFC 3339, UTC.
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

/// The keys as they stand in the file, in their order.
#[derive(Serialize, Deserialize)]
struct Wire {
    forkd_pack_version: u32,
    tag: Tag,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base_image: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forkd_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent_tag: Option<Tag>,
    #[serde(default)]
    files: Vec<FileEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chain: Vec<Link>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rootfs: Option<RootfsSidecar>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<IndexEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bases: Vec<Base>,
}

#[derive(Deserialize)]
struct VersionOnly {
    forkd_pack_version: i64,
}

impl Manifest {
    /// Parses a manifest and checks every rule that it can be held to by itself.
    ///
    /// # Errors
    /// [`FormatError::Manifest`], [`FormatError::Tag`] or [`FormatError::Digest`].
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(wrong(format!("{} bytes; at most {MAX_MANIFEST} are read", bytes.len())));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("not UTF-8"))?;
        let VersionOnly { forkd_pack_version } = toml::from_str(text).map_err(toml_error)?;
        if !matches!(forkd_pack_version, 1..=3) {
            return Err(wrong(format!(
                "forkd_pack_version is {forkd_pack_version}; this forkd reads 1 to 3 (a newer forkd may read it)"
            )));
        }
        let wire: Wire = toml::from_str(text).map_err(toml_error)?;
        let manifest = Self::from_wire(wire)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn from_wire(wire: Wire) -> Result<Self, FormatError> {
        let links = if wire.forkd_pack_version == 1 {
            if !wire.chain.is_empty() || wire.parent_tag.is_some() {
                return Err(wrong("version 1 holds one base: 'chain' and 'parent_tag' belong to version 2"));
            }
            vec![Link {
                tag: wire.tag.clone(),
                parent_tag: None,
                parent_content_hash: None,
                files: wire.files,
            }]
        } else {
            if !wire.files.is_empty() || wire.rootfs.is_some() {
                return Err(wrong(
                    "versions 2 and 3 list their files under 'chain': expected files = [] and no [rootfs]",
                ));
            }
            if wire.chain.last().is_none_or(|head| head.tag != wire.tag || head.parent_tag != wire.parent_tag)
            {
                return Err(wrong(format!("the last link of the chain is not the head '{}'", wire.tag)));
            }
            wire.chain
        };
        Ok(Self {
            version: wire.forkd_pack_version,
            tag: wire.tag,
            description: wire.description,
            base_image: wire.base_image,
            created_at: wire.created_at,
            forkd_version: wire.forkd_version,
            links,
            rootfs: wire.rootfs,
            index: wire.index,
            bases: wire.bases,
        })
    }

    fn check(&self) -> Result<(), FormatError> {
        if self.links.len() > MAX_CHAIN {
            return Err(wrong(format!("{} chain links; at most {MAX_CHAIN} are read", self.links.len())));
        }
        let mut total = self.rootfs.as_ref().map_or(0, |rootfs| rootfs.size);
        let mut seen = std::collections::BTreeSet::new();
        let mut parent: Option<&Link> = None;
        for link in &self.links {
            if !seen.insert(link.tag.as_str().to_ascii_lowercase()) {
                return Err(wrong(format!("two links have the tag '{}' (or differ only in case)", link.tag)));
            }
            check_files(link)?;
            check_edge(link, parent)?;
            total = link.files.iter().fold(total, |sum, file| sum.saturating_add(file.size));
            parent = Some(link);
        }
        if let (Some(_), Some(link)) = (&self.rootfs, self.links.first())
            && link.file(ROOTFS).is_some()
        {
            return Err(wrong("both a [rootfs] beside the pack and a rootfs.ext4 inside it"));
        }
        self.check_version_3()?;
        if total > MAX_UNPACKED {
            return Err(wrong(format!("declares {total} bytes; at most {MAX_UNPACKED} are unpacked")));
        }
        Ok(())
    }

    fn check_version_3(&self) -> Result<(), FormatError> {
        let three = self.version == 3;
        if self.index.is_some() != three || (!three && !self.bases.is_empty()) {
            return Err(wrong("[index] and [[bases]] belong to version 3, which must have an [index]"));
        }
        if self.bases.len() > MAX_BASES {
            return Err(wrong(format!("{} base files; at most {MAX_BASES} are read", self.bases.len())));
        }
        if self.bases.iter().any(|base| base.size > MAX_UNPACKED) {
            return Err(wrong(format!("a base file of more than {MAX_UNPACKED} bytes")));
        }
        match self.files().find(|(_, file)| file.root.is_some() != three) {
            Some((link, file)) => Err(wrong(format!(
                "'{}': {}: 'root' belongs to version 3, and all of that",
                link.tag, file.path
            ))),
            None => Ok(()),
        }
    }

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

    /// The name of a file's tar entry.
    #[must_use]
    pub fn entry_name(&self, link: &Link, file: &FileEntry) -> String {
        if self.version == 1 { file.path.clone() } else { format!("{}/{}", link.tag, file.path) }
    }

    /// The manifest's bytes. Its length depends on no digest, so that room can be kept for it before any is known.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let one = self.version == 1;
        let wire = Wire {
            forkd_pack_version: self.version,
            tag: self.tag.clone(),
            description: self.description.clone(),
            base_image: self.base_image.clone(),
            created_at: self.created_at.clone(),
            forkd_version: self.forkd_version.clone(),
            parent_tag: self.head().parent_tag.clone(),
            files: if one { self.head().files.clone() } else { Vec::new() },
            chain: if one { Vec::new() } else { self.links.clone() },
            rootfs: self.rootfs.clone(),
            index: self.index.clone(),
            bases: self.bases.clone(),
        };
        // Strings, integers and tables of them always have a TOML form.
        toml::to_string(&wire).unwrap_or_default().into_bytes()
    }
}

fn check_files(link: &Link) -> Result<(), FormatError> {
    let tag = &link.tag;
    let mut seen = std::collections::BTreeSet::new();
    for file in &link.files {
        let path = crate::error::shorten(&file.path);
        if !FILE_ORDER.contains(&file.path.as_str()) {
            return Err(wrong(format!(
                "'{tag}' declares '{path}'; expected one of {}",
                FILE_ORDER.join(", ")
            )));
        }
        if !seen.insert(file.path.as_str()) {
            return Err(wrong(format!("'{tag}' declares '{path}' twice")));
        }
        if file.path == SNAPSHOT_JSON && file.size > Snapshot::MAX_LEN {
            return Err(wrong(format!("'{tag}' has a snapshot.json of {} bytes", file.size)));
        }
    }
    match FILE_ORDER.iter().find(|name| **name != ROOTFS && !seen.contains(**name)) {
        Some(missing) => Err(wrong(format!("'{tag}' declares no {missing}"))),
        None => Ok(()),
    }
}

fn check_edge(link: &Link, parent: Option<&Link>) -> Result<(), FormatError> {
    let tag = &link.tag;
    let Some(parent) = parent else {
        return match (&link.parent_tag, &link.parent_content_hash) {
            (None, None) => Ok(()),
            _ => Err(wrong(format!("the root link '{tag}' names a parent"))),
        };
    };
    if link.parent_tag.as_ref() != Some(&parent.tag) {
        let found = link.parent_tag.as_ref().map_or("none", Tag::as_str);
        return Err(wrong(format!("link '{tag}' follows '{}' but names the parent {found}", parent.tag)));
    }
    if link.parent_content_hash.is_none() || link.parent_content_hash != parent.memory() {
        return Err(wrong(format!(
            "link '{tag}': parent_content_hash is not the digest of '{}'",
            parent.tag
        )));
    }
    Ok(())
}

fn wrong(message: impl Into<String>) -> FormatError {
    FormatError::Manifest(message.into())
}

#[allow(clippy::needless_pass_by_value, reason = "used as a map_err argument")]
fn toml_error(error: toml::de::Error) -> FormatError {
    wrong(error.message().chars().take(200).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, seed: &str) -> FileEntry {
        let sha256 = Digest::of(format!("{path}{seed}").as_bytes());
        FileEntry { path: path.into(), size: 10, sha256, root: None }
    }

    fn chain(depth: usize) -> Manifest {
        let mut links: Vec<Link> = Vec::new();
        for i in 0..depth {
            links.push(Link {
                tag: format!("t{i}").parse().unwrap(),
                parent_tag: links.last().map(|l| l.tag.clone()),
                parent_content_hash: links.last().and_then(Link::memory),
                files: [SNAPSHOT_JSON, VMSTATE, MEMORY].iter().map(|p| entry(p, &i.to_string())).collect(),
            });
        }
        Manifest {
            version: if depth == 1 { 1 } else { 2 },
            tag: links[depth - 1].tag.clone(),
            description: Some("a \"quoted\"\nthing".into()),
            base_image: None,
            created_at: Some("2026-01-02T03:04:05Z".into()),
            forkd_version: Some("0.6.0".into()),
            links,
            rootfs: None,
            index: None,
            bases: Vec::new(),
        }
    }

    fn refused(edit: impl Fn(&mut Manifest)) -> String {
        let mut manifest = chain(3);
        edit(&mut manifest);
        Manifest::parse(&manifest.to_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn round_trips() {
        for depth in 1..=16 {
            let manifest = chain(depth);
            assert_eq!(Manifest::parse(&manifest.to_bytes()).unwrap(), manifest);
        }
    }

    #[test]
    fn writes_the_layout_that_existing_hosts_read() {
        let text = String::from_utf8(chain(2).to_bytes()).unwrap();
        assert!(text.starts_with("forkd_pack_version = 2\ntag = \"t1\"\n"), "{text}");
        assert!(text.contains("\nparent_tag = \"t0\"\nfiles = []\n\n[[chain]]\ntag = \"t0\"\n"), "{text}");
        let text = String::from_utf8(chain(1).to_bytes()).unwrap();
        assert!(text.contains("\n\n[[files]]\npath = \"snapshot.json\"\nsize = 10\nsha256 = \""), "{text}");
        assert!(!text.contains("chain") && !text.contains("parent"), "{text}");
    }

    #[test]
    fn broken_edges_are_refused() {
        assert!(
            refused(|m| m.links[1].parent_tag = Some("t2".parse().unwrap())).contains("names the parent")
        );
        assert!(
            refused(|m| m.links[2].parent_content_hash = Some(Digest::of(b"x"))).contains("not the digest")
        );
        assert!(refused(|m| m.links[2].parent_content_hash = None).contains("not the digest"));
        assert!(refused(|m| m.links[0].parent_tag = Some("t2".parse().unwrap())).contains("root link"));
        assert!(refused(|m| m.tag = "t1".parse().unwrap()).contains("not the head"));
        assert!(refused(|m| m.links[1] = m.links[0].clone()).contains("two links"));
        assert!(refused(|m| m.links[1].tag = "T0".parse().unwrap()).contains("two links"));
    }

    #[test]
    fn unsafe_and_unknown_names_are_refused() {
        assert!(refused(|m| m.links[0].files[0].path = "../x".into()).contains("declares '../x'"));
        assert!(
            refused(|m| m.links[0].files[0].path = "Memory.bin".into()).contains("declares 'Memory.bin'")
        );
        assert!(refused(|m| m.links[0].files[0] = m.links[0].files[1].clone()).contains("twice"));
        assert!(refused(|m| drop(m.links[0].files.pop())).contains("declares no memory.bin"));
    }

    #[test]
    fn sizes_and_versions_are_bounded() {
        assert!(refused(|m| m.links[0].files[2].size = 4 << 40).contains("declares"));
        assert!(refused(|m| m.links[0].files[0].size = 2 << 20).contains("snapshot.json of"));
        let text = String::from_utf8(chain(1).to_bytes()).unwrap();
        for version in ["0", "4", "99", "-1"] {
            let other = text.replace("forkd_pack_version = 1", &format!("forkd_pack_version = {version}"));
            assert!(Manifest::parse(other.as_bytes()).unwrap_err().to_string().contains("reads 1 to 3"));
        }
        let huge = text.replace("size = 10", "size = 9223372036854775808");
        assert!(Manifest::parse(huge.as_bytes()).is_err());
        assert!(Manifest::parse(text.replace("tag = \"t0\"", "tag = \"../x\"").as_bytes()).is_err());
        assert!(Manifest::parse(&vec![b'#'; MAX_MANIFEST as usize + 1]).is_err());
    }
}
