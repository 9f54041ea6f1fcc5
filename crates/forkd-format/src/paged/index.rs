//! The table of a pack's frames.

use super::file_root::{FileRoot, RootHasher};
use super::frame_hash::{FrameHash, zero_frame_hash};
use super::sizes::{FRAME_SIZE, MAX_FRAME_LEN, frame_count, frame_len};
use crate::error::FormatError;
use crate::little_endian::{le32, le64};
use crate::sizes::PAGE_SIZE;

const MAGIC: &[u8; 8] = b"forkdix3";
/// What we write; a reader takes a longer one and passes over what it does not know.
const HEADER_LEN: usize = 64;
const ENTRY_LEN: usize = 44;

/// Features without which a pack cannot be read. None is defined yet.
const KNOWN_INCOMPATIBLE: u64 = 0;

/// A frame that stands in the pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredFrame {
    /// Of what it decodes to, checked whenever it is decoded.
    pub hash: FrameHash,
    /// XXH3-64 of what it decodes to, zeros included: finds the same bytes elsewhere, proves nothing.
    pub sum: u64,
    /// Where it begins in the pack, in bytes.
    pub offset: u64,
    /// Bytes in the pack, the skippable frame's header around it included.
    pub len: u32,
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

/// Where each frame lies and what it decodes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Bytes before the first frame.
    pub header_len: u64,
    /// Bytes of all frames together.
    pub data_len: u64,
    /// Files in the order of the manifest.
    pub files: Vec<FileFrames>,
}

impl Index {
    /// The most bytes that an index of files of these sizes may take: what a reader allows for one.
    #[must_use]
    pub fn max_len(sizes: &[u64]) -> u64 {
        let frames = sizes.iter().map(|size| frame_count(*size) as u64);
        4096 + frames.map(|count| count.div_ceil(8) + count * ENTRY_LEN as u64).sum::<u64>()
    }

    /// The bytes of an index of files that have so many frames, of which so many are stored.
    #[must_use]
    pub fn len_for(counts: &[(usize, usize)]) -> usize {
        HEADER_LEN + counts.iter().map(|(all, stored)| all.div_ceil(8) + stored * ENTRY_LEN).sum::<usize>()
    }

    /// What stands in the pack, without the skippable frame's header and padding.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let stored = self.files.iter().flat_map(|file| &file.frames).flatten().count();
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(HEADER_LEN as u32).to_le_bytes());
        out.extend_from_slice(&0_u32.to_le_bytes());
        out.extend_from_slice(&0_u64.to_le_bytes());
        out.extend_from_slice(&0_u64.to_le_bytes());
        out.extend_from_slice(&self.header_len.to_le_bytes());
        out.extend_from_slice(&self.data_len.to_le_bytes());
        out.extend_from_slice(&(self.files.len() as u32).to_le_bytes());
        out.extend_from_slice(&(stored as u32).to_le_bytes());
        out.extend_from_slice(&(PAGE_SIZE as u32).to_le_bytes());
        out.extend_from_slice(&(FRAME_SIZE as u32).to_le_bytes());
        debug_assert_eq!(out.len(), HEADER_LEN);
        for file in &self.files {
            let at = out.len();
            out.resize(at + file.frames.len().div_ceil(8), 0);
            for (number, _) in file.frames.iter().enumerate().filter(|(_, frame)| frame.is_some()) {
                out[at + number / 8] |= 1 << (number % 8);
            }
            for frame in file.frames.iter().flatten() {
                out.extend_from_slice(frame.hash.as_bytes());
                out.extend_from_slice(&frame.sum.to_le_bytes());
                out.extend_from_slice(&frame.len.to_le_bytes());
            }
        }
        out
    }

    /// Reads an index, and holds it against the sizes and roots that the manifest declares for its files.
    ///
    /// # Errors
    /// [`FormatError::Index`] where it breaks a rule of `docs/format/pack-v3.md`.
    pub fn parse(bytes: &[u8], files: &[(u64, FileRoot)]) -> Result<Self, FormatError> {
        let cut = || wrong("it is cut off");
        if bytes.get(..8) != Some(MAGIC) {
            return Err(wrong("it does not begin like one"));
        }
        let header = le32(bytes, 8).ok_or_else(cut)? as usize;
        if header < HEADER_LEN || !header.is_multiple_of(8) || header > bytes.len() {
            return Err(wrong(format!("its header has {header} bytes; expected {HEADER_LEN} or more")));
        }
        let incompatible = le64(bytes, 16).ok_or_else(cut)?;
        if incompatible & !KNOWN_INCOMPATIBLE != 0 {
            return Err(wrong(format!(
                "it uses features {incompatible:#x}, which this forkd does not know (a newer forkd may read it)"
            )));
        }
        let (header_len, data_len) = (le64(bytes, 32).ok_or_else(cut)?, le64(bytes, 40).ok_or_else(cut)?);
        let declared = [48, 52, 56, 60].map(|at| le32(bytes, at).unwrap_or(0) as usize);
        let [count, stored, page, frame] = declared;
        if (count, page, frame) != (files.len(), PAGE_SIZE, FRAME_SIZE) {
            return Err(wrong(format!(
                "{count} files, pages of {page}, frames of {frame} bytes; expected {}, {PAGE_SIZE}, {FRAME_SIZE}",
                files.len()
            )));
        }
        let mut at = header;
        let mut offset = header_len;
        let mut seen = 0;
        let mut parsed = Vec::with_capacity(files.len());
        for (number, (size, root)) in files.iter().enumerate() {
            let frames = frame_count(*size);
            let bitmap = bytes.get(at..at + frames.div_ceil(8)).ok_or_else(cut)?;
            at += bitmap.len();
            if !frames.is_multiple_of(8) && bitmap.last().is_some_and(|last| last >> (frames % 8) != 0) {
                return Err(wrong("it marks frames behind the end of a file"));
            }
            let mut table = Vec::with_capacity(frames);
            for frame in 0..frames {
                if bitmap[frame / 8] >> (frame % 8) & 1 == 0 {
                    table.push(None);
                    continue;
                }
                let entry = bytes.get(at..at + ENTRY_LEN).ok_or_else(cut)?;
                at += ENTRY_LEN;
                let mut hash = [0; 32];
                hash.copy_from_slice(&entry[..32]);
                let sum = le64(entry, 32).ok_or_else(cut)?;
                let len = le32(entry, 40).ok_or_else(cut)?;
                if !(9..=MAX_FRAME_LEN).contains(&(len as usize)) {
                    return Err(wrong(format!("a frame of {len} bytes; at most {MAX_FRAME_LEN} are read")));
                }
                table.push(Some(StoredFrame { hash: FrameHash::from_bytes(hash), sum, offset, len }));
                offset =
                    offset.checked_add(u64::from(len)).ok_or_else(|| wrong("it lies beyond any file"))?;
                seen += 1;
            }
            let file = FileFrames { size: *size, frames: table };
            if file.root() != *root {
                return Err(wrong(format!(
                    "the frames of file {number} do not make the root that is declared"
                )));
            }
            parsed.push(file);
        }
        if at != bytes.len() || seen != stored || offset - header_len != data_len {
            return Err(wrong(format!(
                "{seen} frames of {} bytes in {at} bytes of index; it declares {stored} of {data_len} in {}",
                offset - header_len,
                bytes.len()
            )));
        }
        Ok(Self { header_len, data_len, files: parsed })
    }

    /// Stored frames in the order in which they lie: file, number in the file, frame.
    pub fn stored(&self) -> impl Iterator<Item = (usize, usize, &StoredFrame)> {
        self.files.iter().enumerate().flat_map(|(file, table)| {
            let frames = table.frames.iter().enumerate();
            frames.filter_map(move |(number, frame)| frame.as_ref().map(|frame| (file, number, frame)))
        })
    }
}

