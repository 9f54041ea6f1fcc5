//! A file of a release: its frames, what they need, and the blobs in which they lie.

use crate::digest::Digest;
use crate::paged::{FileRoot, FrameHash, RootHasher, SetRun, WorkingSet, frame_len, zero_frame_hash};
use crate::paged::{put, put_signed};

/// A frame of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameRef {
    /// The file: its place among the sources of the blob that refers to it.
    pub source: u32,
    /// Its number in the file.
    pub frame: u32,
}

/// A frame that stands in a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFrame {
    /// Of what it decodes to, checked whenever it is decoded.
    pub hash: FrameHash,
    /// XXH3-64 of what it decodes to, zeros included: finds the same bytes elsewhere, proves nothing.
    pub sum: u64,
    /// Bytes in the blob, the skippable frame's header around it included.
    pub len: u32,
    /// The frames that it refers to, ascending, each once.
    pub needs: Box<[FrameRef]>,
}

/// Frames that lie one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileBlob {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub len: u64,
}

/// A file as frames in blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagedFile {
    /// What the frames decode to.
    pub root: FileRoot,
    /// Size of the file in bytes.
    pub size: u64,
    /// The blobs in which the frames lie, one behind the other; each frame lies in one.
    pub blobs: Vec<FileBlob>,
    /// The files that plans of its frames refer to, by the numbers that these have there; `None` for one that no frame refers to.
    pub sources: Vec<Option<FileRoot>>,
    /// Of a working set: the pages of which it is made; files are sources.
    pub map: Vec<SetRun>,
    /// One for each MiB of the file, in order; `None` where it is all zero.
    pub frames: Vec<Option<FileFrame>>,
}

impl FileBlob {
    /// Bytes of frames that a writer puts into one blob, at most. What is sent or fetched twice where a connection breaks is no more.
    pub const MAX: u64 = 16 << 20;
}

impl PagedFile {
    /// The root that its frames make.
    #[must_use]
    pub fn computed_root(&self) -> FileRoot {
        let mut root = RootHasher::default();
        for (number, frame) in self.frames.iter().enumerate() {
            let zero = || zero_frame_hash(frame_len(self.size, number));
            root.push(&frame.as_ref().map_or_else(zero, |frame| frame.hash));
        }
        root.finish(self.size)
    }

    /// Whether it is a working set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.map.is_empty()
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let map = WorkingSet::map_bytes(&self.map);
        out.extend_from_slice(self.root.as_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&(self.blobs.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.sources.len() as u32).to_le_bytes());
        out.extend_from_slice(&(map.len() as u32).to_le_bytes());
        out.extend_from_slice(&0_u32.to_le_bytes());
        for blob in &self.blobs {
            out.extend_from_slice(blob.digest.as_bytes());
            out.extend_from_slice(&blob.len.to_le_bytes());
        }
        for source in &self.sources {
            out.extend_from_slice(source.as_ref().map_or(&[0; 32][..], |root| &root.as_bytes()[..]));
        }
        out.extend_from_slice(&map);
        let at = out.len();
        out.resize(at + self.frames.len().div_ceil(8), 0);
        for (number, _) in self.frames.iter().enumerate().filter(|(_, frame)| frame.is_some()) {
            out[at + number / 8] |= 1 << (number % 8);
        }
        for (number, frame) in self.frames.iter().enumerate() {
            let Some(frame) = frame else { continue };
            out.extend_from_slice(frame.hash.as_bytes());
            out.extend_from_slice(&frame.sum.to_le_bytes());
            out.extend_from_slice(&frame.len.to_le_bytes());
            put_needs(out, number, &frame.needs);
        }
    }
}

fn put_needs(out: &mut Vec<u8>, number: usize, needs: &[FrameRef]) {
    put(out, needs.len() as u64);
    let mut last: Option<FrameRef> = None;
    for need in needs {
        put(out, u64::from(need.source - last.map_or(0, |last| last.source)));
        match last.filter(|last| last.source == need.source) {
            Some(last) => put(out, u64::from(need.frame - last.frame)),
            None => put_signed(out, i64::from(need.frame) - number as i64),
        }
        last = Some(*need);
    }
}
