//! Files of an index, as a stranger wrote them.

use super::paged_file::{FileBlob, FileFrame, FrameRef, PagedFile};
use crate::digest::Digest;
use crate::error::FormatError;
use crate::little_endian::{le32, le64};
use crate::manifest::MAX_UNPACKED;
use crate::paged::{
    FileRoot, FrameHash, MAX_BASES, MAX_FRAME_LEN, NumberReader, SetRun, WorkingSet, frame_count,
};
use crate::sizes::PAGE_SIZE;

/// A file before its blobs.
pub(super) const FILE_LEN: usize = 56;
/// A blob.
const BLOB_LEN: usize = 40;
/// A frame before what it needs.
const ENTRY_LEN: usize = 44;
/// Frames that a frame of a release may need.
pub(super) const MAX_NEEDS: u64 = 64;
/// Files that the frames of one may refer to: bases, the files of the chain so far, and their working sets.
const MAX_SOURCES: usize = 4 * MAX_BASES;

/// Reads one file after another.
pub(super) struct FileReader<'a> {
    reader: NumberReader<'a>,
}

impl<'a> FileReader<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { reader: NumberReader { bytes, at } }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.reader.at == self.reader.bytes.len()
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let at = self.reader.at;
        let taken = at.checked_add(len).and_then(|end| self.reader.bytes.get(at..end)).ok_or_else(cut)?;
        self.reader.at += len;
        Ok(taken)
    }

    pub(super) fn read(&mut self) -> Result<PagedFile, FormatError> {
        let fixed = self.take(FILE_LEN)?;
        let root = FileRoot::from_bytes(bytes32(fixed, 0));
        let size = le64(fixed, 32).ok_or_else(cut)?;
        let [blobs, sources, map] = [40, 44, 48].map(|at| le32(fixed, at).unwrap_or(0) as usize);
        if size > MAX_UNPACKED {
            return Err(wrong(format!("a file of {size} bytes; at most {MAX_UNPACKED} are read")));
        }
        if sources > MAX_SOURCES {
            return Err(wrong(format!("{sources} sources; at most {MAX_SOURCES} are read")));
        }
        let count = frame_count(size);
        if blobs > count {
            return Err(wrong(format!("{blobs} blobs for {count} frames")));
        }
        let blobs: Vec<FileBlob> = self
            .take(blobs * BLOB_LEN)?
            .chunks_exact(BLOB_LEN)
            .filter_map(|blob| {
                Some(FileBlob { digest: Digest::from_bytes(bytes32(blob, 0)), len: le64(blob, 32)? })
            })
            .collect();
        let sources: Vec<Option<FileRoot>> = self
            .take(sources * 32)?
            .chunks_exact(32)
            .map(|root| Some(bytes32(root, 0)).filter(|root| *root != [0; 32]).map(FileRoot::from_bytes))
            .collect();
        let map = self.take(map)?;
        let map = if map.is_empty() { Vec::new() } else { read_map(map, size, &sources)? };
        let bitmap = self.take(count.div_ceil(8))?;
        if !count.is_multiple_of(8) && bitmap.last().is_some_and(|last| last >> (count % 8) != 0) {
            return Err(wrong("it marks frames behind the end of a file"));
        }
        let mut frames = Vec::with_capacity(count);
        let (mut left, mut at) = (blobs.iter(), 0);
        for number in 0..count {
            let is_stored = bitmap[number / 8] >> (number % 8) & 1 != 0;
            let frame = if is_stored { Some(self.frame(number, &sources)?) } else { None };
            if let Some(frame) = &frame {
                // Bytes of the blob that are left.
                if at == 0 {
                    at = left.next().map_or(0, |blob| blob.len);
                }
                at = at.checked_sub(u64::from(frame.len)).ok_or_else(torn)?;
            }
            frames.push(frame);
        }
        if at > 0 || left.next().is_some() {
            return Err(torn());
        }
        Ok(PagedFile { root, size, blobs, sources, map, frames })
    }

    fn frame(&mut self, number: usize, sources: &[Option<FileRoot>]) -> Result<FileFrame, FormatError> {
        let entry = self.take(ENTRY_LEN)?;
        let hash = FrameHash::from_bytes(bytes32(entry, 0));
        let sum = le64(entry, 32).ok_or_else(cut)?;
        let len = le32(entry, 40).ok_or_else(cut)?;
        if !(9..=MAX_FRAME_LEN).contains(&(len as usize)) {
            return Err(wrong(format!("a frame of {len} bytes; at most {MAX_FRAME_LEN} are read")));
        }
        Ok(FileFrame { hash, sum, len, needs: self.needs(number, sources)? })
    }

    fn needs(&mut self, number: usize, sources: &[Option<FileRoot>]) -> Result<Box<[FrameRef]>, FormatError> {
        let count = self.reader.number().ok_or_else(cut)?;
        if count > MAX_NEEDS {
            return Err(wrong(format!("a frame that needs {count} others; at most {MAX_NEEDS} are read")));
        }
        let mut needs: Vec<FrameRef> = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let last = needs.last().copied();
            let step = self.reader.number().ok_or_else(cut)?;
            let source = u64::from(last.map_or(0, |last| last.source)).checked_add(step);
            let source = source.and_then(|source| u32::try_from(source).ok()).ok_or_else(cut)?;
            if sources.get(source as usize).copied().flatten().is_none() {
                return Err(wrong(format!("a frame needs one of source {source}, which is none")));
            }
            let frame = match last.filter(|last| last.source == source) {
                Some(last) => {
                    let step = self.reader.number().ok_or_else(cut)?;
                    if step == 0 {
                        return Err(wrong("a frame needs another one twice"));
                    }
                    u64::from(last.frame).checked_add(step)
                }
                None => (number as u64).checked_add_signed(self.reader.signed().ok_or_else(cut)?),
            };
            let frame = frame.and_then(|frame| u32::try_from(frame).ok());
            let frame = frame.ok_or_else(|| wrong("a frame needs one that cannot be"))?;
            needs.push(FrameRef { source, frame });
        }
        Ok(needs.into())
    }
}

/// The pages of a working set. How many pages each file has is seen where it is put together.
fn read_map(bytes: &[u8], size: u64, sources: &[Option<FileRoot>]) -> Result<Vec<SetRun>, FormatError> {
    let sizes: Vec<u64> = sources.iter().map(|source| source.map_or(0, |_| MAX_UNPACKED)).collect();
    if !size.is_multiple_of(PAGE_SIZE as u64) {
        return Err(wrong("its working set has a page that is not whole"));
    }
    WorkingSet::parse_map(bytes, size / PAGE_SIZE as u64, &sizes).map_err(|error| match error {
        FormatError::Index(why) => wrong(why),
        other => other,
    })
}

fn bytes32(bytes: &[u8], at: usize) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(&bytes[at..at + 32]);
    out
}

fn torn() -> FormatError {
    wrong("its blobs are not cut where a frame ends")
}

pub(super) fn cut() -> FormatError {
    wrong("it is cut off")
}

pub(super) fn wrong(message: impl Into<String>) -> FormatError {
    FormatError::Release(format!("the index: {}", message.into()))
}
