//! From a snapshot to running children.

use crate::bake::{explain, greet, with_console};
use crate::engine::{Engine, Files, Limits, Vm};
use crate::guest::Guest;
use crate::runtime::{Child, RunDir, Runtime, hex, random};
use crate::store::{LockKind, Stored, TagLock};
use crate::{Env, Error, Kind, Result, Store};
use forkd_agent::message::{Identity, WakeReport};
use forkd_format::Tag;
use forkd_format::manifest::{MEMORY, ROOTFS};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How long a child may take from its restore to being awake.
pub(crate) const WAKE_LIMIT: Duration = Duration::from_secs(60);

/// A child's clock that may be further behind than this is set again.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(40);

/// What to fork.
#[derive(Debug, Clone)]
pub struct ForkOptions {
    /// The snapshot.
    pub tag: Tag,
    /// How many children.
    pub count: usize,
    /// What they may have.
    pub limits: Limits,
}

/// A child that is awake.
#[derive(Debug)]
pub struct Forked {
    /// From 1.
    pub number: usize,
    /// Its name.
    pub id: String,
    /// From the start of its process until it was awake.
    pub time: Duration,
    /// What did not work in it but does no harm.
    pub warnings: Vec<String>,
    tag: Tag,
    snapshot: PathBuf,
    network: bool,
    vm: Box<dyn Vm>,
    run: RunDir,
}

impl Forked {
    /// The last lines of its console.
    #[must_use]
    pub fn console(&self) -> Option<String> {
        crate::engine::console(self.run.path())
    }

    /// Its folder.
    #[must_use]
    pub fn run(&self) -> &std::path::Path {
        self.run.path()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.vm.pid()
    }

    /// Fails where it has stopped.
    ///
    /// # Errors
    /// Why, with the end of its console.
    pub fn check_alive(&mut self) -> Result<()> {
        let number = self.number;
        self.vm
            .check_alive()
            .map_err(|e| Error::new(e.kind(), format!("child {number}: {}", with_console(e, &self.run))))
    }

    /// Lets it live on. It must have been forked detached.
    ///
    /// # Errors
    /// What the disk says; it ends then.
    pub fn detach(mut self) -> Result<Child> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let child = Child {
            id: self.id.clone(),
            tag: self.tag.clone(),
            snapshot: self.snapshot.clone(),
            pid: self.vm.pid(),
            created: now.as_secs(),
            network: self.network,
            run: self.run.path().to_owned(),
        };
        self.run.detach(&child)?;
        self.vm.release();
        Ok(child)
    }
}

/// A snapshot that may be forked: checked, locked, its memory assembled.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) stored: Stored,
    pub(crate) files: Files,
    _locks: Vec<TagLock>,
}

/// Checks what can be checked without reading memory: the engine's fields and the files' sizes. Then the files themselves, where
/// they were touched since they were put there, and assembles a chain's memory.
pub(crate) fn open(store: &Store, engine: &dyn Engine, tag: &Tag, env: Env<'_>) -> Result<Source> {
    let head = store.load(tag)?;
    check(engine, &head)?;
    let tags: Vec<Tag> = store.chain(tag)?.into_iter().map(|link| link.tag).collect();
    let locks = store.lock_all(&tags, LockKind::Shared, env)?;
    let chain = store.chain(tag)?;
    let Some(stored) = chain.last().cloned() else { return Err(Error::new(Kind::NotFound, tag.to_string())) };
    check(engine, &stored)?;
    crate::store::check_untouched(&stored)?;
    let memory = store.memory(&chain, env)?;
    let Some(rootfs) = stored.rootfs() else {
        return Err(Error::new(Kind::Incompatible, format!("'{tag}' has no {ROOTFS}")));
    };
    let files = Files { memory, rootfs, shared: false };
    Ok(Source { stored, files, _locks: locks })
}

