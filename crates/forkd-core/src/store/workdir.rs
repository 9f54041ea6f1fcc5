//! Work in progress: folders and files that are locked for as long as their owner lives, so that anyone may clear away what a dead
//! owner left. Staging folders go with their owner; those of downloads stay for another to go on with.

use crate::env::{Env, Progress};
use crate::error::{Error, Kind, Result};
use crate::store::lock::{self, TagLock};
use crate::store::root::{Store, is_taken_away};
use forkd_format::Tag;
use forkd_sys::{LockKind, try_lock};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const RETRY: Duration = Duration::from_millis(5);

/// A locked folder of the store.
#[derive(Debug)]
pub(crate) struct WorkDir {
    path: PathBuf,
    store: Store,
    kind: WorkKind,
    /// Against sweeps.
    _lock: File,
    /// Against another download of the same pack.
    _turn: Option<TagLock>,
}

/// What a folder is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WorkKind {
    /// `staging/<pid>-<n>`: what will be published; gone with its owner.
    Staging,
    /// `partial/<key>`: what has landed of a download; it outlives its owner.
    Download,
}

impl WorkKind {
    fn parent(self, store: &Store) -> PathBuf {
        match self {
            Self::Staging => store.root().join("staging"),
            Self::Download => store.partial_dir(),
        }
    }

    /// Whether a folder is one that we make; others are left alone.
    fn owns(self, name: &str) -> bool {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match self {
            Self::Staging => name.split_once('-').is_some_and(|(pid, n)| is_number(pid) && is_number(n)),
            Self::Download => true,
        }
    }
}

impl Store {
    /// Where downloads lie that are not done.
    pub(crate) fn partial_dir(&self) -> PathBuf {
        self.root().join("partial")
    }

    /// Whether an earlier run left something of a download.
    pub(crate) fn has_download(&self, key: &str) -> bool {
        self.partial_dir().join(key).exists()
    }

    /// Makes a staging folder, and clears away what killed runs left.
    pub(crate) fn stage(&self, env: Env<'_>) -> Result<WorkDir> {
        sweep(self, WorkKind::Staging, &mut |path| {
            env.progress.note(&format!("removed {}, left by an interrupted run", path.display()));
        })?;
        WorkDir::open(self, WorkKind::Staging, None, env)
    }

    /// Opens the folder of a download, or makes it. Whoever is at the same one, under whatever name, is waited for.
    pub(crate) fn download(&self, key: &str, env: Env<'_>) -> Result<WorkDir> {
        let turn = self.lock_name(key, "a download of the same pack", LockKind::Exclusive, env)?;
        WorkDir::open(self, WorkKind::Download, Some((key, turn)), env)
    }

    /// Opens the folder of a snapshot that is being published, or makes it. Whoever publishes the same one is waited for.
    pub(crate) fn upload(&self, tag: &Tag, env: Env<'_>) -> Result<WorkDir> {
        let key = format!("push-{tag}");
        let turn = self.lock_name(&key, &format!("another push of '{tag}'"), LockKind::Exclusive, env)?;
        WorkDir::open(self, WorkKind::Download, Some((&key, turn)), env)
    }

    /// Deletes what killed runs left in staging, downloads that were not finished, and assembled memories of chains that are gone.
    ///
    /// # Errors
    /// [`Error::Io`] where a leftover cannot be deleted.
    pub fn gc(&self, progress: &dyn Progress) -> Result<u64> {
        let tell = &mut |path: &Path| {
            progress.note(&format!("removed {}, left by an interrupted run", path.display()));
        };
        let removed = sweep(self, WorkKind::Staging, tell)?
            + sweep(self, WorkKind::Download, &mut |_| {})?
            + self.sweep_assembled()?.len() as u64
            + lock::sweep(self);
        self.remove_empty(&[WorkKind::Staging.parent(self), self.snapshots()]);
        Ok(removed)
    }

    /// How many leftovers of killed runs [`Store::gc`] would delete: those in staging, and downloads.
    ///
    /// # Errors
    /// [`Error::Io`] where they cannot be listed.
    pub fn leftovers(&self) -> Result<u64> {
        let found = [WorkKind::Staging, WorkKind::Download].map(|kind| ownerless(self, kind));
        found.into_iter().try_fold(0, |sum, found| Ok(sum + found?.len() as u64))
    }

    /// Makes a store for a while on the same disk.
    ///
    /// # Errors
    /// What the disk says.
    pub fn scratch(&self, env: Env<'_>) -> Result<ScratchStore> {
        let staging = self.stage(env)?;
        let store = self.moved_to(staging.path().join("scratch"));
        Ok(ScratchStore { store, _staging: staging })
    }
}

impl WorkDir {
    fn open(store: &Store, kind: WorkKind, turn: Option<(&str, TagLock)>, env: Env<'_>) -> Result<Self> {
        let parent = kind.parent(store);
        let (key, turn) = turn.unzip();
        let mut tries = 0;
        loop {
            match Self::try_open(store, &parent, key, env) {
                Err(Error::Io { source, .. }) if is_taken_away(&source) && tries < 100 => tries += 1,
                other => {
                    let (path, lock) = other?;
                    return Ok(Self { path, store: store.clone(), kind, _lock: lock, _turn: turn });
                }
            }
        }
    }

