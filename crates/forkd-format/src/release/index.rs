//! The index of a release: which frames each blob has, what they decode to, and what they need.

use super::file_reader::{FILE_LEN, FileReader, cut, wrong};
use super::manifest::MAX_BLOBS;
use super::paged_file::PagedFile;
use crate::error::FormatError;
use crate::little_endian::{le32, le64};
use crate::paged::FRAME_SIZE;
use crate::sizes::PAGE_SIZE;

const MAGIC: &[u8; 8] = b"forkdrel";
/// What we write; a reader takes a longer one and passes over what it does not know.
const HEADER_LEN: usize = 48;
const EDITION: u32 = 1;
/// Features without which a release cannot be read. None is defined yet.
const KNOWN_INCOMPATIBLE: u64 = 0;

/// The files of a release, each behind those that it refers to, working sets first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseIndex {
    /// In that order.
    pub files: Vec<PagedFile>,
}

impl ReleaseIndex {
    /// As it is uploaded.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(HEADER_LEN as u32).to_le_bytes());
        out.extend_from_slice(&EDITION.to_le_bytes());
        out.extend_from_slice(&0_u64.to_le_bytes());
        out.extend_from_slice(&0_u64.to_le_bytes());
        out.extend_from_slice(&(PAGE_SIZE as u32).to_le_bytes());
        out.extend_from_slice(&(FRAME_SIZE as u32).to_le_bytes());
        out.extend_from_slice(&(self.files.len() as u32).to_le_bytes());
        out.extend_from_slice(&0_u32.to_le_bytes());
        debug_assert_eq!(out.len(), HEADER_LEN);
        self.files.iter().for_each(|file| file.put(&mut out));
        out
    }

    /// Reads an index, and holds it to the rules that it can be held to by itself.
    ///
    /// # Errors
    /// [`FormatError::Release`] where it breaks a rule of `docs/format/release.md`.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.get(..8) != Some(MAGIC) {
            return Err(wrong("it does not begin like one"));
        }
        let [header, edition] = [8, 12].map(|at| le32(bytes, at).unwrap_or(0));
        if edition != EDITION {
            return Err(wrong(format!(
                "it is of edition {edition}, which this forkd does not know (a newer forkd may read it)"
            )));
        }
        let header = header as usize;
        if header < HEADER_LEN || !header.is_multiple_of(8) || header > bytes.len() {
            return Err(wrong(format!("its header has {header} bytes; expected {HEADER_LEN} or more")));
        }
        let incompatible = le64(bytes, 16).ok_or_else(cut)?;
        if incompatible & !KNOWN_INCOMPATIBLE != 0 {
            return Err(wrong(format!(
                "it uses features {incompatible:#x}, which this forkd does not know (a newer forkd may read it)"
            )));
        }
        let [page, frame, count] = [32, 36, 40].map(|at| le32(bytes, at).unwrap_or(0) as usize);
        if (page, frame) != (PAGE_SIZE, FRAME_SIZE) {
            return Err(wrong(format!(
                "pages of {page}, frames of {frame} bytes; expected {PAGE_SIZE} and {FRAME_SIZE}"
            )));
        }
        if count > MAX_BLOBS || count > bytes.len() / FILE_LEN {
            return Err(wrong(format!("{count} files; at most {MAX_BLOBS} are read")));
        }
        let mut reader = FileReader::new(bytes, header);
        let mut files = Vec::with_capacity(count);
        for number in 0..count {
            let file = reader.read().map_err(|e| within(number, e))?;
            // A fuzzer makes no hashes.
            if !cfg!(fuzzing) && file.computed_root() != file.root {
                return Err(wrong(format!("the frames of file {number} do not make its root")));
            }
            files.push(file);
        }
        if !reader.is_at_end() {
            return Err(wrong("something follows its last file"));
        }
        Ok(Self { files })
    }
}