/// Says whether this host can fork a snapshot, from its description and its files' sizes only.
///
/// # Errors
/// [`Kind::Incompatible`], [`Kind::Integrity`], naming what the snapshot needs and what is here.
pub fn check(engine: &dyn Engine, stored: &Stored) -> Result<()> {
    engine.check(&stored.snapshot).map_err(|e| Error::new(e.kind(), format!("'{}': {e}", stored.tag)))?;
    for (key, path) in stored.bodies() {
        let key = if key == MEMORY { "memory" } else { key.trim_end_matches(".ext4") };
        let found = match stored.open(&path) {
            Ok(file) => file.metadata().map_err(Error::io("read", &path))?.len(),
            Err(e) if e.kind() == Kind::NotFound => {
                let message = format!(
                    "{} is missing; `forkd rmi {1}`, then pull or bake it again",
                    path.display(),
                    stored.tag
                );
                return Err(Error::new(Kind::Integrity, message));
            }
            Err(e) => return Err(e),
        };
        if let Some((bytes, _)) = stored.snapshot.frozen(key)
            && bytes != found
        {
            let message =
                format!("{}: {found} bytes; snapshot.json says that {bytes} were frozen", path.display());
            return Err(Error::new(Kind::Integrity, message));
        }
    }
    Ok(())
}

/// Gives a guest that has just booted a clock and entropy, for which it would else wait.
pub(crate) fn seed(guest: &mut Guest, network: bool) -> Result<WakeReport> {
    let identity = Identity { clock_ns: clock_ns(), seed: random(32)?, network, ..Identity::default() };
    guest.forked(&identity, WAKE_LIMIT)
}

fn clock_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// Makes a child itself: its clock, its entropy, its names.
pub(crate) fn wake(guest: &mut Guest, id: &str, network: bool) -> Result<WakeReport> {
    let (seed_bytes, machine_id) = (random(32)?, hex(&random(16)?));
    let identity =
        Identity { clock_ns: clock_ns(), seed: seed_bytes, hostname: id.to_owned(), machine_id, network };
    let woken = guest.forked(&identity, WAKE_LIMIT)?;
    // What is left of the way here and back is what the guest's clock is behind, at most: on a busy host too much.
    let mut behind = clock_ns().saturating_sub(woken.clock_ns);
    for _ in 0..3 {
        if Duration::from_nanos(behind) < CLOCK_TOLERANCE {
            break;
        }
        behind = clock_ns().saturating_sub(seed(guest, false)?.clock_ns);
    }
    Ok(woken)
}

/// Lets so many children start at the same time: each wants a core to do so.
struct Permits {
    free: Mutex<usize>,
    changed: Condvar,
}

impl Permits {
    fn take(&self, env: Env<'_>) -> Result<()> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            env.cancel.check()?;
            let wait = self.changed.wait_timeout(free, Duration::from_millis(50));
            free = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= 1;
        Ok(())
    }

    fn give(&self) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_one();
    }
}

/// Forks children, copy-on-write. `work` is called for each as soon as it is awake, from a thread of its own. All live until the
/// result is dropped; when one fails, all end.
///
/// # Errors
/// [`Kind::NotFound`], [`Kind::Incompatible`], [`Kind::Integrity`] where a file was altered since it was put there; the first
/// failure of a child or of `work`.
pub fn fork(
    store: &Store,
    engine: &dyn Engine,
    runtime: &Runtime,
    options: &ForkOptions,
    env: Env<'_>,
    work: &(dyn Fn(&Forked, &mut Guest) -> Result<()> + Sync),
) -> Result<Vec<Forked>> {
    let source = open(store, engine, &options.tag, env)?;
    let permits = Permits { free: Mutex::new((env.jobs * 2).max(2)), changed: Condvar::new() };
    let outcomes: Mutex<Vec<Result<Forked>>> = Mutex::default();
    // When one fails the others are stopped.
    let stop = env.cancel.child();
    let stopped = Env { cancel: &stop, ..env };
    let started = std::thread::scope(|scope| {
        for number in 1..=options.count {
            if permits.take(stopped).is_err() {
                break;
            }
            let begun = Instant::now();
            let run = runtime.create(engine).inspect_err(|_| stop.cancel())?;
            // From this thread: the machine ends with the thread that started it.
            let vm = engine.restore(&source.stored, &source.files, options.limits, run.path());
            let vm = vm.inspect_err(|_| stop.cancel())?;
            let (tag, network) = (options.tag.clone(), options.limits.network);
            let snapshot = source.stored.dir.clone();
            let forked = Forked {
                number,
                id: run.id.clone(),
                time: Duration::ZERO,
                warnings: Vec::new(),
                tag,
                snapshot,
                network,
                vm,
                run,
            };
            let (permits, outcomes, stop) = (&permits, &outcomes, &stop);
            scope.spawn(move || {
                let outcome = start(forked, begun, permits, stopped, work);
                if outcome.is_err() {
                    stop.cancel();
                }
                outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
            });
        }
        Ok(())
    });
    started?;
    env.cancel.check()?;
    let (mut children, mut failures) = (Vec::new(), Vec::new());
    for outcome in outcomes.into_inner().unwrap_or_else(PoisonError::into_inner) {
        match outcome {
            Ok(child) => children.push(child),
            Err(error) => failures.push(error),
        }
    }
    // The first that failed; those that were stopped because of it say nothing of their own.
    let cause = failures.iter().position(|error| error.kind() != Kind::Interrupted).unwrap_or(0);
    if !failures.is_empty() {
        return Err(failures.swap_remove(cause));
    }
    children.sort_by_key(|child: &Forked| child.number);
    Ok(children)
}

