use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

/// The mode of folders that a group shares: what is made in them is the group's.
pub const SHARED_DIR: u32 = 0o2770;

/// A mode that lets the group do what the owner may.
#[must_use]
pub fn for_group(mode: u32) -> u32 {
    mode | (mode & 0o700) >> 3
}

/// A call that changes the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// `mkdir(2)`, also of the folders above.
    MakeDir,
    /// `open(2)` with `O_CREAT` and `O_EXCL`.
    Create,
    /// `pwrite(2)`, or `ftruncate(2)`.
    Write,
    /// `fchmod(2)`.
    Mode,
    /// A file is synced to the disk.
    SyncFile,
    /// A folder's entries are synced to the disk.
    SyncDir,
    /// A name is moved to one that is free.
    Rename,
    /// `renameat2(2)` with `RENAME_EXCHANGE`: two names change places.
    Exchange,
    /// `link(2)`.
    Link,
    /// A file or folder is deleted.
    Remove,
}

/// Sees every call before it is made, and may fail it.
pub type Probe = Arc<dyn Fn(Call, &Path) -> io::Result<()> + Send + Sync>;

/// The one way to change the disk, so that tests can record each call and let each one fail.
#[derive(Clone, Default)]
pub struct DiskIo {
    probe: Option<Probe>,
    shared: bool,
}

impl std::fmt::Debug for DiskIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DiskIo")
    }
}

impl DiskIo {
    /// A disk whose calls pass through a probe.
    #[must_use]
    pub fn with_probe(probe: Probe) -> Self {
        Self { probe: Some(probe), shared: false }
    }

    /// The same, of a folder that a group shares: what is made is the group's as it is the owner's, whatever the umask says. The group
    /// itself comes from the folder, by its set-group-id bit.
    #[must_use]
    pub fn shared(self) -> Self {
        Self { shared: true, ..self }
    }

    /// Whether it is of a folder that a group shares.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// What a mode becomes, where it is for a group too.
    fn mode(&self, mode: u32) -> u32 {
        if self.shared { for_group(mode) } else { mode }
    }

    fn ask(&self, call: Call, path: &Path) -> io::Result<()> {
        self.probe.as_ref().map_or(Ok(()), |probe| probe(call, path))
    }

    /// Makes a folder and those above it; one that is there already is fine.
    ///
    /// # Errors
    /// As `mkdir(2)`.
    pub fn make_dirs(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        self.ask(Call::MakeDir, path)?;
        if !self.shared {
            return create_private_dirs(path);
        }
        let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
        missing.into_iter().rev().try_for_each(|dir| self.make_shared_dir(dir))
    }

