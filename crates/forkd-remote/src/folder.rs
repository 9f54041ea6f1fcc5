//! `file:` URLs: a hub that is a folder.

use forkd_core::hub::{Answer, Download, Location, Request, Validator};
use forkd_core::{Cancel, Error, Kind, Progress, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

fn path(location: &Location) -> Result<PathBuf> {
    let wrong =
        || Error::new(Kind::Usage, format!("{location} names no file on this host; expected file:///path"));
    location.url().to_file_path().map_err(|()| wrong())
}

pub(crate) fn request(location: &Location, request: &Request) -> Result<Answer> {
    let path = path(location)?;
    // Asked before it is opened: opening a pipe would wait for a writer.
    if !path.metadata().map_err(Error::io("open", &path))?.is_file() {
        return Err(Error::new(Kind::Usage, format!("{} is not a regular file", path.display())));
    }
    let mut file = File::open(&path).map_err(Error::io("open", &path))?;
    let metadata = file.metadata().map_err(Error::io("open", &path))?;
    let (ino, mtime, nanos, size) = (metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len());
    let validator =
        Validator { etag: Some(format!("\"{ino}-{mtime}.{nanos}-{size}\"")), last_modified: None };
    if request.unless.as_ref() == Some(&validator) {
        return Ok(Answer::NotModified);
    }
    let wanted = request.only_of.as_ref().filter(|wanted| !wanted.is_empty());
    let changed = wanted.is_some_and(|wanted| *wanted != validator);
    let (start, end) = if changed { (0, None) } else { (request.start, request.end) };
    if end.is_some_and(|end| end <= start) {
        return Err(Error::new(Kind::Usage, format!("{location}: a range of no bytes was asked for")));
    }
    if (start, end) != (0, None) && start >= size {
        let what = format!("{}: only {size} bytes; those from {start} on were asked for", path.display());
        return Err(Error::new(Kind::Integrity, what));
    }
    file.seek(SeekFrom::Start(start)).map_err(Error::io("read", &path))?;
    let body = Box::new(file.take(end.unwrap_or(u64::MAX).saturating_sub(start)));
    let download = Download { size: Some(size), validator, body };
    Ok(if (start, end) == (0, None) { Answer::Whole(download) } else { Answer::Part(download) })
}

/// Makes the file that [`put`] would make first, which is gone at once.
pub(crate) fn ask_to_put(location: &Location) -> Result<()> {
    let path = path(location)?;
    if path.is_dir() {
        return Err(Error::new(Kind::Usage, format!("{} is a folder; name a file in it", path.display())));
    }
    temporary(&path).map(drop)
}

/// A file beside the one that will be.
fn temporary(path: &Path) -> Result<tempfile::NamedTempFile> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let made = tempfile::Builder::new().prefix(".forkd-put-").tempfile_in(dir);
    made.map_err(|e| match e.kind() {
        _ if !dir.is_dir() => Error::new(Kind::NotFound, format!("there is no folder {}", dir.display())),
        // Its own words name a file that nobody gave a name to.
        kind => Error::io("create a file in", dir)(kind.into()),
    })
}

/// Copies beside the target, syncs, then renames: readers see the old file or the whole new one.
pub(crate) fn put(location: &Location, file: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
    let path = path(location)?;
    let failed = || Error::io("write", &path);
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut input = File::open(file).map_err(Error::io("open", file))?;
    let mut temp = temporary(&path)?;
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
