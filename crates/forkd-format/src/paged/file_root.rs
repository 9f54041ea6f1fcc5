//! What a file is known by frame by frame: its root.

use super::frame_hash::FrameHash;
use crate::digest::{parse_hex, write_hex};
use crate::error::{FormatError, shorten};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A file's root: the BLAKE3 hash of its frames' hashes and its size. Written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileRoot([u8; 32]);

impl FileRoot {
    /// The root with these bytes.
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

impl TryFrom<String> for FileRoot {
    type Error = FormatError;
    fn try_from(text: String) -> Result<Self, FormatError> {
        parse_hex(&text).map(Self).ok_or_else(|| FormatError::FileRoot(shorten(&text)))
    }
}

impl From<FileRoot> for String {
    fn from(hash: FileRoot) -> Self {
        hash.to_string()
    }
}

impl fmt::Display for FileRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for FileRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes a file's root: the hash of the hashes of all its frames in order, and of its size.
#[derive(Debug, Clone, Default)]
pub struct RootHasher(blake3::Hasher);

impl RootHasher {
    /// Takes the hash of the file's next frame, stored or zero.
    pub fn push(&mut self, frame: &FrameHash) {
        self.0.update(frame.as_bytes());
    }

    /// The root of a file of so many bytes.
    #[must_use]
    pub fn finish(mut self, size: u64) -> FileRoot {
        self.0.update(&size.to_le_bytes());
        FileRoot(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame_hash::{frame_hash, zero_frame_hash};
    use super::super::sizes::FRAME_SIZE;
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
        assert_eq!(FileRoot::try_from(root.to_string()), Ok(root));
        assert!(FileRoot::try_from("00".to_owned()).is_err());
    }
}
