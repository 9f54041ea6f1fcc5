//! The tar bytes around the files of a pack, the same on every host (`docs/format/pack.md`).

use crate::error::FormatError;

/// The two zero blocks that end an archive.
pub const END_OF_ARCHIVE: [u8; 1024] = [0; 1024];

/// Every entry carries this time (2000-01-01, UTC), so that packs do not depend on when they were made.
const MTIME: u64 = 946_684_800;

/// The 512 bytes before a file: POSIX ustar, root's, mode 0644.
///
/// # Errors
/// [`FormatError::Manifest`] where the name is longer than a header holds; no valid tag and file name is.
pub fn entry_header(name: &str, size: u64) -> Result<[u8; 512], FormatError> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).map_err(|e| FormatError::Manifest(format!("entry '{name}': {e}")))?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(MTIME);
    header.set_size(size);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// Zero bytes that follow a file of this size.
#[must_use]
pub fn padding(size: u64) -> usize {
    crate::tar::padding(size) as usize
}
