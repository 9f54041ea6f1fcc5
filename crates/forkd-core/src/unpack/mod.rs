//! From a pack to snapshots in the store.

pub(crate) mod files;
pub(crate) mod job;
pub(crate) mod paged;
pub(crate) mod plan;

use crate::env::Env;
use crate::error::Result;
use crate::pack::computed_id::ComputedId;
use crate::pack::pack_file::open_pack;
use crate::pack::sidecar::open_sidecar;
use crate::pack::stream::read::PackStream;
use crate::store::lock::LockKind;
use crate::store::record::Provenance;
use crate::store::root::Store;
use crate::unpack::files::{StagedPack, publish};
use crate::unpack::job::{PackOrigin, UnpackJob};
use crate::unpack::plan::{UnpackOptions, UnpackPlan, UnpackReport, local_tags};
use std::io::Read;
use std::path::Path;

/// Unpacks a file.
///
/// # Errors
/// [`crate::Kind::NotFound`], [`crate::Kind::Integrity`], [`crate::Kind::General`] for a tag that is taken, and what the disk says.
pub fn unpack_file(
    store: &Store,
    file: &Path,
    options: &UnpackOptions,
    env: Env<'_>,
) -> Result<UnpackReport> {
    let name = file.display().to_string();
    let input = open_pack(file)?;
    let stream = PackStream::open(input, &name, env)?;
    if stream.manifest().format().is_paged() {
        return paged::unpack_file(store, file, stream, options, env);
    }
    let mut sidecar = |name: &str| open_sidecar(file, name);
    let provenance = Provenance { name: name.clone(), head: None, id: None };
    let origin = PackOrigin { provenance, sidecar: &mut sidecar, trust_manifest: false };
    env.progress.start("unpacking", Some(stream.manifest().unpacked_size()));
    let report = unpack((store, options, env), stream, origin, true, |_| Ok(None));
    env.progress.finish();
    report
}

/// Unpacks a stream whose manifest was read. `check` is given the input after its last byte, before anything is published; it may
/// tell what names the pack.
pub(crate) fn unpack<R: Read>(
    (store, options, env): (&Store, &UnpackOptions, Env<'_>),
    stream: PackStream<R>,
    mut origin: PackOrigin<'_>,
    count_content: bool,
    check: impl FnOnce(R) -> Result<Option<ComputedId>>,
) -> Result<UnpackReport> {
    let manifest = stream.manifest().clone();
    let tags = local_tags(store, &manifest, options)?;
    let _locks = store.lock_all(&tags, LockKind::Exclusive, env)?;
    let plan = UnpackPlan::new(store, &manifest, &tags, options)?;
    let report = plan.report(store, &manifest);
    if plan.changes_nothing() && origin.trust_manifest {
        return Ok(report);
    }
    let work = store.stage(env)?;
    let job = UnpackJob { store, manifest: &manifest, plan: &plan, options, count_content, env };
    let staged = StagedPack::new(job, &work)?;
    origin.provenance.id = check(stream.receive(&staged, env)?)?.map(ComputedId::id);
    if plan.changes_nothing() {
        return Ok(report);
    }
    if let Some(rootfs) = &manifest.rootfs {
        staged.take_sidecar(rootfs, (origin.sidecar)(&rootfs.file_name())?)?;
    }
    publish(staged, &origin.provenance, || Ok(()))?;
    Ok(report)
}