fn wrong(message: impl Into<String>) -> FormatError {
    FormatError::Index(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paged::frame_hash;

    fn sample() -> (Index, Vec<(u64, FileRoot)>) {
        let hash = |seed: u8| frame_hash(FRAME_SIZE, &[seed; 32], &[seed]);
        let mut offset = 5000;
        let mut frame = |seed: u8, len: u32| {
            let stored = StoredFrame { hash: hash(seed), sum: seed.into(), offset, len };
            offset += u64::from(len);
            Some(stored)
        };
        let frames = vec![frame(1, 100), None, frame(2, 9), None, None, None, None, None, frame(3, 1 << 20)];
        let files = vec![
            FileFrames { size: (8 << 20) + 77, frames },
            FileFrames { size: 0, frames: vec![] },
            FileFrames { size: 1 << 20, frames: vec![None] },
        ];
        let declared = files.iter().map(|file| (file.size, file.root())).collect();
        (Index { header_len: 5000, data_len: 109 + (1 << 20), files }, declared)
    }

    #[test]
    fn round_trips() {
        let (index, declared) = sample();
        let bytes = index.to_bytes();
        assert_eq!(bytes.len(), Index::len_for(&[(9, 3), (0, 0), (1, 0)]));
        assert!(bytes.len() as u64 <= Index::max_len(&[(8 << 20) + 77, 0, 1 << 20]));
        assert_eq!(Index::parse(&bytes, &declared), Ok(index));
    }

    #[test]
    fn every_flipped_bit_is_refused_or_unused() {
        let (index, declared) = sample();
        let bytes = index.to_bytes();
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            // Not checked here but by what the manifest says of the whole index: reserved bytes, compatible features, sums,
            // lengths that make up for each other, and where the header ends.
            if let Ok(parsed) = Index::parse(&flipped, &declared) {
                let unused = (12..16).contains(&(at / 8)) || (24..40).contains(&(at / 8));
                let sums = parsed.files[0].frames.iter().flatten().map(|frame| frame.sum);
                assert!(unused || !sums.eq([1, 2, 3]), "bit {at}");
            }
        }
        for len in 0..bytes.len() {
            assert!(Index::parse(&bytes[..len], &declared).is_err(), "{len}");
        }
    }

    #[test]
    fn a_longer_header_is_passed_over_and_unknown_needs_are_refused() {
        let (index, declared) = sample();
        let mut bytes = index.to_bytes();
        bytes[8] = 72;
        bytes.splice(64..64, [9; 8]);
        assert_eq!(Index::parse(&bytes, &declared), Ok(index.clone()));
        let mut bytes = index.to_bytes();
        bytes[16] = 1;
        assert!(Index::parse(&bytes, &declared).unwrap_err().to_string().contains("newer forkd"));
        let mut bytes = index.to_bytes();
        bytes[24] = 1;
        assert!(Index::parse(&bytes, &declared).is_ok());
    }
}
