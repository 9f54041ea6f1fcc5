//! From one repository to another: only blobs that are not there move, and every digest stays as it is.

use crate::env::{Env, Progress, Silent};
use crate::error::{Error, Kind, Result};
use crate::hub::remote::Remote;
use crate::hub::repository::{BlobFile, ManifestName, Repository, check_manifest};
use crate::pack::stream::zstd_frames::read_error;
use crate::pipeline::each::for_each_of;
use forkd_format::release::{Descriptor, ReleaseDocument, ReleaseManifest};
use forkd_format::{Digest, Hasher};
use serde::Serialize;
use std::io::{Read, Write};
use std::path::Path;

/// What was mirrored of one tag.
#[derive(Debug, Clone, Serialize)]
pub struct MirrorReport {
    /// The repository that it went to.
    pub repository: String,
    pub tag: String,
    /// SHA-256 of its manifest, there as here.
    pub digest: Digest,
    /// Bytes that moved.
    #[serde(rename = "moved_bytes")]
    pub moved: u64,
    /// Bytes that were there.
    #[serde(rename = "there_bytes")]
    pub there: u64,
}

/// One side of a mirror, where the other is written to.
#[derive(Clone, Copy)]
pub struct MirrorSides<'a> {
    pub from: &'a dyn Repository,
    /// Reads what is in `from`.
    pub remote: &'a dyn Remote,
    pub to: &'a dyn Repository,
    /// For blobs on their way.
    pub temp: &'a Path,
    /// Blobs at a time.
    pub connections: usize,
}

impl std::fmt::Debug for MirrorSides<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.from.name(), self.to.name())
    }
}

/// Mirrors one tag. What an earlier run had moved is there.
///
/// # Errors
/// Those of both repositories; [`Kind::Integrity`] where a blob is not what its digest says.
pub fn mirror(sides: MirrorSides<'_>, tag: &str, env: Env<'_>) -> Result<MirrorReport> {
    let MirrorSides { from, to, connections, .. } = sides;
    let name = ManifestName::Tag(tag.to_owned());
    let bytes = from.manifest(&name, env.cancel)?;
    let digest = Digest::of(&bytes);
    check_manifest(&bytes, &name, &from.name())?;
    let malformed = || Error::malformed(format!("{}:{tag}", from.name()));
    let manifests: Vec<(Option<Digest>, Vec<u8>)> =
        match ReleaseDocument::parse(&bytes).map_err(malformed())? {
            ReleaseDocument::Release(_) => vec![(None, bytes.clone())],
            ReleaseDocument::Variants(variants) => {
                let read = |variant: &Descriptor| {
                    let name = ManifestName::Digest(variant.digest);
                    let bytes = from.manifest(&name, env.cancel)?;
                    check_manifest(&bytes, &name, &from.name())?;
                    Ok((Some(variant.digest), bytes))
                };
                variants.manifests.iter().map(read).collect::<Result<_>>()?
            }
        };
    let (mut moved, mut total) = (0, 0);
    for (own_name, bytes) in &manifests {
        let manifest = ReleaseManifest::parse(bytes).map_err(malformed())?;
        total += manifest.total();
        moved += sides.blobs(&manifest, tag, connections, env)?;
        if let Some(digest) = own_name {
            to.put_manifest(&ManifestName::Digest(*digest), bytes, env.cancel)?;
        }
    }
    to.put_manifest(&name, &bytes, env.cancel)?;
    Ok(MirrorReport { repository: to.name(), tag: tag.to_owned(), digest, moved, there: total - moved })
}

impl MirrorSides<'_> {
    /// Moves the blobs that are not there; gives their bytes.
    fn blobs(&self, manifest: &ReleaseManifest, tag: &str, connections: usize, env: Env<'_>) -> Result<u64> {
        let all: Vec<&Descriptor> =
            manifest.blobs.iter().chain([&manifest.config, &manifest.index]).collect();
        env.progress.start(&format!("mirroring {tag}"), Some(manifest.total()));
        let moved = for_each_of(&all, connections, |blob| {
            env.cancel.check()?;
            let (from, to) = (self.from.name(), self.to);
            let moved = !to.has_blob(blob, env.cancel)? && !to.mount_blob(blob, &from, env.cancel)?;
            if moved {
                self.carry(blob, env)?;
            }
            env.progress.advance(blob.size);
            Ok(if moved { blob.size } else { 0 })
        });
        env.progress.finish();
        Ok(moved?.iter().sum())
    }

    /// Fetches a blob, checks it, and sends it on.
    fn carry(&self, blob: &Descriptor, env: Env<'_>) -> Result<()> {
        let location = self.from.blob_location(&blob.digest)?;
        let made = tempfile::Builder::new().prefix("forkd-mirror-").tempfile_in(self.temp);
        let mut file = made.map_err(Error::io("create a file in", self.temp))?;
        let mut body = self.remote.get(&location, env.cancel)?.body.take(blob.size + 1);
        let (mut hasher, mut buffer, mut len) = (Hasher::default(), vec![0; 256 << 10], 0);
        loop {
            let read = body.read(&mut buffer).map_err(|e| read_error(&location.to_string(), e))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            len += read as u64;
            file.write_all(&buffer[..read]).map_err(Error::io("write", file.path()))?;
        }
        let found = hasher.finish();
        if (len, found) != (blob.size, blob.digest) {
            let message = format!(
                "{location}: {len} bytes with sha256 {found}; the manifest says {} with {}",
                blob.size, blob.digest
            );
            return Err(Error::new(Kind::Integrity, message));
        }
        let quiet: &dyn Progress = &Silent;
        self.to.put_blob(BlobFile { blob, path: file.path() }, quiet, env.cancel)
    }
}
