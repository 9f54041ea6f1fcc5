//! Reading files that have holes.

use crate::error::{Error, Kind, Result};
use forkd_format::{PAGE_SIZE, PIECE_SIZE};
use forkd_sys::DiskIo;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Copies a disk image: the same blocks where the filesystem can share them, else the data between its holes.
pub(crate) fn copy_disk(disk: &DiskIo, from: &Path, to: &Path) -> Result<()> {
    let source = File::open(from).map_err(Error::io("open", from))?;
    let metadata = source.metadata().map_err(Error::io("open", from))?;
    if !metadata.is_file() {
        return Err(Error::new(
            Kind::Usage,
            format!("{} is not a regular file; expected a disk image", from.display()),
        ));
    }
    let target = disk.create(to, 0o644).map_err(Error::io("create", to))?;
    forkd_sys::copy_sparse(&source, &target).map_err(Error::io("copy to", to))
}

/// A guest's memory file is allocated in full; its zero pages are found by content and given back.
pub(crate) fn punch_zero_pages(path: &Path) -> Result<()> {
    let failed = || Error::io("rewrite", path);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed())?;
    let size = file.metadata().map_err(failed())?.len();
    let mut buffer = vec![0; PIECE_SIZE];
    let mut at = 0;
    while at < size {
        let len = (size - at).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..len], at).map_err(failed())?;
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (page, bytes) in (at / PAGE_SIZE as u64..).zip(buffer[..len].chunks(PAGE_SIZE)) {
            if forkd_sys::is_zero(bytes) {
                match runs.last_mut().filter(|(first, count)| first + *count == page) {
                    Some((_, count)) => *count += 1,
                    None => runs.push((page, 1)),
                }
            }
        }
        punch(&file, path, &runs)?;
        at += len as u64;
    }
    Ok(())
}

/// Gives runs of pages back to the filesystem.
pub(crate) fn punch(file: &File, path: &Path, runs: &[(u64, u64)]) -> Result<()> {
    let page = PAGE_SIZE as u64;
    runs.iter()
        .try_for_each(|(first, count)| forkd_sys::punch_hole(file, first * page, count * page))
        .map_err(Error::io("rewrite", path))
}

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
