//! The first part of a frame: where each of its pages comes from.

use super::sizes::{FRAME_PAGES, MAX_PREFIX_PAGES, page_count};
use super::varint::{NumberReader, put, put_signed};
use crate::error::FormatError;
use crate::sizes::PAGE_SIZE;

/// Pages of one source, one after another. Sources count from 0: first the base files that the manifest names, then the files of
/// the pack itself, in its order, then its working set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefRun {
    /// Counted as above.
    pub source: usize,
    /// Its first page, in pages of [`PAGE_SIZE`].
    pub page: u64,
    /// How many pages follow each other, from 1.
    pub count: usize,
}

/// What a run of pages is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// Zeros, which stand nowhere.
    Zero,
    /// The next bytes of the frame's zstd part.
    Data,
    /// The same as pages of a source, from this one on.
    Copy {
        /// Counted as in [`RefRun`].
        source: usize,
        /// In pages from the source's beginning.
        page: u64,
    },
}

/// Pages of the frame, one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRun {
    /// Where they come from.
    pub kind: RunKind,
    /// How many pages of the frame, from 1.
    pub count: usize,
}

/// A run and where it begins in the frame, in pages.
pub type PlacedRun = (usize, PageRun);

/// Where the pages of a frame come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The pages that, one after another, are the prefix with which the zstd part was compressed.
    pub prefix: Vec<RefRun>,
    /// All pages of the frame, in order.
    pub runs: Vec<PageRun>,
}

