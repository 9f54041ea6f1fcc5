use crate::error::{Error, Result};
use forkd_format::{Digest, Hasher};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The SHA-256 of a whole file, holes read as they are.
///
/// # Errors
/// [`Error::Io`].
pub fn file_digest(path: &Path) -> Result<Digest> {
    let failed = || Error::io("read", path);
    let mut file = File::open(path).map_err(failed())?;
    let (mut hasher, mut buffer) = (Hasher::default(), vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer).map_err(failed())?;
        if read == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..read]);
    }
}
