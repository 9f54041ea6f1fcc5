use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};

/// Offset of the first byte at or after `offset` that is not in a hole; `None` where only a hole follows. On filesystems
/// without holes everything is data.
///
/// # Errors
/// As `lseek(2)`.
pub fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(offset)) {
        Ok(found) => Ok(Some(found)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(rustix::io::Errno::INVAL) => Ok(Some(offset)),
        Err(error) => Err(error.into()),
    }
}

/// Offset of the first hole at or after `offset`; the end of the file counts as one.
///
/// # Errors
/// As `lseek(2)`.
pub fn next_hole(file: &File, offset: u64) -> io::Result<u64> {
    match seek(file, SeekFrom::Hole(offset)) {
        Ok(found) => Ok(found),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NXIO) => Ok(file.metadata()?.len()),
        Err(error) => Err(error.into()),
    }
}

/// Gives a range of a file back to the filesystem; it reads as zero afterwards. Where the filesystem cannot, nothing changes.
///
/// # Errors
/// As `fallocate(2)`.
pub fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes room on the disk for a file of so many bytes, which read as zero. Where the filesystem cannot, the file is only made so long.
///
/// # Errors
/// As `fallocate(2)`: `ENOSPC` where there is no room.
pub fn allocate(file: &File, len: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, len) {
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(len),
        other => Ok(other?),
    }
}

/// Bytes that this user may still write to the filesystem of a path.
///
/// # Errors
/// As `statvfs(3)`.
pub fn free_space(path: &std::path::Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Copies a file into an empty one: both share their blocks where the filesystem can do that, else the data between the holes is
/// copied.
///
/// # Errors
/// As `read(2)` and `write(2)`.
pub fn copy_sparse(from: &File, to: &File) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let size = from.metadata()?.len();
    to.set_len(size)?;
    let mut at = 0;
    while let Some(data) = next_data(from, at)?.filter(|data| *data < size) {
        let end = next_hole(from, data)?.clamp(data + 1, size);
        at = end;
        let (mut source, mut target) = (data, data);
        while source < end {
            let len = usize::try_from(end - source).unwrap_or(usize::MAX).min(1 << 30);
            match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), len) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                // Another filesystem, or one that cannot.
                Err(
                    rustix::io::Errno::XDEV
                    | rustix::io::Errno::INVAL
                    | rustix::io::Errno::NOSYS
                    | rustix::io::Errno::OPNOTSUPP,
                ) => {
                    copy_range(from, to, &mut source, end)?;
                    target = source;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, at: &mut u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    while *at < end {
        let step = usize::try_from(end - *at).unwrap_or(usize::MAX).min(buffer.len());
        from.read_exact_at(&mut buffer[..step], *at)?;
        to.write_all_at(&buffer[..step], *at)?;
        *at += step as u64;
    }
    Ok(())
}

/// Asks the kernel to begin writing a range to the disk, so that a later sync has less to wait for. A hint: errors show at the sync.
pub fn start_writeback(file: &File, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else { return };
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the call takes no pointer.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Bytes that a file takes on its disk.
#[must_use]
pub fn allocated(metadata: &std::fs::Metadata) -> u64 {
    metadata.blocks() * 512
}

/// Whether every byte is zero. Reads whole cache lines at a time and stops at the first that is not.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let mut lines = bytes.chunks_exact(256);
    lines.by_ref().all(|line| line.iter().fold(0, |all, byte| all | byte) == 0)
        && lines.remainder().iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_copy_holds_the_same_and_has_the_same_holes() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.set_len((5 << 20) + 17).unwrap();
        from.write_all_at(&[7; 10_000], 1 << 20).unwrap();
        from.write_all_at(b"end", (5 << 20) + 14).unwrap();
        copy_sparse(&from, &to).unwrap();
        let (mut a, mut b) = (vec![0; (5 << 20) + 17], vec![1; (5 << 20) + 17]);
        from.read_exact_at(&mut a, 0).unwrap();
        to.read_exact_at(&mut b, 0).unwrap();
        assert!(a == b && to.metadata().unwrap().len() == (5 << 20) + 17);
        assert!(allocated(&to.metadata().unwrap()) <= allocated(&from.metadata().unwrap()));
    }

    #[test]
    fn holes_are_found_and_made() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(next_data(&file, 0).unwrap(), None);
        file.write_all_at(&[1; 8192], 64 << 10).unwrap();
        let data = next_data(&file, 0).unwrap().unwrap();
        assert!(data <= 64 << 10, "{data}");
        assert!(next_hole(&file, 64 << 10).unwrap() >= 72 << 10);
        punch_hole(&file, 0, 1 << 20).unwrap();
        let mut back = [9; 8192];
        file.read_exact_at(&mut back, 64 << 10).unwrap();
        assert!(is_zero(&back));
    }

    #[test]
    fn zero_is_exact() {
        for len in [0, 1, 255, 256, 257, 4096] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in [0, len / 2, len.saturating_sub(1)] {
                if at < len {
                    bytes[at] = 1;
                    assert!(!is_zero(&bytes), "{len} {at}");
                    bytes[at] = 0;
                }
            }
        }
    }
}
