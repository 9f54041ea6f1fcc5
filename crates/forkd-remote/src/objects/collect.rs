//! Blobs that no tag reaches any more are deleted, unless somebody may be about to reach them.

use super::entry::BLOBS;
use super::marker::{Marker, Work};
use super::port::{ObjectInfo, Objects};
use super::repository::{all_entries, blob_key, manifests};
use forkd_core::{Cancel, Error, Kind, Result};
use forkd_format::Digest;
use forkd_format::release::{MAX_RELEASE_MANIFEST, ReleaseDocument};
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// What was deleted, or would be.
#[derive(Debug, Clone, Serialize)]
pub struct CollectReport {
    pub hub: String,
    /// Tags that were looked at.
    pub tags: usize,
    /// Blobs that they reach.
    pub kept_blobs: usize,
    /// Blobs that none reaches, and that are old enough.
    pub deleted_blobs: usize,
    pub deleted_bytes: u64,
    /// Blobs that none reaches, and that are too young: somebody may be publishing them.
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
    let blobs = objects.list(BLOBS, cancel)?;
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
        let Some(digest) = blob.key.strip_prefix(BLOBS).and_then(|hex| hex.parse::<Digest>().ok()) else {
            continue;
        };
        if reached.contains(&digest) {
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
        doomed.retain(|blob| {
            let digest = blob.key.strip_prefix(BLOBS).and_then(|hex| hex.parse::<Digest>().ok());
            digest.is_some_and(|digest| !again.contains(&digest))
        });
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

/// How many tags there are, and all blobs that they reach. One that cannot be read stops all: what it reaches is not known.
fn reach(objects: &dyn Objects, cancel: &Cancel) -> Result<(usize, HashSet<Digest>)> {
    let entries = all_entries(objects, cancel)?;
    let mut reached = HashSet::new();
    for (package, tag, entry) in &entries {
        if !reached.insert(entry.digest) {
            continue;
        }
        let name = format!("{}: '{package}:{tag}'", objects.name());
        let bytes = objects.read(&blob_key(&entry.digest), MAX_RELEASE_MANIFEST, cancel)?;
        let lost = || {
            let message = format!("{name}: its manifest is not there");
            Error::new(Kind::Integrity, message)
                .hint("publish it again, or take the tag away; nothing was deleted")
        };
        let bytes = bytes.ok_or_else(lost)?;
        if let Ok(ReleaseDocument::Variants(variants)) = ReleaseDocument::parse(&bytes) {
            reached.extend(variants.manifests.iter().map(|variant| variant.digest));
        }
        for manifest in manifests(objects, &bytes, &name, cancel)? {
            reached.extend([manifest.config.digest, manifest.index.digest]);
            reached.extend(manifest.blobs.iter().map(|blob| blob.digest));
        }
    }
    Ok((entries.len(), reached))
}
