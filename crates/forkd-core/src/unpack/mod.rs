//! From a pack to snapshots in the store.

pub(crate) mod files;
pub(crate) mod origin;
pub(crate) mod paged;
pub(crate) mod plan;

use crate::env::Env;
use crate::error::Result;
use crate::pack::pack_file::open_pack;
use crate::pack::sidecar::open_beside;
use crate::pack::stream::read::Incoming;
use crate::store::lock::LockKind;
use crate::store::record::Source;
use crate::store::root::Store;
use crate::unpack::files::Unpacking;
use crate::unpack::origin::Origin;
use crate::unpack::plan::{UnpackOptions, UnpackReport, local_tags, plan, report};
use forkd_format::Digest;
use std::io::Read;
use std::path::Path;

/// Unpacks a file.
///
/// # Errors
/// [`Kind::NotFound`], [`Kind::Integrity`], [`Kind::General`] for a tag that is taken, and what the disk says.
pub fn unpack_file(
    store: &Store,
    file: &Path,
    options: &UnpackOptions,
    env: Env<'_>,
) -> Result<UnpackReport> {
    let name = file.display().to_string();
    let input = open_pack(file)?;
    let incoming = Incoming::open(input, &name, env)?;
    if incoming.manifest().version == 3 {
        return paged::unpack_file(store, file, incoming, options, env);
    }
    let mut sidecar = |name: &str| open_beside(file, name);
    let source = Source { name: name.clone(), head: None, sha256: None };
    let mut origin = Origin { source, sidecar: &mut sidecar, trust_manifest: false, count_content: true };
    env.progress.start("unpacking", Some(incoming.manifest().unpacked_size()));
    let report = unpack(store, incoming, options, &mut origin, |_| Ok(None), env);
    env.progress.finish();
    report
}

/// Unpacks a stream whose manifest was read. `check` is given the input after its last byte, before anything is published; it may
/// tell the digest of the pack.
pub(crate) fn unpack<R: Read>(
    store: &Store,
    incoming: Incoming<R>,
    options: &UnpackOptions,
    origin: &mut Origin<'_>,
    check: impl FnOnce(R) -> Result<Option<Digest>>,
    env: Env<'_>,
) -> Result<UnpackReport> {
    let manifest = incoming.manifest().clone();
    let tags = local_tags(&manifest, options.tag.as_ref())?;
    let _locks = store.lock_all(&tags, LockKind::Exclusive, env)?;
    let outcomes = plan(store, &manifest, &tags, options)?;
    let report = report(store, &manifest, &tags, &outcomes);
    if report.nothing_new() && origin.trust_manifest {
        return Ok(report);
    }
    let staging = store.stage(env)?;
    let unpacking = Unpacking::new(store, &manifest, staging.path(), &outcomes, origin, options, env)?;
    let digest = check(incoming.receive(&unpacking, env)?)?;
    origin.source.sha256 = origin.source.sha256.or(digest);
    if report.nothing_new() {
        return Ok(report);
    }
    if let Some(rootfs) = &manifest.rootfs {
        unpacking.take_sidecar(rootfs, (origin.sidecar)(&rootfs.file_name())?, env)?;
    }
    crate::unpack::files::publish(store, &unpacking, &tags, origin, || Ok(()), env)?;
    Ok(report)
}
