//! What frames and files are named by: BLAKE3 over the pages that are not zero and where they lie, so that zeros cost nothing.

use super::sizes::{FRAME_SIZE, page_count};
use crate::error::FormatError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::LazyLock;

/// A BLAKE3 hash of a frame's content, or of a file by way of its frames (its root). Written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TreeHash([u8; 32]);

impl TreeHash {
    /// The hash with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<String> for TreeHash {
    type Error = FormatError;
    fn try_from(text: String) -> Result<Self, FormatError> {
        crate::digest::parse_hex(&text)
            .map(Self)
            .ok_or_else(|| FormatError::TreeHash(crate::error::shorten(&text)))
    }
}

impl From<TreeHash> for String {
    fn from(hash: TreeHash) -> Self {
        hash.to_string()
    }
}

impl fmt::Display for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TreeHash {
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
    pub fn finish(&self) -> TreeHash {
        TreeHash(self.0.finalize().into())
    }
}

/// The hash of a frame whose pages that are not zero lie together.
#[must_use]
pub fn frame_hash(len: usize, bitmap: &[u8], pages: &[u8]) -> TreeHash {
    let mut hasher = FrameHasher::new(len, bitmap);
    hasher.update(pages);
    hasher.finish()
}

/// The hash of a frame of zeros.
#[must_use]
pub fn zero_frame_hash(len: usize) -> TreeHash {
    static WHOLE: LazyLock<TreeHash> = LazyLock::new(|| zero_hash(FRAME_SIZE));
    if len == FRAME_SIZE { *WHOLE } else { zero_hash(len) }
}

fn zero_hash(len: usize) -> TreeHash {
    frame_hash(len, &vec![0; page_count(len).div_ceil(8)], &[])
}

/// Makes a file's root: the hash of the hashes of all its frames in order, and of its size.
#[derive(Debug, Clone, Default)]
pub struct RootHasher(blake3::Hasher);

impl RootHasher {
    /// Takes the hash of the file's next frame, stored or zero.
    pub fn push(&mut self, frame: &TreeHash) {
        self.0.update(&frame.0);
    }

    /// The root of a file of so many bytes.
    #[must_use]
    pub fn finish(mut self, size: u64) -> TreeHash {
        self.0.update(&size.to_le_bytes());
        TreeHash(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_stable_and_say_where_the_pages_lie() {
        assert_eq!(
            zero_frame_hash(FRAME_SIZE).to_string(),
            blake3::hash(&[&(1_u32 << 20).to_le_bytes()[..], &[0; 32]].concat()).to_string()
        );
        let page = [7; 4096];
        let hashes: Vec<_> = [(8192, [1]), (8192, [2]), (8191, [1])]
            .map(|(len, bitmap)| frame_hash(len, &bitmap, &page))
            .into();
        assert!(hashes[0] != hashes[1] && hashes[0] != hashes[2]);
        let mut root = RootHasher::default();
        root.push(&hashes[0]);
        let root = root.finish(8192);
        let expected = blake3::hash(&[hashes[0].as_bytes(), &8192_u64.to_le_bytes()[..]].concat());
        assert_eq!(root.to_string(), expected.to_string());
        assert_eq!(TreeHash::try_from(root.to_string()), Ok(root));
        assert!(TreeHash::try_from("00".to_owned()).is_err());
    }
}
