//! A store that a group shares (`docs/format/store.md`): all in it is the group's as it is its owner's.

use crate::error::{Error, Result};
use crate::store::root::Store;
use forkd_sys::{SHARED_DIR, for_group};
use serde::Serialize;
use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Whose a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// One user's.
    Private,
    /// A group's, by its number.
    Group(u32),
}

/// What became of a store.
#[derive(Debug, Clone, Serialize)]
pub struct SharingReport {
    #[serde(serialize_with = "crate::json::path")]
    pub path: PathBuf,
    /// Files and folders.
    pub entries: usize,
    /// The folder above the store that others cannot pass, if there is one.
    #[serde(skip)]
    pub closed: Option<PathBuf>,
}

impl Store {
    /// Gives the store to a group, or takes it back. It is made where it is not there. Nobody may be using it.
    ///
    /// # Errors
    /// [`Error::Io`] for what is somebody else's, or where this user is not in the group.
    pub fn set_sharing(&self, sharing: Sharing) -> Result<SharingReport> {
        let root = self.root();
        self.disk().make_dirs(root).map_err(Error::io("create", root))?;
        let mut found = vec![root.to_owned()];
        let mut at = 0;
        while let Some(path) = found.get(at) {
            let kind = path.symlink_metadata().map_err(Error::io("read", path))?;
            if kind.is_dir() {
                let entries = fs::read_dir(path).map_err(Error::io("read", path))?;
                found.extend(entries.flatten().map(|entry| entry.path()));
            }
            at += 1;
        }
        // Its own folder says whose it is: it is the last that is opened and the first that is closed.
        match sharing {
            Sharing::Group(group) => found.iter().rev().try_for_each(|path| open(path, group))?,
            Sharing::Private => found.iter().try_for_each(|path| close(path))?,
        }
        let closed = match sharing {
            Sharing::Group(group) => root.ancestors().skip(1).find(|dir| !is_passable(dir, group)),
            Sharing::Private => None,
        };
        Ok(SharingReport { path: root.to_owned(), entries: found.len(), closed: closed.map(Path::to_owned) })
    }
}

fn open(path: &Path, group: u32) -> Result<()> {
    set(path, |path, metadata| {
        chown(path, None, Some(group))?;
        let shared = if metadata.is_dir() { SHARED_DIR } else { for_group(metadata.mode() & 0o7777) };
        fs::set_permissions(path, Permissions::from_mode(shared))
    })
}

fn close(path: &Path) -> Result<()> {
    set(path, |path, metadata| {
        let private = if metadata.is_dir() { 0o700 } else { metadata.mode() & 0o700 };
        fs::set_permissions(path, Permissions::from_mode(private))
    })
}

fn set(path: &Path, change: impl FnOnce(&Path, &Metadata) -> std::io::Result<()>) -> Result<()> {
    let metadata = path.symlink_metadata().map_err(Error::io("read", path))?;
    // What a link leads to is not ours to give.
    if metadata.is_symlink() {
        return Ok(());
    }
    change(path, &metadata).map_err(Error::io("change the permissions of", path))
}

fn is_passable(dir: &Path, group: u32) -> bool {
    let needed = |found: &Metadata| if found.gid() == group { 0o010 } else { 0o001 };
    dir.metadata().is_ok_and(|found| found.mode() & needed(&found) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_given_and_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("forkd");
        fs::create_dir_all(root.join("snapshots/t")).unwrap();
        let memory = root.join("snapshots/t/memory.bin");
        fs::write(&memory, "x").unwrap();
        fs::set_permissions(&memory, Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("snapshots/t/link")).unwrap();
        let group = root.metadata().unwrap().gid();
        let mode = |path: &Path| path.symlink_metadata().unwrap().mode() & 0o7777;
        let report = Store::new(&root, "test").set_sharing(Sharing::Group(group)).unwrap();
        assert_eq!(report.entries, 5);
        assert_eq!(report.closed.as_deref(), Some(dir.path()).filter(|_| mode(dir.path()) & 0o10 == 0));
        assert_eq!((mode(&root), mode(&root.join("snapshots/t")), mode(&memory)), (0o2770, 0o2770, 0o660));
        let store = Store::new(&root, "test");
        assert!(store.disk().is_shared());
        store.set_sharing(Sharing::Private).unwrap();
        assert_eq!((mode(&root), mode(&root.join("snapshots/t")), mode(&memory)), (0o700, 0o700, 0o600));
        assert!(!Store::new(&root, "test").disk().is_shared());
        assert_ne!(mode(Path::new("/etc/passwd")) & 0o444, 0o400, "a link is not followed");
    }
}
