//! A chain link: what a child of a snapshot changed.

use crate::digest::sparse::{copy_disk, punch};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::machine::engine::{Access, Engine, Files, Limits};
use crate::machine::fork;
use crate::machine::frozen::{ParentEdge, seal_frozen};
use crate::machine::program::Stream;
use crate::machine::run_dir::Runtime;
use crate::machine::session::{greet, rest, wake, with_console};
use crate::machine::shell::{require_shell, run_command};
use crate::machine::trial::TrialFork;
use crate::store::chain_memory::adopt_assembled;
use crate::store::lock::LockKind;
use crate::store::root::Store;
use crate::store::staged::StagedSnapshot;
use forkd_format::Tag;
use forkd_format::manifest::{MEMORY, ROOTFS};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// More text than this for a link's zero pages does not go into `snapshot.json`: the link is stored flat instead.
const MAX_ZERO_PAGES_TEXT: usize = 512 << 10;

/// What to make a link of.
#[derive(Debug, Clone)]
pub struct DiffOptions {
    /// The parent.
    pub from: Tag,
    pub tag: Tag,
    /// Run in the child, by its shell, before it is frozen.
    pub exec: String,
    /// RFC 3339, UTC.
    pub created_at: String,
}

/// What was made.
#[derive(Debug, Clone, Serialize)]
pub struct DiffReport {
    pub tag: Tag,
    /// Its parent; `None` where it holds all of its memory.
    pub parent: Option<Tag>,
    #[serde(serialize_with = "crate::json::path")]
    pub path: PathBuf,
    /// Pages that differ from the parent's, without those that became zero.
    #[serde(rename = "changed_pages")]
    pub changed: u64,
    /// Pages that became zero.
    #[serde(rename = "zeroed_pages")]
    pub zeroed: u64,
    /// What the command took.
    #[serde(rename = "exec_seconds", serialize_with = "crate::json::seconds")]
    pub ran: Duration,
    #[serde(rename = "seconds", serialize_with = "crate::json::seconds")]
    pub time: Duration,
}

/// Forks a snapshot, runs a command in the child, freezes it, and stores the pages and the disk that it changed. The tag appears
/// once a child of it was awake.
///
/// # Errors
/// As for a bake and a fork; [`crate::error::Kind::General`] where the command fails.
pub fn snapshot_diff(
    store: &Store,
    engine: &dyn Engine,
    runtime: &Runtime,
    options: &DiffOptions,
    env: Env<'_>,
    output: &mut dyn FnMut(Stream, &[u8]) -> Result<()>,
) -> Result<DiffReport> {
    let started = Instant::now();
    store.require_free(&options.tag)?;
    let source = fork::open(store, engine, &options.from, env)?;
    let _lock = store.lock(&options.tag, LockKind::Exclusive, env)?;
    store.require_free(&options.tag)?;
    let staging = store.stage(env)?;
    let staged = StagedSnapshot::create(&staging, "diff", &options.tag)?;
    let dir = staged.dir().to_owned();
    // The child writes to copies of its own: what it has changed is what differs in the end.
    let whole = staging.path().join("whole");
    let files =
        Files { memory: whole.clone(), rootfs: dir.join(ROOTFS), access: Access::Shared, lease: None };
    copy_disk(store.disk(), &source.files.memory, &files.memory)?;
    copy_disk(store.disk(), &source.files.rootfs, &files.rootfs)?;

    let run = runtime.create(engine)?;
    let mut vm = engine.restore(&source.stored, &files, Limits::default(), run.path())?;
    vm.resume(env).map_err(|e| with_console(e, &run))?;
    let mut guest = greet(vm.as_mut(), &run, crate::machine::session::WAKE_LIMIT, env)?;
    let begun = Instant::now();
    wake(&mut guest, &run.id, false)
        .and_then(|_| require_shell(&mut guest))
        .and_then(|()| run_command(&mut guest, "exec", &options.exec, "", output))
        .map_err(|e| with_console(vm.check_alive().err().unwrap_or(e), &run))?;
    let ran = begun.elapsed();
    rest(vm.as_mut(), &run, guest, &dir, env)?;
    drop((vm, run));

    let open = |path: &PathBuf| File::open(path).map_err(Error::io("open", path));
    let memory = dir.join(MEMORY);
    let pages = crate::chain::link::write_link(
        &open(&source.files.memory)?,
        &open(&whole)?,
        &memory,
        store.disk(),
        env,
    )?;
    let text = serde_json::to_string(&pages.zeroed).unwrap_or_default().len();
    let is_link = text <= MAX_ZERO_PAGES_TEXT;
    let file = OpenOptions::new().read(true).write(true).open(&whole).map_err(Error::io("open", &whole))?;
    punch(&file, &whole, &pages.zeroed)?;
    let base = source
        .stored
        .snapshot
        .with("parent_tag", None)
        .with("parent_content_hash", None)
        .with("zero_pages", None);
    let zeroed = pages.zeroed.iter().map(|(_, count)| count).sum();
    let sealed = if is_link {
        let edge = ParentEdge {
            parent: options.from.clone(),
            parent_content_hash: source.stored.digest(MEMORY, &source.stored.dir.join(MEMORY), false)?,
            memory: pages.sha256_full,
            memory_bytes: file.metadata().map_err(Error::io("read", &whole))?.len(),
            zero_pages: pages.zeroed,
        };
        seal_frozen(staged, &base, Some(&edge), &options.created_at, (store.disk(), env))?
    } else {
        store.disk().remove_file(&memory).map_err(Error::io("remove", &memory))?;
        store.disk().rename(&whole, &memory).map_err(Error::io("create", &memory))?;
        seal_frozen(staged, &base, None, &options.created_at, (store.disk(), env))?
    };
    let proven = if is_link { &whole } else { &memory };
    TrialFork::of_staged((engine, runtime), sealed.stored(), proven, env)?.run(&mut |_| Ok(()))?;
    if is_link {
        // Its first fork needs what is here already.
        adopt_assembled(store, &whole, &pages.sha256_full, env)?;
    }
    env.cancel.check()?;
    Ok(DiffReport {
        tag: options.tag.clone(),
        parent: is_link.then(|| options.from.clone()),
        path: sealed.publish()?,
        changed: pages.changed,
        zeroed,
        ran,
        time: started.elapsed(),
    })
}