    fn make_shared_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(SHARED_DIR))
    }

    /// Makes a folder that must not exist.
    ///
    /// # Errors
    /// As `mkdir(2)`.
    pub fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.ask(Call::MakeDir, path)?;
        if self.shared { self.make_shared_dir(path) } else { fs::create_dir(path) }
    }

    /// Makes a file that must not exist (`O_EXCL`), for reading and writing, with these permissions.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn create(&self, path: &Path, mode: u32) -> io::Result<File> {
        self.ask(Call::Create, path)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)?;
        if self.shared {
            file.set_permissions(fs::Permissions::from_mode(self.mode(mode)))?;
        }
        Ok(file)
    }

    /// Writes all bytes at an offset of the file, in bytes; `path` is what a probe is told.
    ///
    /// # Errors
    /// As `pwrite(2)`.
    pub fn write_at(&self, file: &File, path: &Path, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.ask(Call::Write, path)?;
        file.write_all_at(bytes, offset)
    }

    /// Sets a file's length; what is beyond the old one is a hole.
    ///
    /// # Errors
    /// As `ftruncate(2)`.
    pub fn set_len(&self, file: &File, path: &Path, len: u64) -> io::Result<()> {
        self.ask(Call::Write, path)?;
        file.set_len(len)
    }

    /// Sets the permission bits of an open file.
    ///
    /// # Errors
    /// As `fchmod(2)`.
    pub fn set_mode(&self, file: &File, path: &Path, mode: u32) -> io::Result<()> {
        self.ask(Call::Mode, path)?;
        file.set_permissions(fs::Permissions::from_mode(self.mode(mode)))
    }

    /// Syncs a file's bytes and length.
    ///
    /// # Errors
    /// As `fsync(2)`.
    pub fn sync_file(&self, file: &File, path: &Path) -> io::Result<()> {
        self.ask(Call::SyncFile, path)?;
        file.sync_all()
    }

    /// Syncs a folder's entries, so that names made and moved in it outlast a power failure.
    ///
    /// # Errors
    /// As `fsync(2)`.
    pub fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.ask(Call::SyncDir, path)?;
        File::open(path)?.sync_all()
    }

    /// Moves a name; fails with `EEXIST` where the new one is taken.
    ///
    /// # Errors
    /// As `renameat2(2)`.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(Call::Rename, to)?;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // A filesystem without the flag: the caller holds the lock on the name, so looking first is enough.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                if to.symlink_metadata().is_ok() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                fs::rename(from, to)
            }
            other => Ok(other?),
        }
    }

    /// Moves a file over another, which is gone then.
    ///
    /// # Errors
    /// As `rename(2)`.
    pub fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(Call::Rename, to)?;
        fs::rename(from, to)
    }

    /// Lets two names change places at once: there is no moment in which either is missing.
    ///
    /// # Errors
    /// As `renameat2(2)`; `EINVAL` on filesystems that cannot.
    pub fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        self.ask(Call::Exchange, b)?;
        Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
    }

    /// Makes a second name for a file.
    ///
    /// # Errors
    /// As `link(2)`.
    pub fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(Call::Link, to)?;
        fs::hard_link(from, to)
    }

    /// Deletes one name of a file; its bytes go with the last one.
    ///
    /// # Errors
    /// As `unlink(2)`.
    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.ask(Call::Remove, path)?;
        fs::remove_file(path)
    }

    /// Deletes a folder and what is in it.
    ///
    /// # Errors
    /// As `unlink(2)` and `rmdir(2)`.
    pub fn remove_tree(&self, path: &Path) -> io::Result<()> {
        self.ask(Call::Remove, path)?;
        fs::remove_dir_all(path)
    }
}

/// Makes a folder and those above it that are missing, for this user alone: guests' memory is nobody else's business.
///
/// # Errors
/// What the system says.
pub fn create_private_dirs(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_never_overwritten_and_exchange_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        let disk = DiskIo::default();
        disk.make_dir(&a).unwrap();
        disk.make_dir(&b).unwrap();
        fs::write(a.join("x"), "from a").unwrap();
        assert_eq!(disk.rename(&a, &b).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        disk.exchange(&a, &b).unwrap();
        assert_eq!(fs::read_to_string(b.join("x")).unwrap(), "from a");
        assert!(disk.create(&b.join("x"), 0o600).is_err());
    }

    #[test]
    fn what_a_group_shares_is_the_groups_whatever_the_umask() {
        let root = tempfile::tempdir().unwrap();
        let disk = DiskIo::default().shared();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        disk.make_dirs(&root.path().join("a/b")).unwrap();
        disk.make_dir(&root.path().join("a/c")).unwrap();
        for dir in ["a", "a/b", "a/c"] {
            assert_eq!(mode(&root.path().join(dir)), SHARED_DIR, "{dir}");
        }
        let path = root.path().join("a/file");
        let file = disk.create(&path, 0o600).unwrap();
        assert_eq!(mode(&path), 0o660);
        disk.set_mode(&file, &path, 0o444).unwrap();
        assert_eq!(mode(&path), 0o444);
    }

    #[test]
    fn a_probe_can_fail_a_call() {
        let root = tempfile::tempdir().unwrap();
        let disk = DiskIo::with_probe(Arc::new(|call, _| match call {
            Call::MakeDir => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }));
        assert!(disk.make_dir(&root.path().join("a")).is_err());
        assert!(!root.path().join("a").exists());
    }
}
