//! Locks on tags and on names, waited for no longer than the user has patience.

use crate::env::Env;
use crate::error::{Error, Result};
use crate::store::root::Store;
use forkd_format::Tag;
use forkd_sys::DiskIo;
pub use forkd_sys::LockKind;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

impl Store {
    /// Locks a tag, waiting as long as the store's timeout says.
    ///
    /// # Errors
    /// [`Error::Locked`] after the timeout; [`Error::Interrupted`].
    pub fn lock(&self, tag: &Tag, kind: LockKind, env: Env<'_>) -> Result<TagLock> {
        self.lock_name(tag.as_str(), &format!("snapshot '{tag}'"), kind, env)
    }

    /// Locks several tags in their order, so that two who do so never wait for each other.
    ///
    /// # Errors
    /// As [`Store::lock`].
    pub fn lock_all(&self, tags: &[Tag], kind: LockKind, env: Env<'_>) -> Result<Vec<TagLock>> {
        let mut sorted: Vec<&Tag> = tags.iter().collect();
        sorted.sort();
        sorted.dedup();
        sorted.into_iter().map(|tag| self.lock(tag, kind, env)).collect()
    }

    pub(crate) fn lock_name(&self, name: &str, what: &str, kind: LockKind, env: Env<'_>) -> Result<TagLock> {
        acquire(self, name, what, kind, env)
    }
}

const RETRY: Duration = Duration::from_millis(40);

/// A lock on a tag. It ends with this value, or with the process that holds it, however that ends.
#[derive(Debug)]
pub struct TagLock {
    // None on a read-only store, where nobody can change what a reader reads.
    held: Option<(File, PathBuf)>,
    store: Store,
}

impl Drop for TagLock {
    fn drop(&mut self) {
        if let Some((file, path)) = &self.held {
            // The last one out takes the file away; who waits on it notices that the name is gone and asks again.
            if forkd_sys::try_lock(file, LockKind::Exclusive).unwrap_or(false) {
                let _ = fs::remove_file(path);
                self.store.remove_empty(path.parent().map(Path::to_owned).as_slice());
            }
        }
    }
}

pub(crate) fn acquire(
    store: &Store,
    name: &str,
    what: &str,
    kind: LockKind,
    env: Env<'_>,
) -> Result<TagLock> {
    let dir = store.root().join("locks");
    let path = dir.join(format!("{name}.lock"));
    let begun = Instant::now();
    let mut told = false;
    loop {
        env.cancel.check()?;
        let mut file = match open(store.disk(), &dir, &path) {
            Err(e) if kind == LockKind::Shared && is_read_only(&e) => {
                return Ok(TagLock { held: None, store: store.clone() });
            }
            file => file.map_err(Error::io("lock", &path))?,
        };
        if forkd_sys::try_lock(&file, kind).map_err(Error::io("lock", &path))? {
            if names(&path, &file) {
                let note = format!("{} {}\n", std::process::id(), store.holder());
                let _ = file
                    .rewind()
                    .and_then(|()| file.set_len(0))
                    .and_then(|()| file.write_all(note.as_bytes()));
                return Ok(TagLock { held: Some((file, path)), store: store.clone() });
            }
            continue;
        }
        let holder = holder(&mut file);
        if begun.elapsed() >= store.lock_timeout() {
            return Err(Error::Locked { resource: what.to_owned(), holder });
        }
        if !told {
            env.progress.note(&format!("waiting for {what}, in use by {holder}"));
            told = true;
        }
        std::thread::sleep(RETRY);
    }
}

fn open(disk: &DiskIo, dir: &Path, path: &Path) -> io::Result<File> {
    let mut tries = 0;
    loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).custom_flags(forkd_sys::NO_FOLLOW);
        match disk.make_dirs(dir).and_then(|()| options.open(path)) {
            Err(e) if crate::store::root::is_taken_away(&e) && tries < 100 => tries += 1,
            // Another of the group has just made it, and not yet given it to the group.
            Err(e) if disk.is_shared() && e.kind() == io::ErrorKind::PermissionDenied && tries < 100 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(file) => {
                // Who has not made it may not, and need not.
                if disk.is_shared() {
                    let _ = file.set_permissions(Permissions::from_mode(0o660));
                }
                return Ok(file);
            }
            other => return other,
        }
    }
}

/// Deletes the lock files that killed runs left. Says how many.
pub(crate) fn sweep(store: &Store) -> u64 {
    let dir = store.root().join("locks");
    let mut count = 0;
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(file) =
            OpenOptions::new().read(true).write(true).custom_flags(forkd_sys::NO_FOLLOW).open(&path)
        else {
            continue;
        };
        if path.extension().is_some_and(|end| end == "lock")
            && forkd_sys::try_lock(&file, LockKind::Exclusive).unwrap_or(false)
        {
            count += u64::from(fs::remove_file(&path).is_ok());
        }
    }
    store.remove_empty(&[dir]);
    count
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// Whether the path still names the open file.
fn names(path: &Path, file: &File) -> bool {
    match (path.metadata(), file.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(300).read_to_string(&mut text));
    match (read, text.trim().split_once(' ')) {
        (Ok(_), Some((pid, command))) => format!("process {pid} ({command})"),
        _ => "another process".to_owned(),
    }
}
