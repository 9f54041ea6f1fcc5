use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

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
    use std::os::unix::fs::FileExt;

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
