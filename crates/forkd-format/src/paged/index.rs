//! The table of a pack's frames.

use super::file_frames::{FileFrames, StoredFrame};
use super::file_root::FileRoot;
use super::sizes::{FRAME_SIZE, MAX_NEEDS, frame_count};
use super::table_reader::{ENTRY_LEN, Parsed, TableReader, cut, wrong};
use super::varint::{NumberReader, put};
use super::working_set::{SetRun, WorkingSet};
use crate::little_endian::{le32, le64};
use crate::sizes::PAGE_SIZE;

const MAGIC: &[u8; 8] = b"forkdix3";
/// What we write; a reader takes a longer one and passes over what it does not know.
const HEADER_LEN: usize = 72;
/// The present edition of the format. The first one, which no hub ever held, had zeros in its place.
const EDITION: u32 = 2;
/// What a writer keeps room for in an entry, for the frames that it needs: a number, and so many of at most three bytes.
const NEEDS_ROOM: usize = 1 + 3 * Index::NEEDS_A_FRAME;

/// Features without which a pack cannot be read. None is defined yet.
const KNOWN_INCOMPATIBLE: u64 = 0;

/// Where each frame lies and what it decodes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Bytes before the first frame.
    pub header_len: u64,
    /// Bytes of all frames together.
    pub data_len: u64,
    /// What stands before the frames of the files.
    pub set: WorkingSet,
    /// Files in the order of the manifest.
    pub files: Vec<FileFrames>,
}

impl Index {
    /// How many frames a frame needs on average, at most, in the packs that we write: for so many room is kept.
    pub const NEEDS_A_FRAME: usize = 8;

    /// The most bytes that an index of files of these sizes may take: what a reader allows for one.
    #[must_use]
    pub fn max_len(sizes: &[u64]) -> u64 {
        let entry = (ENTRY_LEN + 1 + 4 * MAX_NEEDS) as u64;
        let set = (WorkingSet::MAX_PAGES * 16)
            .min(16 * sizes.iter().map(|size| size / PAGE_SIZE as u64).sum::<u64>());
        let frames = sizes
            .iter()
            .map(|size| frame_count(*size) as u64)
            .chain([frame_count(WorkingSet::size(WorkingSet::MAX_PAGES).min(sizes.iter().sum())) as u64]);
        4096 + set + frames.map(|count| count.div_ceil(8) + count * entry).sum::<u64>()
    }

    /// Room for the index of a working set and of files that have so many frames, of which so many are stored.
    #[must_use]
    pub fn room_for(set: &[SetRun], counts: &[(usize, usize)]) -> usize {
        let table = |(all, stored): &(usize, usize)| all.div_ceil(8) + stored * (ENTRY_LEN + NEEDS_ROOM);
        let of_set = frame_count(WorkingSet::size(WorkingSet::pages_of(set)));
        let tables: usize = counts.iter().map(table).sum();
        HEADER_LEN + WorkingSet::map_bytes(set).len() + table(&(of_set, of_set)) + tables
    }