    /// Opens a folder of that name, or makes one that nobody has; locked either way.
    fn try_open(store: &Store, parent: &Path, name: Option<&str>, env: Env<'_>) -> Result<(PathBuf, File)> {
        let disk = store.disk();
        disk.make_dirs(parent).map_err(Error::io("create", parent))?;
        // Nobody sweeps while a folder is made but not locked yet.
        let guard = File::open(parent).map_err(Error::io("open", parent))?;
        lock_patiently(&guard, parent, store, env)?;
        let path = match name {
            Some(name) => parent.join(name),
            None => (0u32..)
                .map(|n| parent.join(format!("{}-{n}", std::process::id())))
                .find(|path| path.symlink_metadata().is_err())
                .unwrap_or_else(|| parent.join("x")),
        };
        if name.is_none() || !path.is_dir() {
            disk.make_dir(&path).map_err(Error::io("create", &path))?;
        }
        let lock = File::open(&path).map_err(Error::io("open", &path))?;
        if !try_lock(&lock, LockKind::Exclusive).map_err(Error::io("lock", &path))? {
            return Err(held(&path));
        }
        Ok((path, lock))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Opens a file in it for reading and writing; makes it where it is not there.
    pub(crate) fn file(&self, name: &str) -> Result<(PathBuf, File)> {
        let path = self.path.join(name);
        let file = match File::options().read(true).write(true).open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => self.store.disk().create(&path, 0o600),
            file => file,
        };
        Ok((path.clone(), file.map_err(Error::io("open", &path))?))
    }

    /// Whether none of these files has a byte.
    pub(crate) fn are_empty(&self, names: &[&str]) -> bool {
        names.iter().all(|name| !self.path.join(name).metadata().is_ok_and(|found| found.len() > 0))
    }

    /// Deletes all but one of its files.
    pub(crate) fn clear_but(&self, kept: &str) -> Result<()> {
        let disk = self.store.disk();
        for entry in fs::read_dir(&self.path).map_err(Error::io("read", &self.path))? {
            let entry = entry.map_err(Error::io("read", &self.path))?;
            let path = entry.path();
            if entry.file_type().map_err(Error::io("read", &path))?.is_dir() {
                disk.remove_tree(&path).map_err(Error::io("remove", &path))?;
            } else if entry.file_name() != kept {
                disk.remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// It is done with, or worth nothing.
    pub(crate) fn remove(self) -> Result<()> {
        self.delete().map_err(Error::io("remove", &self.path))
    }

    fn delete(&self) -> std::io::Result<()> {
        self.store.disk().remove_tree(&self.path)?;
        self.store.remove_empty(&[self.kind.parent(&self.store), self.store.snapshots()]);
        Ok(())
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if self.kind == WorkKind::Staging {
            let _ = self.delete();
        }
    }
}

/// A store for a while, in the staging folder of another: it goes with this value, or is swept when its owner is gone.
#[derive(Debug)]
pub struct ScratchStore {
    store: Store,
    _staging: WorkDir,
}

impl ScratchStore {
    /// The store, which is like any other as long as this lives.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }
}

/// Takes a shared lock on a folder that sweeps hold for moments; who holds it longer is not waited for without end.
fn lock_patiently(guard: &File, folder: &Path, store: &Store, env: Env<'_>) -> Result<()> {
    let begun = Instant::now();
    while !try_lock(guard, LockKind::Shared).map_err(Error::io("lock", folder))? {
        env.cancel.check()?;
        if begun.elapsed() >= store.lock_timeout() {
            return Err(held(folder));
        }
        std::thread::sleep(RETRY);
    }
    Ok(())
}

fn held(path: &Path) -> Error {
    Error::Locked { resource: path.display().to_string(), holder: "another process".to_owned() }
}

/// Deletes the folders of a kind whose owner is gone. Says how many; `tell` is called for each.
fn sweep(store: &Store, kind: WorkKind, tell: &mut dyn FnMut(&Path)) -> Result<u64> {
    let parent = kind.parent(store);
    let Ok(metadata) = parent.symlink_metadata() else { return Ok(0) };
    if !metadata.is_dir() {
        let message = format!("{} is not a folder of its own", parent.display());
        return Err(Error::new(Kind::General, message).hint("move it away"));
    }
    let guard = File::open(&parent).map_err(Error::io("open", &parent))?;
    if !try_lock(&guard, LockKind::Exclusive).map_err(Error::io("lock", &parent))? {
        return Ok(0);
    }
    let found = ownerless(store, kind)?;
    for (path, _lock) in &found {
        store.disk().remove_tree(path).map_err(Error::io("remove", path))?;
        tell(path);
    }
    drop(guard);
    store.remove_empty(&[parent]);
    Ok(found.len() as u64)
}

/// The folders of a kind whose owner is gone, each with its lock.
fn ownerless(store: &Store, kind: WorkKind) -> Result<Vec<(PathBuf, File)>> {
    let parent = kind.parent(store);
    if parent.symlink_metadata().is_err() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(&parent).map_err(Error::io("read", &parent))?;
    let found = entries.flatten().filter_map(|entry| {
        let ours = entry.file_name().to_str().is_some_and(|name| kind.owns(name));
        let is_dir = entry.file_type().is_ok_and(|found| found.is_dir());
        let dir = File::open(entry.path()).ok().filter(|_| ours && is_dir)?;
        try_lock(&dir, LockKind::Exclusive).unwrap_or(false).then(|| (entry.path(), dir))
    });
    Ok(found.collect())
}
