//! The index of a release: which frames each blob has, what they decode to, and what they need.

use super::file_reader::{FILE_LEN, FileReader, cut, wrong};
use super::manifest::MAX_BLOBS;
use crate::digest::Digest;
use crate::error::FormatError;
use crate::little_endian::{le32, le64};
use crate::paged::{
    FRAME_SIZE, FileRoot, FrameHash, RootHasher, SetRun, WorkingSet, frame_len, zero_frame_hash,
};
use crate::paged::{put, put_signed};
use crate::sizes::PAGE_SIZE;

const MAGIC: &[u8; 8] = b"forkdrel";
/// What we write; a reader takes a longer one and passes over what it does not know.
const HEADER_LEN: usize = 48;
const EDITION: u32 = 1;
/// Features without which a release cannot be read. None is defined yet.
const KNOWN_INCOMPATIBLE: u64 = 0;

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

/// The files of a release, each behind those that it refers to, working sets first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseIndex {
    /// In that order.
    pub files: Vec<PagedFile>,
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

    fn put(&self, out: &mut Vec<u8>) {
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
            if file.computed_root() != file.root {
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
    use super::*;
    use crate::paged::frame_hash;

    pub(super) fn file(frames: usize, needs: &[(u32, u32)]) -> PagedFile {
        let frame = |number: usize| {
            let refs = needs.iter().map(|(source, frame)| FrameRef { source: *source, frame: *frame });
            (number % 2 == 0).then(|| FileFrame {
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
