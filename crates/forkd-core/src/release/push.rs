//! From snapshots of the store to a release in a repository: only blobs that are not there are made and sent, the manifest last.

use crate::cache::folder::Cache;
use crate::env::{Cancel, Env};
use crate::error::{Error, Kind, Result};
use crate::hub::remote::Remote;
use crate::hub::repository::{BlobFile, ManifestName, Repository};
use crate::pipeline::each::for_each_of;
use crate::pipeline::mutex::lock;
use crate::release::build::{BuiltRelease, ReleaseBuilder};
use crate::release::link_note::LinkNote;
use crate::release::open::document;
use crate::release::options::ReleaseOptions;
use crate::release::told::engine_of;
use crate::release::variants::with_variant;
use crate::store::lock::LockKind;
use crate::store::root::Store;
use crate::store::workdir::WorkDir;
use forkd_format::release::{Annotations, Descriptor, FileBlob, ReleaseConfig, ReleaseManifest, media};
use forkd_format::{Digest, Snapshot, Tag};
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What was published.
#[derive(Debug, Clone, Serialize)]
pub struct ReleaseReport {
    /// The head of the chain.
    pub tag: Tag,
    /// Where it went.
    pub repository: String,
    /// Its tag there.
    pub name: String,
    /// SHA-256 of the release's manifest.
    pub digest: Digest,
    /// Bytes of all that the release names.
    #[serde(rename = "size_bytes")]
    pub size: u64,
    /// Of these, what was sent now.
    #[serde(rename = "sent_bytes")]
    pub sent: u64,
    /// The size of what is in it, in bytes.
    #[serde(rename = "unpacked_bytes")]
    pub unpacked_size: u64,
    /// Snapshots of the chain.
    pub links: usize,
    #[serde(rename = "pack_seconds", serialize_with = "crate::json::seconds")]
    pub pack_time: Duration,
    #[serde(rename = "upload_seconds", serialize_with = "crate::json::seconds")]
    pub upload_time: Duration,
}

/// Where a release goes, and how.
#[derive(Clone, Copy)]
pub struct ReleaseTarget<'a> {
    pub repository: &'a dyn Repository,
    /// Reads what is in it.
    pub remote: &'a dyn Remote,
    /// The tag there.
    pub name: &'a str,
    /// Uploads at a time.
    pub connections: usize,
}

impl std::fmt::Debug for ReleaseTarget<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.repository.name(), self.name)
    }
}

impl ReleaseTarget<'_> {
    /// The engine that a release is for which is there already.
    fn engine_of(&self, manifest: &ReleaseManifest, cancel: &Cancel) -> Result<String> {
        let location = self.repository.blob_location(&manifest.config.digest)?;
        let bytes = document(self.remote, &manifest.config, &location, cancel)?;
        let told = ReleaseConfig::snapshot(&bytes).map_err(Error::malformed(location.to_string()))?;
        Ok(engine_of(&Snapshot::new(told)))
    }
}