    /// What stands in the pack, without the skippable frame's header and padding.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let map = WorkingSet::map_bytes(&self.set.runs);
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(HEADER_LEN as u32).to_le_bytes());
        out.extend_from_slice(&EDITION.to_le_bytes());
        out.extend_from_slice(&0_u64.to_le_bytes());
        out.extend_from_slice(&0_u64.to_le_bytes());
        out.extend_from_slice(&self.header_len.to_le_bytes());
        out.extend_from_slice(&self.data_len.to_le_bytes());
        out.extend_from_slice(&(self.files.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.stored().count() as u32).to_le_bytes());
        out.extend_from_slice(&(PAGE_SIZE as u32).to_le_bytes());
        out.extend_from_slice(&(FRAME_SIZE as u32).to_le_bytes());
        out.extend_from_slice(&(WorkingSet::pages_of(&self.set.runs) as u32).to_le_bytes());
        out.extend_from_slice(&(map.len() as u32).to_le_bytes());
        debug_assert_eq!(out.len(), HEADER_LEN);
        out.extend_from_slice(&map);
        let mut id = 0;
        for file in std::iter::once(&self.set.frames).chain(&self.files) {
            let at = out.len();
            out.resize(at + file.frames.len().div_ceil(8), 0);
            for (number, _) in file.frames.iter().enumerate().filter(|(_, frame)| frame.is_some()) {
                out[at + number / 8] |= 1 << (number % 8);
            }
            for frame in file.frames.iter().flatten() {
                out.extend_from_slice(frame.hash.as_bytes());
                out.extend_from_slice(&frame.sum.to_le_bytes());
                out.extend_from_slice(&frame.len.to_le_bytes());
                put(&mut out, frame.needs.len() as u64);
                let mut last = id;
                for need in frame.needs.iter().rev() {
                    put(&mut out, u64::from(last - need));
                    last = *need;
                }
                id += 1;
            }
        }
        out
    }

    /// Reads an index, and holds it against the sizes and roots that the manifest declares for its files.
    ///
    /// # Errors
    /// [`crate::FormatError::Index`] where it breaks a rule of `docs/format/pack-v3.md`.
    pub fn parse(bytes: &[u8], files: &[(u64, FileRoot)]) -> Parsed<Self> {
        if bytes.get(..8) != Some(MAGIC) {
            return Err(wrong("it does not begin like one"));
        }
        let header = le32(bytes, 8).ok_or_else(cut)? as usize;
        let edition = le32(bytes, 12).ok_or_else(cut)?;
        if edition != EDITION {
            return Err(wrong(match edition {
                0 => "the pack is of the first edition of format 3, which is read no more: pack the snapshot again".into(),
                newer => format!("it is of edition {newer}, which this forkd does not know (a newer forkd may read it)"),
            }));
        }
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
        let declared = [48, 52, 56, 60, 64, 68].map(|at| le32(bytes, at).unwrap_or(0) as usize);
        let [count, stored, page, frame, set_pages, map_len] = declared;
        if (count, page, frame) != (files.len(), PAGE_SIZE, FRAME_SIZE) {
            return Err(wrong(format!(
                "{count} files, pages of {page}, frames of {frame} bytes; expected {}, {PAGE_SIZE}, {FRAME_SIZE}",
                files.len()
            )));
        }
        let map = header.checked_add(map_len).and_then(|end| bytes.get(header..end)).ok_or_else(cut)?;
        let sizes: Vec<u64> = files.iter().map(|(size, _)| *size).collect();
        let runs = WorkingSet::parse_map(map, set_pages as u64, &sizes)?;
        let mut tables = TableReader {
            reader: NumberReader { bytes, at: header + map_len },
            offset: header_len,
            depths: Vec::new(),
            set: None,
        };
        let frames = tables.read(WorkingSet::size(set_pages as u64))?;
        tables.set = Some(tables.depths.len() as u64);
        let set = WorkingSet { runs, frames };
        let mut parsed = Vec::with_capacity(files.len());
        for (number, (size, root)) in files.iter().enumerate() {
            let file = tables.read(*size)?;
            if file.root() != *root {
                return Err(wrong(format!(
                    "the frames of file {number} do not make the root that is declared"
                )));
            }
            parsed.push(file);
        }
        let (at, seen, data) = (tables.reader.at, tables.depths.len(), tables.offset - header_len);
        if at != bytes.len() || seen != stored || data != data_len {
            return Err(wrong(format!(
                "{seen} frames of {data} bytes in {at} bytes of index; it declares {stored} of {data_len} in {}",
                bytes.len()
            )));
        }
        let zero = set.pages().find(|(file, page)| {
            parsed[*file].frames[(page * PAGE_SIZE as u64 / FRAME_SIZE as u64) as usize].is_none()
        });
        match zero {
            Some((file, page)) => {
                Err(wrong(format!("its working set has page {page} of file {file}, which is zero")))
            }
            None => Ok(Self { header_len, data_len, set, files: parsed }),
        }
    }

    /// Stored frames in the order in which they lie: file, number in the file, frame. The working set counts as the file behind the
    /// last one.
    pub fn stored(&self) -> impl Iterator<Item = (usize, usize, &StoredFrame)> {
        let set = std::iter::once((self.files.len(), &self.set.frames));
        set.chain(self.files.iter().enumerate()).flat_map(|(file, table)| {
            let frames = table.frames.iter().enumerate();
            frames.filter_map(move |(number, frame)| frame.as_ref().map(|frame| (file, number, frame)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paged::frame_hash;

    fn sample() -> (Index, Vec<(u64, FileRoot)>) {
        let hash = |seed: u8| frame_hash(FRAME_SIZE, &[seed; 32], &[seed]);
        let mut offset = 5000;
        let mut frame = |seed: u8, len: u32, needs: &[u32]| {
            let stored = StoredFrame { hash: hash(seed), sum: seed.into(), offset, len, needs: needs.into() };
            offset += u64::from(len);
            Some(stored)
        };
        let runs = vec![SetRun { file: 0, page: 600, count: 2 }, SetRun { file: 0, page: 7, count: 1 }];
        let set = WorkingSet { runs, frames: FileFrames { size: 3 * 4096, frames: vec![frame(9, 50, &[])] } };
        let frames = vec![
            frame(1, 100, &[]),
            None,
            frame(2, 9, &[1]),
            None,
            None,
            None,
            None,
            None,
            frame(3, 1 << 20, &[1, 2]),
        ];
        let files = vec![
            FileFrames { size: (8 << 20) + 77, frames },
            FileFrames { size: 0, frames: vec![] },
            FileFrames { size: 1 << 20, frames: vec![None] },
        ];
        let declared = files.iter().map(|file| (file.size, file.root())).collect();
        (Index { header_len: 5000, data_len: 159 + (1 << 20), set, files }, declared)
    }

    #[test]
    fn round_trips() {
        let (index, declared) = sample();
        let bytes = index.to_bytes();
        assert!(bytes.len() <= Index::room_for(&index.set.runs, &[(9, 3), (0, 0), (1, 0)]));
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
            // Not checked here but by what the manifest says of the whole index: compatible features, sums, the set's hashes, other pages
            // and needs that may be, lengths that make up for each other, and where the header ends.
            if let Ok(parsed) = Index::parse(&flipped, &declared) {
                let unused = (24..40).contains(&(at / 8));
                assert!(unused || parsed != index, "bit {at}");
                let hashes = |index: &Index| index.files.iter().map(FileFrames::root).collect::<Vec<_>>();
                assert_eq!(hashes(&parsed), hashes(&index), "bit {at}");
            }
        }
        for len in 0..bytes.len() {
            assert!(Index::parse(&bytes[..len], &declared).is_err(), "{len}");
        }
    }

    /// What the sample is refused for when it was edited.
    fn refused(edit: impl Fn(&mut Index)) -> String {
        let (mut index, declared) = sample();
        edit(&mut index);
        Index::parse(&index.to_bytes(), &declared).unwrap_err().to_string()
    }

    #[test]
    fn frames_need_few_earlier_ones_and_not_deeply() {
        let needs = |index: &mut Index, number: usize, needs: &[u32]| {
            index.files[0].frames[number].as_mut().unwrap().needs = needs.into();
        };
        // Place 0 is the set's.
        assert!(refused(|index| needs(index, 2, &[0])).contains("not before it"));
        assert!(refused(|index| needs(index, 2, &[1, 1])).contains("not before it"));
        assert!(refused(|index| needs(index, 8, &[1; 33])).contains("at most 32"));
        let in_set = |index: &mut Index| index.set.frames.frames[0].as_mut().unwrap().needs = [0].into();
        assert!(refused(in_set).contains("not before it"));
        let frame = |id: u32| {
            let needs = if id == 0 { Box::default() } else { [id - 1].into() };
            Some(StoredFrame {
                hash: frame_hash(FRAME_SIZE, &[1; 32], &[1]),
                sum: 0,
                offset: u64::from(id * 9),
                len: 9,
                needs,
            })
        };
        let deep = |frames: u32| {
            let file = FileFrames { size: u64::from(frames) << 20, frames: (0..frames).map(frame).collect() };
            let declared = [(file.size, file.root())];
            let (set, data_len) = (WorkingSet::empty(), u64::from(frames) * 9);
            let index = Index { header_len: 0, data_len, set, files: vec![file] };
            Index::parse(&index.to_bytes(), &declared)
        };
        assert!(deep(33).is_ok());
        assert!(deep(34).unwrap_err().to_string().contains("at most 32"));
    }

    #[test]
    fn the_working_set_names_pages_that_are_stored_each_once() {
        let set = |runs: &[(usize, u64, u64)]| {
            let runs: Vec<SetRun> = runs
                .iter()
                .map(|(file, page, count)| SetRun { file: *file, page: *page, count: *count })
                .collect();
            move |index: &mut Index| index.set.runs.clone_from(&runs)
        };
        assert!(refused(set(&[(0, 600, 2), (0, 601, 1)])).contains("twice"));
        assert!(refused(set(&[(0, 600, 2), (3, 1, 1)])).contains("no file has"));
        assert!(refused(set(&[(0, 600, 2), (0, 2048, 1)])).contains("no file has"));
        assert!(refused(set(&[(0, 600, 2), (0, u64::MAX, 1)])).contains("names"));
        assert!(refused(set(&[(0, 600, 0), (0, 1, 3)])).contains("no file has"));
        assert!(refused(set(&[(0, 600, 2), (0, 300, 1)])).contains("which is zero"));
        assert!(refused(set(&[(0, 600, 2), (2, 1, 1)])).contains("which is zero"));
        let (mut index, declared) = sample();
        index.set.runs.pop();
        let mut bytes = index.to_bytes();
        bytes[64] = 3;
        assert!(Index::parse(&bytes, &declared).is_err());
        bytes[64..68].copy_from_slice(&(1_u32 << 17).to_le_bytes());
        assert!(Index::parse(&bytes, &declared).unwrap_err().to_string().contains("at most 65536"));
    }

    #[test]
    fn a_longer_header_is_passed_over_and_unknown_needs_are_refused() {
        let (index, declared) = sample();
        let mut bytes = index.to_bytes();
        bytes[8] = 80;
        bytes.splice(72..72, [9; 8]);
        assert_eq!(Index::parse(&bytes, &declared), Ok(index.clone()));
        let mut bytes = index.to_bytes();
        bytes[16] = 1;
        assert!(Index::parse(&bytes, &declared).unwrap_err().to_string().contains("newer forkd"));
        let mut bytes = index.to_bytes();
        bytes[24] = 1;
        assert!(Index::parse(&bytes, &declared).is_ok());
        let mut bytes = index.to_bytes();
        bytes[12] = 0;
        assert!(Index::parse(&bytes, &declared).unwrap_err().to_string().contains("first edition"));
        bytes[12] = 3;
        assert!(Index::parse(&bytes, &declared).unwrap_err().to_string().contains("newer forkd"));
    }
}
