//! `file:` URLs: a hub that is a folder.

use forkd_core::remote::{Download, Location};
use forkd_core::{Cancel, Error, Kind, Progress, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

fn path(location: &Location) -> Result<PathBuf> {
    let wrong =
        || Error::new(Kind::Usage, format!("{location} names no file on this host; expected file:///path"));
    location.url().to_file_path().map_err(|()| wrong())
}

pub(crate) fn get(location: &Location) -> Result<Download> {
    let path = path(location)?;
    // Asked before it is opened: opening a pipe would wait for a writer.
    let metadata = path.metadata().map_err(Error::io("open", &path))?;
    let open = || File::open(&path).map_err(Error::io("open", &path));
    if !metadata.is_file() {
        return Err(Error::new(Kind::Usage, format!("{} is not a regular file", path.display())));
    }
    Ok(Download { size: Some(metadata.len()), body: Box::new(open()?) })
}

/// Copies beside the target, syncs, then renames: readers see the old file or the whole new one.
pub(crate) fn put(location: &Location, file: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
    let path = path(location)?;
    let failed = || Error::io("write", &path);
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut input = File::open(file).map_err(Error::io("open", file))?;
    let mut temp = tempfile::Builder::new().prefix(".forkd-put-").tempfile_in(dir).map_err(failed())?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        cancel.check()?;
        let read = input.read(&mut buffer).map_err(Error::io("read", file))?;
        if read == 0 {
            break;
        }
        temp.write_all(&buffer[..read]).map_err(failed())?;
        progress.advance(read as u64);
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    temp.as_file().set_permissions(mode).map_err(failed())?;
    temp.as_file().sync_all().map_err(failed())?;
    temp.persist(&path).map_err(|e| failed()(e.error))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed())
}
