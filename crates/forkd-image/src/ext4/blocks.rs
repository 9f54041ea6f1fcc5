//! Which blocks are used, and writing them.

use crate::ext4::bytes::BLOCK;
use forkd_core::{Error, Kind, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A run of blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The first one's place in the file, in blocks.
    pub(crate) logical: u32,
    /// Where it lies on the disk.
    pub(crate) start: u32,
    pub(crate) len: u32,
}

/// The blocks of a disk. They are given out in their order; those that are given back are used again only when there are no others.
#[derive(Debug)]
pub(crate) struct Blocks {
    file: File,
    path: PathBuf,
    /// The first that was never given out.
    next: u32,
    /// One after the last.
    limit: u32,
    /// Given back: first block and count.
    free: Vec<(u32, u32)>,
}

impl Blocks {
    /// The first `reserved` blocks are not given out.
    pub(crate) fn new(file: File, path: PathBuf, reserved: u32, limit: u32) -> Self {
        Self { file, path, next: reserved, limit, free: Vec::new() }
    }

    /// A block that nobody has.
    pub(crate) fn take(&mut self) -> Result<u32> {
        if self.next < self.limit {
            self.next += 1;
            return Ok(self.next - 1);
        }
        let Some((start, len)) = self.free.last_mut() else {
            let message = format!(
                "the image does not fit on a disk of {} MiB",
                (u64::from(self.limit) * BLOCK as u64) >> 20
            );
            return Err(Error::new(Kind::Usage, message)
                .hint("give it a larger one (--size-mib), or leave its size open"));
        };
        let block = *start + *len - 1;
        *len -= 1;
        if *len == 0 {
            self.free.pop();
        }
        Ok(block)
    }

    /// So many in a row, behind all others.
    pub(crate) fn take_run(&mut self, count: u32) -> Result<u32> {
        let start = self.next;
        match start.checked_add(count).filter(|end| *end <= self.limit) {
            Some(end) => self.next = end,
            None => {
                let needed = (u64::from(start) + u64::from(count)) * BLOCK as u64;
                let message = format!(
                    "the image needs a disk of {} MiB; --size-mib says {}",
                    needed.div_ceil(1 << 20),
                    (u64::from(self.limit) * BLOCK as u64) >> 20
                );
                return Err(Error::new(Kind::Usage, message));
            }
        }
        Ok(start)
    }

    /// Gives blocks back; they are zero again.
    pub(crate) fn give(&mut self, start: u32, len: u32) -> Result<()> {
        let (at, bytes) = (u64::from(start) * BLOCK as u64, u64::from(len) * BLOCK as u64);
        // What was never written has no length yet, and a hole must lie within the file.
        let written = self.file.metadata().map_err(Error::io("write", &self.path))?.len();
        if at < written {
            forkd_sys::punch_hole(&self.file, at, bytes.min(written - at))
                .map_err(Error::io("write", &self.path))?;
        }
        self.free.push((start, len));
        Ok(())
    }

    /// Sets the end, once it is known.
    pub(crate) fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// One after the last that was ever given out.
    pub(crate) fn end(&self) -> u32 {
        self.next
    }

    /// Those that were given back and not out again.
    pub(crate) fn free(&self) -> &[(u32, u32)] {
        &self.free
    }

    /// Writes from the beginning of a block on.
    pub(crate) fn write(&self, block: u32, bytes: &[u8]) -> Result<()> {
        self.write_at(u64::from(block) * BLOCK as u64, bytes)
    }

    pub(crate) fn write_at(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, at).map_err(Error::io("write", &self.path))
    }

    pub(crate) fn set_len(&self, bytes: u64) -> Result<()> {
        self.file.set_len(bytes).map_err(Error::io("write", &self.path))
    }
}