fn within(number: usize, error: FormatError) -> FormatError {
    match error {
        FormatError::Release(why) => {
            wrong(format!("file {number}: {}", why.trim_start_matches("the index: ")))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::paged_file::{FileBlob, FileFrame, FrameRef};
    use super::*;
    use crate::digest::Digest;
    use crate::paged::{FileRoot, SetRun, frame_hash};

    pub(super) fn file(frames: usize, needs: &[(u32, u32)]) -> PagedFile {
        let frame = |number: usize| {
            let refs = needs.iter().map(|(source, frame)| FrameRef { source: *source, frame: *frame });
            number.is_multiple_of(2).then(|| FileFrame {
                hash: frame_hash(FRAME_SIZE, &[number as u8; 32], &[number as u8]),
                sum: number as u64,
                len: 9 + number as u32,
                needs: if number + 1 == frames { refs.collect() } else { Box::default() },
            })
        };
        let frames: Vec<Option<FileFrame>> = (0..frames).map(frame).collect();
        let mut file = PagedFile {
            root: FileRoot::from_bytes([1; 32]),
            size: (frames.len() as u64) << 20,
            blobs: frames
                .iter()
                .flatten()
                .map(|frame| FileBlob { digest: Digest::of(b"blob"), len: u64::from(frame.len) })
                .collect(),
            sources: vec![None, Some(FileRoot::from_bytes([2; 32])), Some(FileRoot::from_bytes([3; 32]))],
            map: Vec::new(),
            frames,
        };
        file.root = file.computed_root();
        file
    }

    fn sample() -> ReleaseIndex {
        let mut set = file(1, &[(1, 5)]);
        set.size = 3 * 4096;
        set.map = vec![SetRun { file: 2, page: 600, count: 2 }, SetRun { file: 2, page: 7, count: 1 }];
        set.root = set.computed_root();
        ReleaseIndex { files: vec![set, file(5, &[(1, 0), (1, 7), (2, 3)]), file(0, &[])] }
    }

    #[test]
    fn round_trips() {
        assert_eq!(ReleaseIndex::parse(&sample().to_bytes()), Ok(sample()));
        assert_eq!(ReleaseIndex::parse(&ReleaseIndex::default().to_bytes()), Ok(ReleaseIndex::default()));
    }

    #[test]
    fn every_cut_is_refused_and_no_flipped_bit_changes_what_a_root_says() {
        let bytes = sample().to_bytes();
        for len in 0..bytes.len() {
            assert!(ReleaseIndex::parse(&bytes[..len]).is_err(), "{len}");
        }
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            if let Ok(parsed) = ReleaseIndex::parse(&flipped) {
                let roots =
                    |index: &ReleaseIndex| index.files.iter().map(|file| file.root).collect::<Vec<_>>();
                assert_eq!(roots(&parsed), roots(&sample()), "bit {at}");
            }
        }
    }

    fn refused(edit: impl Fn(&mut ReleaseIndex)) -> String {
        let mut index = sample();
        edit(&mut index);
        ReleaseIndex::parse(&index.to_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let needs = |refs: Vec<(u32, u32)>| {
            move |index: &mut ReleaseIndex| {
                let refs = refs.iter().map(|(source, frame)| FrameRef { source: *source, frame: *frame });
                index.files[1].frames[4].as_mut().unwrap().needs = refs.collect();
            }
        };
        assert!(refused(needs(vec![(0, 1)])).contains("source 0"));
        assert!(refused(needs(vec![(3, 1)])).contains("source 3"));
        assert!(refused(needs(vec![(1, 1), (1, 1)])).contains("twice"));
        assert!(refused(needs((0..65).map(|frame| (1, frame)).collect())).contains("at most 64"));
        assert!(refused(|index| index.files[1].blobs[1].len += 1).contains("cut"));
        assert!(refused(|index| index.files[1].frames[0].as_mut().unwrap().len = 8).contains("8 bytes"));
        let longer = |index: &mut ReleaseIndex| {
            let blob = index.files[1].blobs[0];
            index.files[1].blobs.push(blob);
        };
        assert!(refused(longer).contains("cut"));
        assert!(refused(|index| index.files[1].root = FileRoot::from_bytes([9; 32])).contains("root"));
        assert!(refused(|index| index.files[0].map[0].count = 3).contains("working set"));
        assert!(refused(|index| index.files[0].map[0].file = 0).contains("working set"));
        assert!(refused(|index| index.files[0].map[1].page = 600).contains("twice"));
    }

    #[test]
    fn a_longer_header_is_passed_over_and_unknown_needs_are_refused() {
        let mut bytes = sample().to_bytes();
        bytes[8] = 56;
        bytes.splice(48..48, [9; 8]);
        assert_eq!(ReleaseIndex::parse(&bytes), Ok(sample()));
        for (at, value) in [(12, 2), (16, 1)] {
            let mut bytes = sample().to_bytes();
            bytes[at] = value;
            assert!(ReleaseIndex::parse(&bytes).unwrap_err().to_string().contains("newer forkd"));
        }
    }
}
