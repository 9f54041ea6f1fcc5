//! Bitmaps and tables of an index, as a stranger wrote them.

use super::file_frames::{FileFrames, StoredFrame};
use super::frame_hash::FrameHash;
use super::sizes::{MAX_DEPTH, MAX_FRAME_LEN, MAX_NEEDS, frame_count};
use super::varint::NumberReader;
use crate::error::FormatError;
use crate::little_endian::{le32, le64};

/// An entry without the frames that it needs.
pub(super) const ENTRY_LEN: usize = 44;

/// What is wrong with an index, or that it is cut off.
pub(super) type Parsed<T> = Result<T, FormatError>;

/// Reads one file's bitmap and table after another.
pub(super) struct TableReader<'a> {
    pub(super) reader: NumberReader<'a>,
    /// Where the next frame begins in the pack.
    pub(super) offset: u64,
    /// How deep each frame so far lies.
    pub(super) depths: Vec<u8>,
    /// Frames of the working set, once it was read: all come before any other, so that nothing needs to name them.
    pub(super) set: Option<u64>,
}

impl TableReader<'_> {
    pub(super) fn read(&mut self, size: u64) -> Parsed<FileFrames> {
        let count = frame_count(size);
        let bytes = self.reader.bytes;
        let at = self.reader.at;
        let bitmap = bytes.get(at..at + count.div_ceil(8)).ok_or_else(cut)?;
        self.reader.at += bitmap.len();
        if !count.is_multiple_of(8) && bitmap.last().is_some_and(|last| last >> (count % 8) != 0) {
            return Err(wrong("it marks frames behind the end of a file"));
        }
        let mut frames = Vec::with_capacity(count);
        for number in 0..count {
            let is_stored = bitmap[number / 8] >> (number % 8) & 1 != 0;
            frames.push(if is_stored { Some(self.entry()?) } else { None });
        }
        Ok(FileFrames { size, frames })
    }

    fn entry(&mut self) -> Parsed<StoredFrame> {
        let at = self.reader.at;
        let entry = self.reader.bytes.get(at..at + ENTRY_LEN).ok_or_else(cut)?;
        self.reader.at += ENTRY_LEN;
        let mut hash = [0; 32];
        hash.copy_from_slice(&entry[..32]);
        let sum = le64(entry, 32).ok_or_else(cut)?;
        let len = le32(entry, 40).ok_or_else(cut)?;
        if !(9..=MAX_FRAME_LEN).contains(&(len as usize)) {
            return Err(wrong(format!("a frame of {len} bytes; at most {MAX_FRAME_LEN} are read")));
        }
        let needs = self.needs()?;
        let offset = self.offset;
        self.offset = offset.checked_add(u64::from(len)).ok_or_else(|| wrong("it lies beyond any file"))?;
        Ok(StoredFrame { hash: FrameHash::from_bytes(hash), sum, offset, len, needs })
    }

    fn needs(&mut self) -> Parsed<Box<[u32]>> {
        let count = self.reader.number().ok_or_else(cut)?;
        if count > MAX_NEEDS as u64 {
            return Err(wrong(format!("a frame that needs {count} others; at most {MAX_NEEDS} are read")));
        }
        let mut needs = Vec::with_capacity(count as usize);
        let mut last = self.depths.len() as u64;
        let mut depth = 0;
        for _ in 0..count {
            let distance = self.reader.number().ok_or_else(cut)?;
            let first = self.set.unwrap_or(u64::MAX);
            let need = last.checked_sub(distance).filter(|need| distance > 0 && *need >= first);
            last = need.ok_or_else(|| wrong("a frame needs one that is not before it"))?;
            depth = depth.max(self.depths[last as usize] + 1);
            needs.push(last as u32);
        }
        if depth > MAX_DEPTH {
            return Err(wrong(format!(
                "frames that need each other {depth} deep; at most {MAX_DEPTH} are read"
            )));
        }
        self.depths.push(depth);
        needs.reverse();
        Ok(needs.into())
    }
}

pub(super) fn cut() -> FormatError {
    wrong("it is cut off")
}

pub(super) fn wrong(message: impl Into<String>) -> FormatError {
    FormatError::Index(message.into())
}
