//! What a frame is known by: BLAKE3 over the pages that are not zero and where they lie, so that zeros cost nothing.

use super::sizes::{FRAME_SIZE, page_count};
use crate::digest::write_hex;
use std::fmt;
use std::sync::LazyLock;

/// The BLAKE3 hash of what a frame decodes to (`docs/format/pack-v3.md`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameHash([u8; 32]);

impl FrameHash {
    /// The hash with these bytes, as an index has them.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// As an index has them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for FrameHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for FrameHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes the hash of a frame: of its length, of which of its pages are not zero (a bit a page, lowest first), and of those pages,
/// one after another.
#[derive(Debug, Clone)]
pub struct FrameHasher(blake3::Hasher);

impl FrameHasher {
    /// For a frame that covers `len` bytes of its file.
    #[must_use]
    pub fn new(len: usize, bitmap: &[u8]) -> Self {
        debug_assert_eq!(bitmap.len(), page_count(len).div_ceil(8));
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(len as u32).to_le_bytes());
        hasher.update(bitmap);
        Self(hasher)
    }

    /// Takes the next pages that are not zero.
    pub fn update(&mut self, pages: &[u8]) {
        self.0.update(pages);
    }

    /// The hash of the pages so far: after the last one, the frame's.
    #[must_use]
    pub fn finish(&self) -> FrameHash {
        FrameHash(self.0.finalize().into())
    }
}

/// The hash of a frame whose pages that are not zero lie together.
#[must_use]
pub fn frame_hash(len: usize, bitmap: &[u8], pages: &[u8]) -> FrameHash {
    let mut hasher = FrameHasher::new(len, bitmap);
    hasher.update(pages);
    hasher.finish()
}

/// The hash of a frame of zeros.
#[must_use]
pub fn zero_frame_hash(len: usize) -> FrameHash {
    static WHOLE: LazyLock<FrameHash> = LazyLock::new(|| zero_hash(FRAME_SIZE));
    if len == FRAME_SIZE { *WHOLE } else { zero_hash(len) }
}

fn zero_hash(len: usize) -> FrameHash {
    frame_hash(len, &vec![0; page_count(len).div_ceil(8)], &[])
}
