//! From a booted machine to a snapshot in the store.

use crate::digest::sparse::{copy_disk, punch_zero_pages};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::machine::engine::{Accel, Access, Engine, Files, Machine};
use crate::machine::frozen::seal_frozen;
use crate::machine::guest::Guest;
use crate::machine::program::{Stream, Streams};
use crate::machine::run_dir::Runtime;
use crate::machine::session::{explain, greet, rest};
use crate::machine::shell::{require_shell, run_command, shell};
use crate::machine::trial::{Trial, TrialFork};
use crate::store::lock::LockKind;
use crate::store::root::Store;
use crate::store::staged::StagedSnapshot;
use forkd_agent::message::Exec;
use forkd_format::manifest::{MEMORY, ROOTFS};
use forkd_format::{Snapshot, Tag};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What to bake.
#[derive(Debug, Clone)]
pub struct BakeOptions {
    pub tag: Tag,
    pub machine: Machine,
    /// The root disk: an ext4 image, which is copied.
    pub rootfs: PathBuf,
    /// How long the guest may take to boot, and how long until it is ready.
    pub boot_wait: Duration,
    /// Who runs the commands in the guest: a name or number; empty for the image's user.
    pub user: String,
    /// Run in the guest, by its shell, once it has booted.
    pub warm: Option<String>,
    /// Run again and again until it succeeds.
    pub ready: Option<String>,
    /// Where the root disk came from: fields for `snapshot.json`.
    pub origin: Map<String, Value>,
    /// RFC 3339, UTC.
    pub created_at: String,
}

/// What was baked.
#[derive(Debug, Clone, Serialize)]
pub struct BakeReport {
    pub tag: Tag,
    #[serde(serialize_with = "crate::json::path")]
    pub path: PathBuf,
    /// What ran the guest's processor.
    pub accel: Accel,
    /// From the start of the machine until the agent answered.
    #[serde(rename = "boot_seconds", serialize_with = "crate::json::seconds")]
    pub boot: Duration,
    /// What the warm and ready commands took.
    #[serde(rename = "warm_seconds", serialize_with = "crate::json::seconds")]
    pub warm: Duration,
    /// From the start of the trial fork until it was awake.
    #[serde(rename = "trial_seconds", serialize_with = "crate::json::seconds")]
    pub trial: Duration,
    /// Pages that trial forks read until they had passed its first test; 0 where that could not be recorded.
    pub working_set_pages: u64,
}

/// Boots, warms, freezes and seals a machine, and forks it; once `trial` has succeeded in the child the tag appears. Where its reads are
/// recorded `trial` is done again in further children ([`Trial::is_rehearsal`]).
///
/// # Errors
/// [`Kind::General`] where the tag is taken, or the guest does not do what it should; what the engine and the disk say.
pub fn bake(
    store: &Store,
    engine: &dyn Engine,
    runtime: &Runtime,
    options: &BakeOptions,
    env: Env<'_>,
    output: &mut dyn FnMut(Stream, &[u8]) -> Result<()>,
    trial: &mut dyn FnMut(&mut Trial<'_>) -> Result<()>,
) -> Result<BakeReport> {
    let tag = &options.tag;
    let _lock = store.lock(tag, LockKind::Exclusive, env)?;
    store.require_free(tag)?;
    let mut fields = engine.describe(&options.machine)?;
    fields.extend(options.origin.clone());
    let staging = store.stage(env)?;
    let staged = StagedSnapshot::create(&staging, "bake", tag)?;
    let dir = staged.dir().to_owned();
    let files =
        Files { memory: dir.join(MEMORY), rootfs: dir.join(ROOTFS), access: Access::Shared, lease: None };
    copy_disk(store.disk(), &options.rootfs, &files.rootfs)?;
    // The guest touches all of its memory as it boots; that there is no room is better known now than in the middle.
    let memory = store.disk().create(&files.memory, 0o644).map_err(Error::io("create", &files.memory))?;
    forkd_sys::allocate(&memory, options.machine.memory)
        .map_err(Error::io("make room for", &files.memory))?;
    drop(memory);

    let run = runtime.create(engine)?;
    let begun = Instant::now();
    let mut vm = engine.boot(&options.machine, &files, run.path(), env)?;
    let mut guest = greet(vm.as_mut(), &run, options.boot_wait, env)?;
    let boot = begun.elapsed();
    let warmed = crate::machine::session::seed(&mut guest, false)
        .and_then(|_| warm(&mut guest, options, env, output))
        .map_err(|e| explain(e, vm.as_mut(), &run))?;
    rest(vm.as_mut(), &run, guest, &dir, env)?;
    drop((vm, run));

    punch_zero_pages(&files.memory)?;
    let (snapshot, created_at) = (Snapshot::new(fields), &options.created_at);
    let sealed = seal_frozen(staged, &snapshot, None, created_at, (store.disk(), env))?;
    let fork = TrialFork::of_staged((engine, runtime), sealed.stored(), &files.memory, env)?;
    let (time, working_set) = match fork.recording() {
        // Without a recording the snapshot is as good, and is read as a whole.
        Err(error) if error.kind() == Kind::Incompatible => (fork.run(trial)?, Vec::new()),
        recording => fork.record(&recording?, trial)?,
    };
    env.cancel.check()?;
    let accel = options.machine.accel;
    let pages = working_set.iter().map(|run| run.count).sum();
    let sealed = sealed.with_working_set(&working_set)?;
    let path = sealed.publish()?;
    let (trial, tag) = (time, tag.clone());
    Ok(BakeReport { tag, path, accel, boot, warm: warmed, trial, working_set_pages: pages })
}

fn warm(
    guest: &mut Guest,
    options: &BakeOptions,
    env: Env<'_>,
    output: &mut dyn FnMut(Stream, &[u8]) -> Result<()>,
) -> Result<Duration> {
    let begun = Instant::now();
    if options.warm.is_some() || options.ready.is_some() {
        require_shell(guest)?;
    }
    if let Some(command) = &options.warm {
        run_command(guest, "warm", command, &options.user, output)?;
    }
    if let Some(command) = &options.ready {
        let begun = Instant::now();
        loop {
            env.cancel.check()?;
            let mut said = Vec::new();
            let mut keep = |_, bytes: &[u8]| {
                said.extend_from_slice(&bytes[..bytes.len().min(1 << 10)]);
                Ok(())
            };
            let left = options.boot_wait.saturating_sub(begun.elapsed());
            let exec =
                Exec { limit_ms: left.as_millis() as u64 + 1, user: options.user.clone(), ..shell(command) };
            let exit = guest.exec(&exec, &mut Streams { input: None, output: &mut keep, controls: None })?;
            if exit.code == 0 {
                break;
            }
            if begun.elapsed() >= options.boot_wait {
                let said = String::from_utf8_lossy(&said);
                let said = said.trim().lines().last().unwrap_or("nothing").to_owned();
                let message = format!(
                    "the guest is not ready after {} s: {command} ended with exit code {} and said: {said}",
                    options.boot_wait.as_secs(),
                    exit.code
                );
                return Err(Error::new(Kind::General, message));
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }
    Ok(begun.elapsed())
}