/// Publishes a snapshot and its ancestors. What a run that was cut off had made is gone on with, and what it had sent is there.
///
/// # Errors
/// As [`crate::pack()`], and those of the repository.
pub fn push_release(
    store: &Store,
    cache: Option<&Cache>,
    options: &ReleaseOptions,
    target: ReleaseTarget<'_>,
    env: Env<'_>,
) -> Result<ReleaseReport> {
    let begun = Instant::now();
    let mut tags: Vec<Tag> = Vec::new();
    for tag in options.bases.iter().chain([&options.tag]) {
        tags.extend(store.chain(tag)?.into_iter().map(|link| link.tag));
    }
    let _locks = store.lock_all(&tags, LockKind::Shared, env)?;
    let work = store.upload(&options.tag, env)?;
    let there: Mutex<HashSet<Digest>> = Mutex::default();
    let has = |blob: &FileBlob, places: &[String]| {
        let (media_type, annotations) = (media::FRAMES.to_owned(), Annotations::new());
        let found = Descriptor { media_type, digest: blob.digest, size: blob.len, annotations };
        let is_there = target.repository.has_blob(&found, env.cancel)?
            || places.iter().try_fold(false, |taken, place| {
                Ok::<bool, Error>(taken || target.repository.mount_blob(&found, place, env.cancel)?)
            })?;
        if is_there {
            lock(&there).insert(blob.digest);
        }
        Ok(is_there)
    };
    let builder = ReleaseBuilder { store, cache, work: &work, has: &has, level: options.level, env };
    let built = builder.build(options)?;
    let tag = ManifestName::Tag(target.name.to_owned());
    if !options.replace && !options.variant {
        refuse_replacing(&built, &tag, target, env)?;
    }
    let pack_time = begun.elapsed();
    let begun = Instant::now();
    let there = there.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let sent = send(&built, &there, &work, target, env)?;
    if options.variant {
        let (repository, digest) = (target.repository, built.id.id().digest());
        repository.put_manifest(&ManifestName::Digest(digest), &built.bytes, env.cancel)?;
        let engine_of = |manifest: &ReleaseManifest| target.engine_of(manifest, env.cancel);
        let variant = (built.bytes.as_slice(), built.engine.as_str());
        let variants = with_variant(repository, target.name, variant, &engine_of, env.cancel)?;
        repository.put_manifest(&tag, &variants, env.cancel)?;
    } else {
        target.repository.put_manifest(&tag, &built.bytes, env.cancel)?;
    }
    work.remove()?;
    let place = target.repository.name();
    for (key, cache) in built.keys.iter().zip(std::iter::repeat(cache)) {
        let Some(cache) = cache else { break };
        if let Some(mut note) = LinkNote::load(cache, key).filter(|note| note.places.first() != Some(&place))
        {
            note.add_place(&place);
            note.save(cache, key, env)?;
        }
    }
    Ok(ReleaseReport {
        tag: options.tag.clone(),
        repository: target.repository.name(),
        name: target.name.to_owned(),
        digest: built.id.id().digest(),
        size: built.manifest.total(),
        sent,
        unpacked_size: built.unpacked_size,
        links: built.links,
        pack_time,
        upload_time: begun.elapsed(),
    })
}

/// Refuses to move a tag that is there.
fn refuse_replacing(
    built: &BuiltRelease,
    tag: &ManifestName,
    target: ReleaseTarget<'_>,
    env: Env<'_>,
) -> Result<()> {
    let there = match target.repository.manifest(tag, env.cancel) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        there => Digest::of(&there?),
    };
    if there == built.id.id().digest() {
        return Ok(());
    }
    let message = format!("{}:{tag} is published already, with other bytes", target.repository.name());
    Err(Error::new(Kind::General, message)
        .hint("publish under another version, or add --replace: who pinned the old bytes keeps them"))
}

/// Sends the blobs that are not there; gives their bytes.
fn send(
    built: &BuiltRelease,
    there: &HashSet<Digest>,
    work: &WorkDir,
    target: ReleaseTarget<'_>,
    env: Env<'_>,
) -> Result<u64> {
    for (blob, bytes) in [(&built.manifest.config, &built.config), (&built.manifest.index, &built.index)] {
        let (path, file) = work.file(&blob.digest.to_string())?;
        let disk = work.store().disk();
        disk.set_len(&file, &path, 0).map_err(Error::io("write", &path))?;
        disk.write_at(&file, &path, bytes, 0).map_err(Error::io("write", &path))?;
    }
    let all = built.manifest.blobs.iter().chain([&built.manifest.config, &built.manifest.index]);
    let left: Vec<&Descriptor> = all.filter(|blob| !there.contains(&blob.digest)).collect();
    env.progress.start("pushing", Some(left.iter().map(|blob| blob.size).sum()));
    let sent = for_each_of(&left, target.connections, |blob| {
        env.cancel.check()?;
        if target.repository.has_blob(blob, env.cancel)? {
            env.progress.advance(blob.size);
            return Ok(0);
        }
        let path = work.path().join(blob.digest.to_string());
        target.repository.put_blob(BlobFile { blob, path: &path }, env.progress, env.cancel)?;
        Ok(blob.size)
    });
    env.progress.finish();
    Ok(sent?.iter().sum())
}
