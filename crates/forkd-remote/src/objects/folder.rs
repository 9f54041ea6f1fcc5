//! Objects that are files of a folder.

use super::port::{ObjectInfo, Objects};
use forkd_core::hub::Location;
use forkd_core::{Cancel, Error, Kind, Progress, Result};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long somebody else may be changing the registry.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of objects.
#[derive(Debug)]
pub struct FolderObjects {
    dir: PathBuf,
}

impl FolderObjects {
    /// The folder, which is made when something is put there.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(key)
    }

    fn info(&self, path: &Path, key: String) -> Result<Option<ObjectInfo>> {
        let metadata = match path.symlink_metadata() {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            metadata => metadata.map_err(Error::io("read", path))?,
        };
        if !metadata.is_file() {
            return Ok(None);
        }
        let modified = metadata.modified().map_err(Error::io("read", path))?;
        Ok(Some(ObjectInfo { key, size: metadata.len(), modified }))
    }
}

impl Objects for FolderObjects {
    fn name(&self) -> String {
        format!("file://{}", self.dir.display())
    }

    fn location(&self, key: &str) -> Result<Location> {
        Location::of_file(&self.path(key))
    }

    fn read(&self, key: &str, limit: u64, _: &Cancel) -> Result<Option<Vec<u8>>> {
        let path = self.path(key);
        let file = match File::open(&path) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            file => file.map_err(Error::io("open", &path))?,
        };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io("read", &path))?;
        if bytes.len() as u64 > limit {
            return Err(Error::new(Kind::Integrity, format!("{}: more than {limit} bytes", path.display())));
        }
        Ok(Some(bytes))
    }

    fn head(&self, key: &str, _: &Cancel) -> Result<Option<ObjectInfo>> {
        self.info(&self.path(key), key.to_owned())
    }

    fn put(&self, key: &str, bytes: &[u8], cancel: &Cancel) -> Result<()> {
        let mut file =
            tempfile::NamedTempFile::new().map_err(Error::io("create a file in", &std::env::temp_dir()))?;
        file.write_all(bytes).map_err(Error::io("write", file.path()))?;
        self.put_file(key, file.path(), &forkd_core::Silent, cancel)
    }

    fn put_file(&self, key: &str, path: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        let target = self.path(key);
        let dir = target.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        crate::folder::put(&Location::of_file(&target)?, path, progress, cancel)
    }

    fn list(&self, prefix: &str, cancel: &Cancel) -> Result<Vec<ObjectInfo>> {
        let mut found = Vec::new();
        let begin = prefix.rsplit_once('/').map_or("", |(dir, _)| dir);
        let mut left = vec![begin.to_owned()];
        while let Some(dir) = left.pop() {
            cancel.check()?;
            let path = self.path(&dir);
            let entries = match fs::read_dir(&path) {
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
                entries => entries.map_err(Error::io("read", &path))?,
            };
            for entry in entries {
                let entry = entry.map_err(Error::io("read", &path))?;
                let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
                // What is being written is none yet.
                if name.starts_with(".forkd-put-") {
                    continue;
                }
                let key = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => left.push(key),
                    _ if key.starts_with(prefix) => found.extend(self.info(&entry.path(), key)?),
                    _ => {}
                }
            }
        }
        found.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(found)
    }

    fn lock(&self, cancel: &Cancel) -> Result<Option<File>> {
        fs::create_dir_all(&self.dir).map_err(Error::io("create", &self.dir))?;
        let failed = || Error::io("lock", &self.dir);
        let dir = File::open(&self.dir).map_err(failed())?;
        let begun = Instant::now();
        while !forkd_sys::try_lock(&dir, forkd_sys::LockKind::Exclusive).map_err(failed())? {
            cancel.check()?;
            if begun.elapsed() > PATIENCE {
                let message =
                    format!("{}: somebody has been changing the registry for {PATIENCE:?}", self.name());
                return Err(Error::new(Kind::Locked, message).hint("try again when that has ended"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(dir))
    }

    fn delete(&self, key: &str, _: &Cancel) -> Result<()> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(Error::io("remove", &path)),
        }
    }
}
