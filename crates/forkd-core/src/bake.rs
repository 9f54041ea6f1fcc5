//! From a booted machine to a snapshot in the store.

use crate::engine::{Engine, Files, Limits, Machine, Vm};
use crate::fork::{self, wake};
use crate::guest::{Guest, Output, Streams};
use crate::runtime::{RunDir, Runtime};
use crate::store::{HashedFile, LockKind, Record, Stored, complete, write_sealed};
use crate::{Env, Error, Kind, Result, Store};
use forkd_agent::message::Exec;
use forkd_format::manifest::{MEMORY, ROOTFS, SNAPSHOT_JSON, VMSTATE};
use forkd_format::{Digest, PAGE_SIZE, PIECE_SIZE, Snapshot, Tag};
use forkd_sys::Disk;
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the guest may take to come to rest.
const REST_LIMIT: Duration = Duration::from_secs(120);

/// What to bake.
#[derive(Debug, Clone)]
pub struct BakeOptions {
    /// The snapshot.
    pub tag: Tag,
    /// The machine.
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
#[derive(Debug, Clone)]
pub struct BakeReport {
    /// The snapshot's folder.
    pub path: PathBuf,
    /// From the start of the machine until the agent answered.
    pub boot: Duration,
    /// What the warm and ready commands took.
    pub warm: Duration,
    /// From the start of the trial fork until it was awake.
    pub trial: Duration,
}

/// Boots, warms, freezes and seals a machine, and forks it once; once `trial` has succeeded in that child the tag appears.
///
/// # Errors
/// [`Kind::General`] where the tag is taken, or the guest does not do what it should; what the engine and the disk say.
pub fn bake(
    store: &Store,
    engine: &dyn Engine,
    runtime: &Runtime,
    options: &BakeOptions,
    env: Env<'_>,
    output: &mut dyn FnMut(Output, &[u8]) -> Result<()>,
    trial: &mut dyn FnMut(&mut Guest) -> Result<()>,
) -> Result<BakeReport> {
    let tag = &options.tag;
    let _lock = store.lock(tag, LockKind::Exclusive, env)?;
    let target = free_target(store, tag)?;
    let mut fields = engine.describe(&options.machine)?;
    fields.extend(options.origin.clone());
    let staging = store.stage(env)?;
    let dir = staging.dir("bake")?;
    let files = Files { memory: dir.join(MEMORY), rootfs: dir.join(ROOTFS), shared: true };
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
    let warmed = fork::seed(&mut guest, false)
        .and_then(|_| warm(&mut guest, options, env, output))
        .map_err(|e| explain(e, vm.as_mut(), &run))?;
    rest(vm.as_mut(), &run, guest, &dir, env)?;
    drop((vm, run));

    punch_zero_pages(&files.memory)?;
    let sealed = seal(store, &dir, &target, &Snapshot::new(fields), None, &options.created_at, env)?;
    let trial = prove(engine, runtime, &sealed, &files.memory, env, trial)?;
    env.cancel.check()?;
    store.publish(&dir, tag)?;
    Ok(BakeReport { path: target, boot, warm: warmed, trial })
}

/// Where a tag that must be free will be.
pub(crate) fn free_target(store: &Store, tag: &Tag) -> Result<PathBuf> {
    let target = store.dir(tag);
    if store.contains(tag) {
        let message = format!("'{tag}' is already at {}; `forkd rmi {tag}` first", target.display());
        return Err(Error::new(Kind::General, message));
    }
    Ok(target)
}

/// Waits until the guest's agent answers.
///
/// # Errors
/// With the end of the machine's console.
pub fn greet(vm: &mut dyn Vm, run: &RunDir, limit: Duration, env: Env<'_>) -> Result<Guest> {
    let begun = Instant::now();
    let error = loop {
        let left = limit.saturating_sub(begun.elapsed());
        if left.is_zero() {
            let message = format!("the guest does not answer after {} s", limit.as_secs());
            break Error::new(Kind::General, message);
        }
        if let Err(error) = env.cancel.check().and_then(|()| vm.check_alive()) {
            break error;
        }
        let Ok(stream) = crate::engine::connect(run.path(), 0) else {
            std::thread::sleep(Duration::from_millis(3).min(left));
            continue;
        };
        // A machine that stops closes its sockets, or leaves them open and says nothing.
        match Guest::greet(stream, left.min(Duration::from_secs(1)), env.cancel) {
            Ok(Some(guest)) => return Ok(guest),
            Ok(None) => {}
            Err(error) => {
                let why = ended(vm).err();
                break if error.kind() == Kind::Interrupted { error } else { why.unwrap_or(error) };
            }
        }
    };
    Err(with_console(error, run))
}

/// Fails where a machine has ended. One that is just ending closes its sockets first, so it is given a moment.
fn ended(vm: &mut dyn Vm) -> Result<()> {
    (0..10).try_for_each(|_| {
        std::thread::sleep(Duration::from_millis(20));
        vm.check_alive()
    })
}

/// A guest that fails may have failed because its machine did.
pub(crate) fn explain(error: Error, vm: &mut dyn Vm, run: &RunDir) -> Error {
    if error.kind() == Kind::Interrupted {
        return error;
    }
    with_console(ended(vm).err().unwrap_or(error), run)
}

pub(crate) fn with_console(error: Error, run: &RunDir) -> Error {
    if error.kind() == Kind::Interrupted {
        return error;
    }
    let console = crate::engine::console(run.path()).unwrap_or_else(|| "nothing".into());
    Error::new(error.kind(), format!("{error}; its console ends with:\n  {console}"))
}

/// Fails where the guest cannot run commands of the user's.
pub(crate) fn require_shell(guest: &mut Guest) -> Result<()> {
    let mut ignore = |_, _: &[u8]| Ok(());
    let exec = Exec { user: "root".into(), cwd: "/".into(), ..shell(":") };
    match guest.exec(&exec, &mut Streams { input: None, output: &mut ignore, controls: None })?.code {
        0 => Ok(()),
        _ => Err(Error::new(
            Kind::Usage,
            "the guest has no shell (/bin/sh) that runs, so it can be given no commands: bake it without any, or from an image \
             that has one",
        )),
    }
}

fn shell(command: &str) -> Exec {
    let argv = ["/bin/sh", "-c", command].map(str::to_owned).to_vec();
    Exec { argv, ..Exec::default() }
}

/// Runs a command of the user's in the guest, by its shell; it must succeed.
pub(crate) fn run_command(
    guest: &mut Guest,
    what: &str,
    command: &str,
    user: &str,
    output: &mut dyn FnMut(Output, &[u8]) -> Result<()>,
) -> Result<()> {
    run(guest, what, command, &Exec { user: user.to_owned(), ..shell(command) }, output)
}

/// The same as root, in the root folder, whatever the image says.
pub(crate) fn run_as_root(
    guest: &mut Guest,
    what: &str,
    command: &str,
    env: &[String],
    output: &mut dyn FnMut(Output, &[u8]) -> Result<()>,
) -> Result<()> {
    let exec = Exec { user: "root".into(), cwd: "/".into(), env: env.to_vec(), ..shell(command) };
    run(guest, what, command, &exec, output)
}

fn run(
    guest: &mut Guest,
    what: &str,
    command: &str,
    exec: &Exec,
    output: &mut dyn FnMut(Output, &[u8]) -> Result<()>,
) -> Result<()> {
    let exit = guest.exec(exec, &mut Streams { input: None, output, controls: None })?;
    match exit.code {
        0 => Ok(()),
        code => Err(Error::new(
            Kind::General,
            format!("the {what} command ended with exit code {code}: {command}"),
        )),
    }
}

fn warm(
    guest: &mut Guest,
    options: &BakeOptions,
    env: Env<'_>,
    output: &mut dyn FnMut(Output, &[u8]) -> Result<()>,
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

/// Brings the guest to rest and freezes its machine.
pub(crate) fn rest(vm: &mut dyn Vm, run: &RunDir, guest: Guest, dir: &Path, env: Env<'_>) -> Result<()> {
    guest.prepare(REST_LIMIT).map_err(|e| explain(e, vm, run))?;
    vm.freeze(&dir.join(VMSTATE), env)
}

/// A link's place in its chain, for [`seal`].
pub(crate) struct Link {
    pub(crate) parent: Tag,
    pub(crate) parent_content_hash: Digest,
    /// Digest of the memory that the chain up to the link assembles to.
    pub(crate) memory: Digest,
    pub(crate) memory_bytes: u64,
    pub(crate) zero_pages: Vec<(u64, u64)>,
}

/// Describes, seals and syncs the files of a staged folder.
pub(crate) fn seal(
    store: &Store,
    dir: &Path,
    target: &Path,
    base: &Snapshot,
    link: Option<&Link>,
    created_at: &str,
    env: Env<'_>,
) -> Result<Stored> {
    let mut record =
        Record { record_version: 1, created_at: Some(created_at.to_owned()), ..Record::default() };
    let (mut snapshot, mut frozen) = (base.clone(), Map::new());
    for (key, name) in [("memory", MEMORY), ("vmstate", VMSTATE), ("rootfs", ROOTFS)] {
        let path = dir.join(name);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        complete(store.disk(), &file, &path)?;
        let hashed = HashedFile::read(&path, &mut |_| env.cancel.check())?;
        frozen.insert(key.into(), json!({ "bytes": hashed.size, "sha256": hashed.sha256.to_string() }));
        record.files.push(hashed.recorded(name));
    }
    if let Some(link) = link {
        frozen.insert(
            "memory".into(),
            json!({ "bytes": link.memory_bytes, "sha256": link.memory.to_string() }),
        );
        snapshot = snapshot
            .with("parent_tag", Some(json!(link.parent.as_str())))
            .with("parent_content_hash", Some(json!(link.parent_content_hash.to_string())));
        if !link.zero_pages.is_empty() {
            snapshot = snapshot.with("zero_pages", Some(json!(link.zero_pages)));
        }
    }
    let snapshot = snapshot.with("frozen", Some(Value::Object(frozen)));
    let snapshot = snapshot.relocated(&format!("{}/", target.display()), None);
    let text = snapshot.to_bytes();
    let mtime_ns = write_sealed(store.disk(), &dir.join(SNAPSHOT_JSON), &text)?;
    record.files.insert(0, HashedFile::of(&text, mtime_ns).recorded(SNAPSHOT_JSON));
    let text = serde_json::to_vec(&record).map_err(|e| Error::new(Kind::General, e.to_string()))?;
    write_sealed(store.disk(), &dir.join(Record::NAME), &text)?;
    let tag = target.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let tag = tag.parse().map_err(Error::malformed(target.display().to_string()))?;
    Ok(Stored { tag, dir: dir.to_owned(), snapshot, record: Some(record) })
}

/// Forks a snapshot once, before anyone can see it.
pub(crate) fn prove(
    engine: &dyn Engine,
    runtime: &Runtime,
    sealed: &Stored,
    memory: &Path,
    env: Env<'_>,
    trial: &mut dyn FnMut(&mut Guest) -> Result<()>,
) -> Result<Duration> {
    engine.check(&sealed.snapshot)?;
    let files = Files { memory: memory.to_owned(), rootfs: sealed.dir.join(ROOTFS), shared: false };
    let begun = Instant::now();
    let run = runtime.create(engine)?;
    let mut vm = engine.restore(sealed, &files, Limits::default(), run.path())?;
    let failed = |e: Error| match e.kind() {
        Kind::Interrupted => e,
        kind => Error::new(kind, format!("the snapshot does not restore: {e}")),
    };
    vm.resume(env).map_err(|e| failed(with_console(e, &run)))?;
    let mut guest = greet(vm.as_mut(), &run, fork::WAKE_LIMIT, env).map_err(failed)?;
    wake(&mut guest, &run.id, false).map_err(|e| failed(explain(e, vm.as_mut(), &run)))?;
    let awake = begun.elapsed();
    trial(&mut guest).map_err(|e| explain(e, vm.as_mut(), &run))?;
    Ok(awake)
}

/// Copies a disk image: the same blocks where the filesystem can share them, else the data between its holes.
pub(crate) fn copy_disk(disk: &Disk, from: &Path, to: &Path) -> Result<()> {
    let source = File::open(from).map_err(Error::io("open", from))?;
    let metadata = source.metadata().map_err(Error::io("open", from))?;
    if !metadata.is_file() {
        return Err(Error::new(
            Kind::Usage,
            format!("{} is not a regular file; expected a disk image", from.display()),
        ));
    }
    let target = disk.create(to, 0o644).map_err(Error::io("create", to))?;
    forkd_sys::copy_sparse(&source, &target).map_err(Error::io("copy to", to))
}

/// A guest's memory file is allocated in full; its zero pages are found by content and given back.
fn punch_zero_pages(path: &Path) -> Result<()> {
    let failed = || Error::io("rewrite", path);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed())?;
    let size = file.metadata().map_err(failed())?.len();
    let mut buffer = vec![0; PIECE_SIZE];
    let mut at = 0;
    while at < size {
        let len = (size - at).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..len], at).map_err(failed())?;
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (page, bytes) in (at / PAGE_SIZE as u64..).zip(buffer[..len].chunks(PAGE_SIZE)) {
            if forkd_sys::is_zero(bytes) {
                match runs.last_mut().filter(|(first, count)| first + *count == page) {
                    Some((_, count)) => *count += 1,
                    None => runs.push((page, 1)),
                }
            }
        }
        punch(&file, path, &runs)?;
        at += len as u64;
    }
    Ok(())
}

/// Gives runs of pages back to the filesystem.
pub(crate) fn punch(file: &File, path: &Path, runs: &[(u64, u64)]) -> Result<()> {
    let page = PAGE_SIZE as u64;
    runs.iter()
        .try_for_each(|(first, count)| forkd_sys::punch_hole(file, first * page, count * page))
        .map_err(Error::io("rewrite", path))
}
