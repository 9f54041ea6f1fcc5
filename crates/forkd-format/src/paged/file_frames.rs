//! The frames of one file.

use super::file_root::{FileRoot, RootHasher};
use super::frame_hash::{FrameHash, zero_frame_hash};
use super::sizes::frame_len;

/// A frame that stands in the pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFrame {
    /// Of what it decodes to, checked whenever it is decoded.
    pub hash: FrameHash,
    /// XXH3-64 of what it decodes to, zeros included: finds the same bytes elsewhere, proves nothing.
    pub sum: u64,
    /// Where it begins in the pack, in bytes.
    pub offset: u64,
    /// Bytes in the pack, the skippable frame's header around it included.
    pub len: u32,
    /// The frames that it refers to, by their places in the pack, ascending; those of the working set do not count.
    pub needs: Box<[u32]>,
}

/// The frames of one file; those without an entry are all zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFrames {
    /// Size of the file in bytes.
    pub size: u64,
    /// One for each MiB of the file, in order.
    pub frames: Vec<Option<StoredFrame>>,
}

impl FileFrames {
    /// The file's root, from its frames.
    #[must_use]
    pub fn root(&self) -> FileRoot {
        let mut root = RootHasher::default();
        for (number, frame) in self.frames.iter().enumerate() {
            let zero = || zero_frame_hash(frame_len(self.size, number));
            root.push(&frame.as_ref().map_or_else(zero, |frame| frame.hash));
        }
        root.finish(self.size)
    }
}