fn start(
    mut forked: Forked,
    begun: Instant,
    permits: &Permits,
    env: Env<'_>,
    work: &(dyn Fn(&Forked, &mut Guest) -> Result<()> + Sync),
) -> Result<Forked> {
    let number = forked.number;
    let failed = |e: Error| match e.kind() {
        Kind::Interrupted => e,
        kind => Error::new(kind, format!("child {number}: {e}")),
    };
    let awake = (|| {
        forked.vm.resume(env).map_err(|e| with_console(e, &forked.run))?;
        let mut guest = greet(forked.vm.as_mut(), &forked.run, WAKE_LIMIT, env)?;
        let woken = wake(&mut guest, &forked.id, forked.network).map_err(|e| with_console(e, &forked.run))?;
        Ok((guest, woken))
    })();
    permits.give();
    let (mut guest, woken) = awake.map_err(failed)?;
    forked.time = begun.elapsed();
    forked.warnings = woken.warnings;
    work(&forked, &mut guest).map_err(|e| failed(explain(e, forked.vm.as_mut(), &forked.run)))?;
    Ok(forked)
}

/// A conversation with a child that runs already: over whichever of its ports is free.
///
/// # Errors
/// [`Kind::Locked`] where all ports are in use for `limit`.
pub fn talk(child: &Child, limit: Duration, env: Env<'_>) -> Result<Guest> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        for port in 0..crate::engine::PORTS {
            let Some(lock) = claim(&child.run, port)? else { continue };
            // A greeting that comes while the agent is still busy with who was here before may be lost: then another one.
            let begun = Instant::now();
            while begun.elapsed() < WAKE_LIMIT {
                let stream = crate::engine::connect(&child.run, port);
                if stream.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock) {
                    env.cancel.check()?;
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                let stream =
                    stream.map_err(|e| Error::new(Kind::General, format!("child {}: {e}", child.id)))?;
                if let Some(guest) = Guest::greet(stream, Duration::from_secs(2), env.cancel)? {
                    return Ok(guest.holding(lock));
                }
            }
            let message = format!("child {0} does not answer; see `forkd logs {0}`", child.id);
            return Err(Error::new(Kind::General, message));
        }
        env.cancel.check()?;
        if begun.elapsed() > limit {
            let resource = format!("child {}", child.id);
            return Err(Error::Locked {
                resource,
                holder: format!("{} others that talk to it", crate::engine::PORTS),
            });
        }
        if !told {
            env.progress.note(&format!(
                "waiting for child {}: {} others talk to it",
                child.id,
                crate::engine::PORTS
            ));
            told = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn claim(run: &std::path::Path, port: usize) -> Result<Option<std::fs::File>> {
    let path: PathBuf = run.join(format!("port.{port}"));
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(false).write(true).custom_flags(forkd_sys::NO_FOLLOW);
    let file = options.open(&path);
    let file = file.map_err(Error::io("open", &path))?;
    let free =
        forkd_sys::try_lock(&file, forkd_sys::LockKind::Exclusive).map_err(Error::io("lock", &path))?;
    Ok(free.then_some(file))
}
