//! Records anew which pages a fork needs first.

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::machine::engine::Engine;
use crate::machine::fork::open;
use crate::machine::run_dir::Runtime;
use crate::machine::trial::{Trial, TrialFork};
use crate::store::lock::LockKind;
use crate::store::root::Store;
use crate::store::staged::{RootfsPath, StagedSnapshot};
use forkd_format::{NeededFile, Tag};
use serde::Serialize;
use std::path::PathBuf;

/// What was recorded.
#[derive(Debug, Clone, Serialize)]
pub struct RecordReport {
    pub tag: Tag,
    #[serde(serialize_with = "crate::json::path")]
    pub path: PathBuf,
    /// Pages of memory that were read, of 4 KiB.
    pub memory_pages: u64,
    /// The same of the root disk.
    pub disk_pages: u64,
}

/// Forks a snapshot a few times, notes what the children read until `work` is done in them, and keeps that as the snapshot's working set.
///
/// # Errors
/// As [`crate::machine::fork`]; [`Kind::Incompatible`] where this host cannot show files.
pub fn record(
    store: &Store,
    engine: &dyn Engine,
    runtime: &Runtime,
    tag: &Tag,
    env: Env<'_>,
    work: &mut dyn FnMut(&mut Trial<'_>) -> Result<()>,
) -> Result<RecordReport> {
    let (recorded, runs) = {
        let source = open(store, engine, tag, env)?;
        let (stored, files) = (&source.stored, source.files.clone());
        let fork = TrialFork { engine, runtime, stored, files, env };
        let (_, runs) = fork.record(&fork.recording()?, work)?;
        (source.stored.snapshot.clone(), runs)
    };
    let _lock = store.lock(tag, LockKind::Exclusive, env)?;
    let stored = store.load(tag)?;
    if stored.snapshot != recorded {
        let replaced =
            format!("'{tag}' was replaced while it was recorded; nothing was changed: record it again");
        return Err(Error::new(Kind::General, replaced));
    }
    let staging = store.stage(env)?;
    let staged = StagedSnapshot::create(&staging, "record", tag)?;
    staged.link_bodies(&stored)?;
    let snapshot = stored.snapshot.with_working_set(&runs);
    let sealed = staged.seal(&snapshot, RootfsPath::As(&stored), stored.record.clone())?;
    let pages = |file| runs.iter().filter(|run| run.file == file).map(|run| run.count).sum();
    Ok(RecordReport {
        tag: tag.clone(),
        path: sealed.publish()?,
        memory_pages: pages(NeededFile::Memory),
        disk_pages: pages(NeededFile::Rootfs),
    })
}