impl Plan {
    /// What stands at the beginning of the frame: its own length, the prefix, the runs, in LEB128 numbers.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let mut last = Position::default();
        put(&mut body, self.prefix.len() as u64);
        for run in &self.prefix {
            put(&mut body, run.count as u64);
            last.put(&mut body, run.source, run.page, run.count);
        }
        let mut last = Position::default();
        for PageRun { kind, count } in &self.runs {
            let code = match kind {
                RunKind::Zero => 0,
                RunKind::Data => 1,
                RunKind::Copy { .. } => 2,
            };
            put(&mut body, (*count as u64) << 2 | code);
            if let RunKind::Copy { source, page } = kind {
                last.put(&mut body, *source, *page, *count);
            }
        }
        let mut out = Vec::new();
        put(&mut out, body.len() as u64);
        out.extend(body);
        out
    }

    /// Reads the plan at the beginning of a frame that covers `len` bytes; `pages` says how many whole pages a source has. Gives
    /// the plan and how many bytes it takes.
    ///
    /// # Errors
    /// [`FormatError::Frame`] where it breaks a rule of `docs/format/pack-v3.md`.
    pub fn parse(
        frame: &[u8],
        len: usize,
        pages: impl Fn(usize) -> Option<u64>,
    ) -> Result<(Self, usize), FormatError> {
        let wrong = |message: &str| FormatError::Frame(format!("its plan {message}"));
        let mut whole = NumberReader { bytes: frame, at: 0 };
        let body = whole.number().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| wrong("is cut off"))?;
        let end = whole.at.checked_add(body).filter(|end| *end <= frame.len());
        let end = end.ok_or_else(|| wrong("is longer than the frame"))?;
        let mut reader = NumberReader { bytes: &frame[..end], at: whole.at };
        let number = |reader: &mut NumberReader<'_>| reader.number().ok_or_else(|| wrong("is cut off"));
        let source_run = |reader: &mut NumberReader<'_>, last: &mut Position, count: usize| {
            let (source, page) =
                last.read(reader, count).ok_or_else(|| wrong("names a page that cannot be"))?;
            let known =
                pages(source).ok_or_else(|| wrong(&format!("names source {source}, which is none")))?;
            if page.checked_add(count as u64).is_none_or(|end| end > known) {
                let there =
                    format!("names pages {page} to {page}+{count} of source {source}, which has {known}");
                return Err(wrong(&there));
            }
            Ok((source, page))
        };
        let mut plan = Self::default();
        let (mut last, mut total) = (Position::default(), 0);
        let runs = number(&mut reader)?;
        if runs > MAX_PREFIX_PAGES as u64 {
            return Err(wrong("has too long a prefix"));
        }
        for _ in 0..runs {
            let count = number(&mut reader)?;
            if count == 0 || count > (MAX_PREFIX_PAGES - total) as u64 {
                return Err(wrong("has an empty or too long prefix run"));
            }
            let count = count as usize;
            let (source, page) = source_run(&mut reader, &mut last, count)?;
            plan.prefix.push(RefRun { source, page, count });
            total += count;
        }
        let all = page_count(len);
        let (mut last, mut at) = (Position::default(), 0);
        while at < all {
            let code = number(&mut reader)?;
            let count = code >> 2;
            if count == 0 || count > (all - at).min(FRAME_PAGES) as u64 {
                return Err(wrong("has a run of no pages or of too many"));
            }
            let count = count as usize;
            let kind = match code & 3 {
                0 => RunKind::Zero,
                1 => RunKind::Data,
                2 => {
                    let (source, page) = source_run(&mut reader, &mut last, count)?;
                    RunKind::Copy { source, page }
                }
                _ => return Err(wrong("has a run of no known kind")),
            };
            at += count;
            // A source gives whole pages only.
            if matches!(kind, RunKind::Copy { .. }) && at == all && !len.is_multiple_of(PAGE_SIZE) {
                return Err(wrong("copies a page that is not whole"));
            }
            plan.runs.push(PageRun { kind, count });
        }
        if reader.at != end {
            return Err(wrong("goes on behind the last page"));
        }
        Ok((plan, end))
    }

    /// The runs and where each begins.
    pub fn placed(&self) -> impl Iterator<Item = PlacedRun> + '_ {
        self.runs.iter().scan(0, |at, run| {
            let begin = *at;
            *at += run.count;
            Some((begin, *run))
        })
    }

    /// Gives sources other numbers.
    pub fn renumber(&mut self, number: impl Fn(usize) -> usize) {
        self.prefix.iter_mut().for_each(|run| run.source = number(run.source));
        for run in &mut self.runs {
            if let RunKind::Copy { source, .. } = &mut run.kind {
                *source = number(*source);
            }
        }
    }

    /// All pages of sources that the frame needs, and whether they belong to the prefix.
    pub fn references(&self) -> impl Iterator<Item = (RefRun, bool)> + '_ {
        let copies = self.runs.iter().filter_map(|run| match run.kind {
            RunKind::Copy { source, page } => Some((RefRun { source, page, count: run.count }, false)),
            _ => None,
        });
        self.prefix.iter().map(|run| (*run, true)).chain(copies)
    }

    /// Bytes that the zstd part decodes to, in a frame that covers `len` bytes.
    #[must_use]
    pub fn data_len(&self, len: usize) -> usize {
        let ends = self.placed().filter(|(_, run)| run.kind == RunKind::Data);
        ends.map(|(at, run)| {
            let (from, to) = (at * PAGE_SIZE, (at + run.count) * PAGE_SIZE);
            to.min(len) - from.min(len)
        })
        .sum()
    }

    /// Which pages are not zero: a bit a page, lowest first.
    #[must_use]
    pub fn bitmap(&self, len: usize) -> Vec<u8> {
        let mut bitmap = vec![0; page_count(len).div_ceil(8)];
        for (at, run) in self.placed().filter(|(_, run)| run.kind != RunKind::Zero) {
            (at..at + run.count).for_each(|page| bitmap[page / 8] |= 1 << (page % 8));
        }
        bitmap
    }
}

/// The page behind the last one named: the next is written as its distance from there.
#[derive(Default)]
struct Position {
    source: usize,
    next: u64,
}

