//! The rules that a manifest can be held to by itself (`docs/format/pack.md`).

use super::document::Manifest;
use super::link::{FILE_ORDER, Link, MAX_CHAIN, MAX_UNPACKED, ROOTFS, SNAPSHOT_JSON};
use crate::error::{FormatError, shorten};
use crate::paged::MAX_BASES;
use crate::snapshot::Snapshot;
use crate::tag::Tag;

impl Manifest {
    /// Holds it to every rule that it can be held to by itself.
    pub(crate) fn check(&self) -> Result<(), FormatError> {
        check(self)
    }
}

/// Checks every rule that a manifest can be held to by itself.
pub(super) fn check(manifest: &Manifest) -> Result<(), FormatError> {
    if manifest.links.len() > MAX_CHAIN {
        return Err(wrong(format!("{} chain links; at most {MAX_CHAIN} are read", manifest.links.len())));
    }
    let mut total = manifest.rootfs.as_ref().map_or(0, |rootfs| rootfs.size);
    let mut seen = std::collections::BTreeSet::new();
    let mut parent: Option<&Link> = None;
    for link in &manifest.links {
        if !seen.insert(link.tag.as_str().to_ascii_lowercase()) {
            return Err(wrong(format!("two links have the tag '{}' (or differ only in case)", link.tag)));
        }
        check_files(link)?;
        check_edge(link, parent)?;
        total = link.files.iter().fold(total, |sum, file| sum.saturating_add(file.size));
        parent = Some(link);
    }
    if let (Some(_), Some(link)) = (&manifest.rootfs, manifest.links.first())
        && link.file(ROOTFS).is_some()
    {
        return Err(wrong("both a [rootfs] beside the pack and a rootfs.ext4 inside it"));
    }
    check_version_3(manifest)?;
    if total > MAX_UNPACKED {
        return Err(wrong(format!("declares {total} bytes; at most {MAX_UNPACKED} are unpacked")));
    }
    Ok(())
}

fn check_version_3(manifest: &Manifest) -> Result<(), FormatError> {
    let three = manifest.version == 3;
    if manifest.index.is_some() != three || (!three && !manifest.bases.is_empty()) {
        return Err(wrong("[index] and [[bases]] belong to version 3, which must have an [index]"));
    }
    if manifest.bases.len() > MAX_BASES {
        return Err(wrong(format!("{} base files; at most {MAX_BASES} are read", manifest.bases.len())));
    }
    if manifest.bases.iter().any(|base| base.size > MAX_UNPACKED) {
        return Err(wrong(format!("a base file of more than {MAX_UNPACKED} bytes")));
    }
    match manifest.files().find(|(_, file)| file.root.is_some() != three) {
        Some((link, file)) => {
            Err(wrong(format!("'{}': {}: 'root' belongs to version 3, and all of that", link.tag, file.path)))
        }
        None => Ok(()),
    }
}

fn check_files(link: &Link) -> Result<(), FormatError> {
    let tag = &link.tag;
    let mut seen = std::collections::BTreeSet::new();
    for file in &link.files {
        let path = shorten(&file.path);
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

pub(super) fn wrong(message: impl Into<String>) -> FormatError {
    FormatError::Manifest(message.into())
}
