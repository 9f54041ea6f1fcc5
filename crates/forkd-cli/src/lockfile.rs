//! `forkd.lock` on the disk.

use forkd_core::{Error, Kind, Result};
use forkd_format::Lockfile;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Where it lies unless the user says otherwise.
pub(crate) const DEFAULT: &str = "forkd.lock";

/// Reads one; `None` where there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Lockfile>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(Error::io("open", path))?,
    };
    let mut text = String::new();
    file.take(Lockfile::MAX_LEN + 1).read_to_string(&mut text).map_err(Error::io("read", path))?;
    if text.len() as u64 > Lockfile::MAX_LEN {
        let message = format!("{}: more than {} bytes", path.display(), Lockfile::MAX_LEN);
        return Err(Error::new(Kind::Integrity, message));
    }
    Lockfile::parse(&text).map(Some).map_err(Error::malformed(path.display().to_string()))
}

/// Writes one, whole or not at all.
pub(crate) fn write(path: &Path, lock: &Lockfile) -> Result<()> {
    let text = lock.to_text().map_err(Error::malformed(path.display().to_string()))?;
    forkd_core::write_whole(path, text.as_bytes())
}
