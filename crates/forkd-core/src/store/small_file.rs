use crate::error::{Error, Kind, Result};
use std::fs::File;
use std::io::Read;
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
