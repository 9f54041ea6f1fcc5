//! The working set: the pages that a guest needs first, by themselves at the beginning of a pack.

use super::file_frames::FileFrames;
use super::varint::{NumberReader, put, put_signed};
use crate::error::FormatError;
use crate::sizes::PAGE_SIZE;

/// Pages of one file that are needed one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetRun {
    /// The file, as the manifest counts.
    pub file: usize,
    /// Its first page, in pages of [`PAGE_SIZE`].
    pub page: u64,
    /// How many pages follow each other, from 1.
    pub count: u64,
}

/// Pages of a pack's files in the order in which a guest needs them, and the frames that hold them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkingSet {
    /// Which pages they are; each once.
    pub runs: Vec<SetRun>,
    /// The pages, joined in that order, as a file by itself.
    pub frames: FileFrames,
}

impl WorkingSet {
    /// The most pages that a set may have: 256 MiB.
    pub const MAX_PAGES: u64 = 1 << 16;

    /// A set of no pages.
    #[must_use]
    pub fn empty() -> Self {
        Self { runs: Vec::new(), frames: FileFrames { size: 0, frames: Vec::new() } }
    }

    /// The pages of runs.
    #[must_use]
    pub fn pages_of(runs: &[SetRun]) -> u64 {
        runs.iter().map(|run| run.count).sum()
    }

    /// The runs as an index has them.
    #[must_use]
    pub fn map_bytes(runs: &[SetRun]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut next = 0_u64;
        for run in runs {
            put(&mut out, run.file as u64);
            put_signed(&mut out, run.page.wrapping_sub(next) as i64);
            put(&mut out, run.count);
            next = run.page.wrapping_add(run.count);
        }
        out
    }

    /// Reads runs that name so many pages of files of these sizes.
    pub(crate) fn parse_map(bytes: &[u8], pages: u64, sizes: &[u64]) -> Result<Vec<SetRun>, FormatError> {
        let wrong = |message: &str| FormatError::Index(format!("its working set {message}"));
        if pages > Self::MAX_PAGES {
            return Err(wrong(&format!("has {pages} pages; at most {} are read", Self::MAX_PAGES)));
        }
        let mut reader = NumberReader { bytes, at: 0 };
        let (mut runs, mut next, mut total) = (Vec::new(), 0_u64, 0);
        let mut read = |next: u64| {
            let file = usize::try_from(reader.number()?).ok()?;
            let page = next.checked_add_signed(reader.signed()?)?;
            Some((SetRun { file, page, count: reader.number()? }, reader.at))
        };
        let mut at = 0;
        while at < bytes.len() {
            let (run, read_to) = read(next).ok_or_else(|| wrong("names a page that cannot be"))?;
            at = read_to;
            let known = sizes.get(run.file).map_or(0, |size| size / PAGE_SIZE as u64);
            let end = run.page.checked_add(run.count).filter(|end| *end <= known && run.count > 0);
            next = end.ok_or_else(|| wrong("names pages that no file has"))?;
            total += run.count;
            if total > pages {
                break;
            }
            runs.push(run);
        }
        if total != pages {
            return Err(wrong(&format!("names other pages than its {pages}")));
        }
        let mut sorted: Vec<(usize, u64, u64)> =
            runs.iter().map(|run| (run.file, run.page, run.page + run.count)).collect();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0].0 == pair[1].0 && pair[0].2 > pair[1].1) {
            return Err(wrong("names a page twice"));
        }
        Ok(runs)
    }

    /// Which page of which file each of its pages is.
    pub fn pages(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.runs.iter().flat_map(|run| (run.page..run.page + run.count).map(|page| (run.file, page)))
    }

    /// Bytes of a set of so many pages.
    #[must_use]
    pub fn size(pages: u64) -> u64 {
        pages * PAGE_SIZE as u64
    }
}
