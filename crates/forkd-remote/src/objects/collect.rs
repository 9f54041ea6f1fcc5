//! Blobs that no tag reaches any more are deleted, unless somebody may be about to reach them.

use super::entry::{BLOBS, PACKS};
use super::marker::{Marker, Work};
use super::port::{ObjectInfo, Objects};
use super::registry::{all_entries, apply_fresh, read_registry};
use super::repository::{blob_key, manifests};
use forkd_core::{Cancel, Error, Kind, Result};
use forkd_format::Digest;
use forkd_format::release::{MAX_RELEASE_MANIFEST, ReleaseDocument};
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// How the names of kernels end.
const KERNEL: &str = ".vmlinux.zst";

/// What was deleted, or would be.
#[derive(Debug, Clone, Serialize)]
pub struct CollectReport {
    pub hub: String,
    /// Tags that were looked at.
    pub tags: usize,
    /// Blobs that they reach, and packs that the registry names.
    pub kept_blobs: usize,
    /// Those that nothing reaches, and that are old enough.
    pub deleted_blobs: usize,
    pub deleted_bytes: u64,
    /// Those that nothing reaches, and that are too young: somebody may be publishing them.
    pub young_blobs: usize,
    /// Whether nothing was deleted, because it was only asked for.
    pub dry_run: bool,
}

/// How to collect.
#[derive(Debug, Clone, Copy)]
pub struct CollectOptions {
    /// A blob that was written less long ago stays.
    pub grace: Duration,
    pub dry_run: bool,
}

/// Collects a hub.
///
/// # Errors
/// [`Kind::Locked`] where somebody publishes; [`Kind::Integrity`] where a tag's manifest cannot be read: then nothing is deleted.
pub fn collect(
    objects: &Arc<dyn Objects>,
    options: CollectOptions,
    cancel: &Cancel,
) -> Result<CollectReport> {
    let marker = if options.dry_run { None } else { Some(Marker::put(objects, Work::Collect, cancel)?) };
    if let Some(marker) = &marker
        && marker.sees(Work::Publish, cancel)?
    {
        let message = format!("{}: somebody is publishing", objects.name());
        return Err(Error::new(Kind::Locked, message).hint("try again when that has ended"));
    }
    if let Some(marker) = &marker
        && marker.sees(Work::Collect, cancel)?
    {
        let message = format!("{}: somebody else collects", objects.name());
        return Err(Error::new(Kind::Locked, message).hint("try again when that has ended"));
    }
    let (tags, reached) = reach(&**objects, cancel)?;
    let mut blobs = objects.list(BLOBS, cancel)?;
    blobs.extend(objects.list(PACKS, cancel)?);
    // By the store's clock, as the blobs' own times are.
    let now = match &marker {
        Some(marker) => marker.since,
        None => std::time::SystemTime::now(),
    };
    let mut report = CollectReport {
        hub: objects.name(),
        tags,
        kept_blobs: 0,
        deleted_blobs: 0,
        deleted_bytes: 0,
        young_blobs: 0,
        dry_run: options.dry_run,
    };
    let mut doomed: Vec<&ObjectInfo> = Vec::new();
    for blob in &blobs {
        if !is_ours(&blob.key) {
            continue;
        }
        if reached.contains(&blob.key) {
            report.kept_blobs += 1;
        } else if now.duration_since(blob.modified).unwrap_or_default() < options.grace {
            report.young_blobs += 1;
        } else {
            doomed.push(blob);
        }
    }
    // Once more: a publisher of an older forkd, or one that was believed gone, may have put a tag meanwhile.
    if !doomed.is_empty() {
        let (_, again) = reach(&**objects, cancel)?;
        doomed.retain(|blob| !again.contains(&blob.key));
    }
    for blob in doomed {
        cancel.check()?;
        if !options.dry_run {
            objects.delete(&blob.key, cancel)?;
        }
        report.deleted_blobs += 1;
        report.deleted_bytes += blob.size;
    }
    Ok(report)
}

/// Packs and blobs that nothing names, by key.
///
/// # Errors
/// As [`collect`].
pub fn unreferenced(objects: &dyn Objects, cancel: &Cancel) -> Result<Vec<String>> {
    let (_, reached) = reach(objects, cancel)?;
    let mut all = objects.list(BLOBS, cancel)?;
    all.extend(objects.list(PACKS, cancel)?);
    let keys = all.into_iter().map(|object| object.key);
    Ok(keys.filter(|key| is_ours(key) && !reached.contains(key)).collect())
}

/// Whether a key is one that publishers write: of a blob, or of a pack.
fn is_ours(key: &str) -> bool {
    let blob = key.strip_prefix(BLOBS).is_some_and(|hex| hex.parse::<Digest>().is_ok());
    blob || key
        .strip_prefix(PACKS)
        .is_some_and(|name| name.contains(".forkd-snapshot") || name.ends_with(KERNEL))
}

/// The keys of all packs and kernels that the registry names, or will once somebody else's word is in it. Files go by their names, however the
/// way to them is spelt.
fn listed(objects: &dyn Objects, cancel: &Cancel) -> Result<HashSet<String>> {
    let (mut text, written) = read_registry(objects, cancel)?;
    let mut named = text.named_files();
    apply_fresh(&mut text, objects, written, cancel)?;
    named.extend(text.named_files());
    let any_kernel = named.contains(&None);
    let mut keys: HashSet<String> =
        named.into_iter().flatten().map(|name| format!("{PACKS}{name}")).collect();
    if any_kernel {
        let kernels = objects.list(PACKS, cancel)?.into_iter().map(|object| object.key);
        keys.extend(kernels.filter(|key| key.ends_with(KERNEL)));
    }
    Ok(keys)
}

/// How many tags there are, and the keys of all that they and the registry reach. One that cannot be read stops all: what it reaches is not known.
fn reach(objects: &dyn Objects, cancel: &Cancel) -> Result<(usize, HashSet<String>)> {
    let entries = all_entries(objects, cancel)?;
    let mut reached = listed(objects, cancel)?;
    let mut seen = HashSet::new();
    for (package, tag, entry) in &entries {
        if !seen.insert(entry.digest) {
            continue;
        }
        reached.insert(blob_key(&entry.digest));
        let name = format!("{}: '{package}:{tag}'", objects.name());
        let bytes = objects.read(&blob_key(&entry.digest), MAX_RELEASE_MANIFEST, cancel)?;
        let lost = || {
            let message = format!("{name}: its manifest is not there");
            Error::new(Kind::Integrity, message)
                .hint("publish it again, or take the tag away; nothing was deleted")
        };
        let bytes = bytes.ok_or_else(lost)?;
        if let Ok(ReleaseDocument::Variants(variants)) = ReleaseDocument::parse(&bytes) {
            reached.extend(variants.manifests.iter().map(|variant| blob_key(&variant.digest)));
        }
        for manifest in manifests(objects, &bytes, &name, cancel)? {
            reached.extend([&manifest.config, &manifest.index].map(|blob| blob_key(&blob.digest)));
            reached.extend(manifest.blobs.iter().map(|blob| blob_key(&blob.digest)));
        }
    }
    Ok((entries.len(), reached))
}
