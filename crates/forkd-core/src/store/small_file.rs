use crate::error::{Error, Kind, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// Reads a file that must be small.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(Kind::Integrity, format!("{}: more than {limit} bytes", path.display())));
    }
    Ok(bytes)
}

/// Writes a file that everybody may read, in the place of another one: whole, or not at all.
///
/// # Errors
/// [`Error::Io`].
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = || Error::io("write", path);
    let mut file = tempfile::Builder::new()
        .prefix(".forkd-put-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(failed())?;
    file.write_all(bytes).map_err(failed())?;
    file.as_file().sync_all().map_err(failed())?;
    file.persist(path).map(drop).map_err(|e| failed()(e.error))
}
