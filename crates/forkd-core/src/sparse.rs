//! Reading files that have holes.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Reads what is not in holes; what is in one becomes zero without being read.
pub(crate) fn read_data(file: &File, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    let end = offset + buffer.len() as u64;
    let mut at = offset;
    while at < end {
        let data = forkd_sys::next_data(file, at)?.unwrap_or(end).min(end);
        buffer[(at - offset) as usize..(data - offset) as usize].fill(0);
        if data == end {
            break;
        }
        at = forkd_sys::next_hole(file, data)?.clamp(data + 1, end);
        file.read_exact_at(&mut buffer[(data - offset) as usize..(at - offset) as usize], data)?;
    }
    Ok(())
}
