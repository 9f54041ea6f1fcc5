//! From a snapshot to running children.

use crate::arrival::lease::Lease;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::machine::engine::{Access, Engine, Files, Limits, Vm};
use crate::machine::guest::Guest;
use crate::machine::run_dir::{DetachedChild, RunDir, Runtime};
use crate::machine::session::{WAKE_LIMIT, explain, greet, wake, with_console};
use crate::store::lock::{LockKind, TagLock};
use crate::store::root::Store;
use crate::store::stored::{StoredSnapshot, missing_file};
use forkd_format::Tag;
use forkd_format::manifest::{MEMORY, ROOTFS};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// What to fork.
#[derive(Debug, Clone)]
pub struct ForkOptions {
    pub tag: Tag,
    pub count: usize,
    /// What they may have.
    pub limits: Limits,
    /// Where the snapshot is arriving: the right to read it.
    pub lease: Option<Lease>,
}

/// A child that is awake.
#[derive(Debug)]
pub struct Child {
    /// From 1.
    pub number: usize,
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

impl Child {
    /// The last lines of its console.
    #[must_use]
    pub fn console(&self) -> Option<String> {
        crate::machine::engine::console(self.run.path())
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
    pub fn detach(mut self) -> Result<DetachedChild> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let child = DetachedChild {
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
    pub(crate) stored: StoredSnapshot,
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
    crate::store::stored::check_untouched(&stored)?;
    let memory = store.memory(&chain, env)?;
    let Some(rootfs) = stored.rootfs() else {
        return Err(Error::new(Kind::Incompatible, format!("'{tag}' has no {ROOTFS}")));
    };
    let files = Files { memory, rootfs, access: Access::Private, lease: None };
    Ok(Source { stored, files, _locks: locks })
}

/// A snapshot that is arriving: its files are checked as they are read.
fn open_lease(engine: &dyn Engine, lease: &Lease) -> Result<Source> {
    let stored = lease.stored()?;
    check(engine, &stored)?;
    let (memory, rootfs) = (stored.dir.join(MEMORY), stored.dir.join(ROOTFS));
    let files = Files { memory, rootfs, access: Access::Shown, lease: Some(lease.connection()) };
    Ok(Source { stored, files, _locks: Vec::new() })
}

/// Says whether this host can fork a snapshot, from its description and its files' sizes only.
///
/// # Errors
/// [`Kind::Incompatible`], [`Kind::Integrity`], naming what the snapshot needs and what is here.
pub fn check(engine: &dyn Engine, stored: &StoredSnapshot) -> Result<()> {
    engine.check(&stored.snapshot).map_err(|e| e.within(format!("'{}'", stored.tag)))?;
    for (key, path) in stored.bodies() {
        let key = if key == MEMORY { "memory" } else { key.trim_end_matches(".ext4") };
        let found = match stored.open(&path) {
            Ok(file) => file.metadata().map_err(Error::io("read", &path))?.len(),
            Err(e) if e.kind() == Kind::NotFound => return Err(missing_file(&stored.tag, &path)),
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
    work: &(dyn Fn(&Child, &mut Guest) -> Result<()> + Sync),
) -> Result<Vec<Child>> {
    let source = match &options.lease {
        Some(lease) => open_lease(engine, lease)?,
        None => open(store, engine, &options.tag, env)?,
    };
    let permits = Permits { free: Mutex::new((env.jobs * 2).max(2)), changed: Condvar::new() };
    let outcomes: Mutex<Vec<Result<Child>>> = Mutex::default();
    // When one fails the others are stopped.
    let stop = env.cancel.child();
    let stopped = Env { cancel: &stop, ..env };
    let running = AtomicUsize::new(1);
    let started = std::thread::scope(|scope| {
        if let Some(lease) = &options.lease {
            let (running, stop, outcomes) = (&running, &stop, &outcomes);
            // Without whoever serves their files the children can only hang or fail at random.
            scope.spawn(move || {
                while running.load(Ordering::SeqCst) > 0 {
                    if let Err(error) = lease.check() {
                        outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(Err(error));
                        stop.cancel();
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        }
        let _done = RunCount(&running);
        for number in 1..=options.count {
            if permits.take(stopped).is_err() {
                break;
            }
            let begun = Instant::now();
            let run = runtime.create(engine).inspect_err(|_| stop.cancel())?;
            // From this thread: the machine ends with the thread that started it.
            let vm = engine.restore(&source.stored, &source.files, options.limits, run.path());
            let vm = vm.inspect_err(|_| stop.cancel())?;
            if let Some(lease) = &options.lease {
                lease.register(vm.pid(), run.path()).inspect_err(|_| stop.cancel())?;
            }
            let (tag, network) = (options.tag.clone(), options.limits.network);
            let snapshot = store.dir(&tag);
            let forked = Child {
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
            running.fetch_add(1, Ordering::SeqCst);
            let counted = RunCount(&running);
            scope.spawn(move || {
                let outcome = start(forked, begun, permits, stopped, work);
                drop(counted);
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
    children.sort_by_key(|child: &Child| child.number);
    Ok(children)
}

/// One of those that are counted, as long as it lives.
struct RunCount<'a>(&'a AtomicUsize);

impl Drop for RunCount<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn start(
    mut forked: Child,
    begun: Instant,
    permits: &Permits,
    env: Env<'_>,
    work: &(dyn Fn(&Child, &mut Guest) -> Result<()> + Sync),
) -> Result<Child> {
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