impl Position {
    fn put(&mut self, out: &mut Vec<u8>, source: usize, page: u64, count: usize) {
        let base = if source == self.source { self.next } else { 0 };
        put(out, source as u64);
        put_signed(out, page.wrapping_sub(base) as i64);
        *self = Self { source, next: page.wrapping_add(count as u64) };
    }

    fn read(&mut self, reader: &mut NumberReader<'_>, count: usize) -> Option<(usize, u64)> {
        let source = usize::try_from(reader.number()?).ok()?;
        let distance = reader.signed()?;
        let base = if source == self.source { self.next } else { 0 };
        let page = base.checked_add_signed(distance)?;
        *self = Self { source, next: page.checked_add(count as u64)? };
        Some((source, page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(source: usize) -> Option<u64> {
        (source < 4).then_some(1000)
    }

    fn sample() -> Plan {
        Plan {
            prefix: vec![
                RefRun { source: 2, page: 900, count: 3 },
                RefRun { source: 2, page: 5, count: 1 },
                RefRun { source: 0, page: 999, count: 1 },
            ],
            runs: vec![
                PageRun { kind: RunKind::Zero, count: 100 },
                PageRun { kind: RunKind::Data, count: 56 },
                PageRun { kind: RunKind::Copy { source: 3, page: 0 }, count: 90 },
                PageRun { kind: RunKind::Copy { source: 1, page: 17 }, count: 10 },
            ],
        }
    }

    #[test]
    fn round_trips() {
        let plan = sample();
        let mut bytes = plan.to_bytes();
        let len = bytes.len();
        bytes.extend_from_slice(b"zstd part");
        assert_eq!(Plan::parse(&bytes, 1 << 20, pages), Ok((plan.clone(), len)));
        assert_eq!(plan.data_len(1 << 20), 56 * 4096);
        assert_eq!(plan.bitmap(1 << 20).iter().map(|byte| byte.count_ones()).sum::<u32>(), 156);
        for cut in 0..len {
            assert!(Plan::parse(&bytes[..cut], 1 << 20, pages).is_err());
        }
    }

    #[test]
    fn the_last_page_may_be_short_where_it_is_data() {
        let data = Plan { prefix: vec![], runs: vec![PageRun { kind: RunKind::Data, count: 2 }] };
        assert_eq!(data.data_len(4100), 4100);
        assert!(Plan::parse(&data.to_bytes(), 4100, pages).is_ok());
        let copy = PageRun { kind: RunKind::Copy { source: 0, page: 0 }, count: 2 };
        let copy = Plan { prefix: vec![], runs: vec![copy] };
        assert!(Plan::parse(&copy.to_bytes(), 8192, pages).is_ok());
        assert!(Plan::parse(&copy.to_bytes(), 4100, pages).is_err());
    }

    #[test]
    fn refuses_what_leads_elsewhere() {
        let refused = |edit: &dyn Fn(&mut Plan)| {
            let mut plan = sample();
            edit(&mut plan);
            assert!(Plan::parse(&plan.to_bytes(), 1 << 20, pages).is_err(), "{plan:?}");
        };
        refused(&|plan| plan.prefix[0].source = 4);
        refused(&|plan| plan.prefix[0].page = 998);
        refused(&|plan| plan.prefix[0].page = u64::MAX - 1);
        refused(&|plan| plan.prefix[0].count = 0);
        refused(&|plan| plan.prefix[0].count = 1025);
        refused(&|plan| plan.runs[0].count = 99);
        refused(&|plan| plan.runs[0].count = 101);
        refused(&|plan| plan.runs[1].count = 0);
        refused(&|plan| plan.runs[2].kind = RunKind::Copy { source: 9, page: 0 });
        refused(&|plan| plan.runs[3].kind = RunKind::Copy { source: 1, page: 991 });
        assert!(Plan::parse(&[0x80; 11], 1 << 20, pages).is_err());
        // Longer than it must be.
        assert!(Plan::parse(&[3, 0, 0x81, 0x88, 0], 1 << 20, pages).is_err());
    }
}
