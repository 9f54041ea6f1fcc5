//! Which earlier frames a frame may refer to: few, and none that lies deep, so that a frame can be had without most of the pack.

use crate::pack::paged::page_ref::{PageCandidates, PageRef};
use crate::pack::paged::search::Search;
use forkd_format::PAGE_SIZE;
use forkd_format::paged::{FRAME_PAGES, frame_count};
use std::collections::BTreeMap;

/// What a page takes in the pack where nothing like it is known, in bytes: about a third.
const PAGE_COST: u32 = PAGE_SIZE as u32 / 3;

/// A frame must spare another so many bytes for each frame that has to come with it, or the other does without. Measured (`benches/depth`).
const WORTH: u32 = 600;

/// The same for a frame that must come anyway: what a reference takes.
const WORTH_AT_HAND: u32 = 128;

/// A page of few pieces compresses well by itself.
const FEW_PIECES: u32 = 8;

/// The pages that are like those of one frame.
pub(crate) struct Candidates {
    /// For each whole page that is not zero.
    pages: Vec<PageCandidates>,
}

impl Candidates {
    /// Looks up the pages of a frame's bytes. `place` says where a page that was found is referred to, if it may be.
    pub(crate) fn find(raw: &[u8], search: &Search<'_>, place: impl Fn(PageRef) -> Option<PageRef>) -> Self {
        let whole = raw.chunks_exact(PAGE_SIZE).filter(|page| !forkd_sys::is_zero(page));
        Self { pages: whole.map(|page| search.candidates(page, &place)).collect() }
    }

    /// What the page of this number among the whole ones that are not zero may refer to, the best first; then the one that has most of
    /// what that one lacks.
    pub(crate) fn references(&self, page: usize, needs: &Needs, most: usize) -> Vec<PageRef> {
        let mut found = Vec::new();
        let mut covered = 0_u128;
        let Some(page) = self.pages.get(page) else { return found };
        while found.len() < most {
            let gain = |bits: u128| (bits & !covered).count_ones();
            let allowed = page.found.iter().filter(|(page, _)| needs.allow(*page));
            let best = allowed.max_by_key(|(page, bits)| (gain(*bits), std::cmp::Reverse(*page)));
            let Some((page, bits)) = best.filter(|(_, bits)| gain(*bits) > 0).copied() else { break };
            covered |= bits;
            found.push(page);
        }
        found
    }
}

/// The frames of the pack's files, numbered through, zeros included.
pub(crate) struct FrameNumbers {
    /// The number of the first file as a source.
    own: usize,
    /// The number of each file's first frame, and of the one behind the last.
    first: Vec<u32>,
}

impl FrameNumbers {
    pub(crate) fn new(own: usize, sizes: impl Iterator<Item = u64>) -> Self {
        let mut first = vec![0];
        let mut next = 0;
        for size in sizes {
            next += frame_count(size) as u32;
            first.push(next);
        }
        Self { own, first }
    }

    /// The frame of a file.
    pub(crate) fn of(&self, file: usize, frame: usize) -> u32 {
        self.first[file] + frame as u32
    }

    /// The frame in which a page stands; `None` where that is of no file of the pack.
    pub(crate) fn of_page(&self, page: PageRef) -> Option<u32> {
        let file = page.source.checked_sub(self.own).filter(|file| file + 1 < self.first.len())?;
        Some(self.of(file, (page.page / FRAME_PAGES as u64) as usize))
    }

    /// The source and the frame of it that have a number.
    pub(crate) fn place(&self, number: u32) -> (usize, usize) {
        let file = self.first.partition_point(|first| *first <= number) - 1;
        (self.own + file, (number - self.first[file]) as usize)
    }

    pub(crate) fn count(&self) -> usize {
        self.first.last().map_or(0, |count| *count as usize)
    }
}

/// The frames that a frame may refer to.
#[derive(Clone)]
pub(crate) struct Needs<'a> {
    numbers: &'a FrameNumbers,
    frames: Vec<u32>,
    /// Whether some of them are of files that were written earlier.
    pub(crate) is_delta: bool,
}

impl<'a> Needs<'a> {
    /// Those of a frame that stands by itself.
    pub(crate) fn none(numbers: &'a FrameNumbers) -> Self {
        Self { numbers, frames: Vec::new(), is_delta: false }
    }

    /// Whether a page may be referred to: bases and the working set are there before any frame.
    pub(crate) fn allow(&self, page: PageRef) -> bool {
        self.numbers.of_page(page).is_none_or(|frame| self.frames.binary_search(&frame).is_ok())
    }
}

/// What has to come before a frame can be decoded.
#[derive(Default, Clone)]
struct Closure {
    depth: u8,
    /// Numbers, ascending.
    frames: Vec<u32>,
}

/// Decides for one frame after another.
pub(crate) struct NeedsPlanner<'a> {
    numbers: &'a FrameNumbers,
    limit: NeedsLimit,
    closures: Vec<Closure>,
    /// Frames before this one were written earlier and are likely to be at hand.
    known: u32,
    /// How many frames may be needed by those to come.
    left: usize,
}

/// How much frames may need each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeedsLimit {
    /// How deep; 0: every frame stands by itself.
    pub(crate) depth: u8,
    /// How many a frame may need.
    pub(crate) needs: usize,
    /// How many frames may need on average, where only so much room is kept.
    pub(crate) average: Option<usize>,
}

/// What a page would be spared, by the number of the page among a frame's candidates.
type Savings = Vec<(usize, u32)>;

impl<'a> NeedsPlanner<'a> {
    pub(crate) fn new(numbers: &'a FrameNumbers, limit: NeedsLimit) -> Self {
        Self { numbers, limit, closures: vec![Closure::default(); numbers.count()], known: 0, left: 0 }
    }

    /// Frames that were written earlier: those before `end`, in the order in which they refer to each other.
    pub(crate) fn know(&mut self, end: u32, frames: impl Iterator<Item = (u32, Vec<u32>)>) {
        for (frame, needs) in frames {
            let closure = needs.iter().fold(Closure::default(), |closure, need| self.with(closure, *need));
            self.closures[frame as usize] = closure;
        }
        self.known = end;
    }

    /// A closure and a frame.
    fn with(&self, mut closure: Closure, frame: u32) -> Closure {
        let with = &self.closures[frame as usize];
        closure.depth = closure.depth.max(with.depth + 1);
        closure.frames.extend(with.frames.iter().copied().chain([frame]));
        closure.frames.sort_unstable();
        closure.frames.dedup();
        closure
    }

    /// Takes, one after another, the frame that spares most bytes beyond those that were taken, for each frame that must come with it. The
    /// pages of the working set that a frame has come first.
    pub(crate) fn choose(
        &mut self,
        frame: u32,
        in_set: impl Iterator<Item = PageRef>,
        candidates: &Candidates,
    ) -> Needs<'a> {
        let mut spared = vec![0_u32; candidates.pages.len()];
        let mut offers: BTreeMap<u32, Savings> = BTreeMap::new();
        for (i, page) in candidates.pages.iter().enumerate() {
            for (reference, bits) in &page.found {
                let saving = PAGE_COST * bits.count_ones() / page.pieces.max(FEW_PIECES);
                match self.numbers.of_page(*reference) {
                    None => spared[i] = spared[i].max(saving),
                    Some(other) if self.closures[other as usize].depth < self.limit.depth => {
                        offers.entry(other).or_default().push((i, saving));
                    }
                    Some(_) => {}
                }
            }
        }
        let more = self.limit.average.unwrap_or(self.limit.needs);
        self.left += if candidates.pages.is_empty() { 0 } else { more };
        let mut needs: Vec<u32> = in_set.filter_map(|page| self.numbers.of_page(page)).collect();
        needs.sort_unstable();
        needs.dedup();
        needs.truncate(self.limit.needs / 2);
        let mut closure = needs.iter().fold(Closure::default(), |closure, need| self.with(closure, *need));
        needs.iter().for_each(|need| drop(offers.remove(need)));
        let given = needs.len();
        while needs.len() < self.limit.needs && needs.len() - given < self.left {
            let worth = |(other, savings): (&u32, &Savings)| {
                let gain = gain(savings, &spared);
                let price = match self.more(&closure, *other) {
                    more if more > 0 && *other >= self.known => WORTH * more,
                    _ => WORTH_AT_HAND,
                };
                (gain >= price).then(|| (16 * gain / price, std::cmp::Reverse(*other)))
            };
            let Some((_, std::cmp::Reverse(best))) = offers.iter().filter_map(worth).max() else { break };
            for (page, saving) in offers.remove(&best).unwrap_or_default() {
                spared[page] = spared[page].max(saving);
            }
            closure = self.with(closure, best);
            needs.push(best);
        }
        needs.sort_unstable();
        self.left -= needs.len() - given;
        self.closures[frame as usize] = closure;
        let is_delta = needs.first().is_some_and(|first| *first < self.known);
        Needs { numbers: self.numbers, frames: needs, is_delta }
    }

    /// How many more frames must come where a frame is needed.
    fn more(&self, closure: &Closure, frame: u32) -> u32 {
        let with = self.closures[frame as usize].frames.iter().chain([&frame]);
        with.filter(|frame| closure.frames.binary_search(frame).is_err()).count() as u32
    }
}

/// Bytes that a frame's pages would spare beyond what is spared. A page may be like several of them, which stand one behind the other.
fn gain(savings: &[(usize, u32)], spared: &[u32]) -> u32 {
    let pages = savings.chunk_by(|a, b| a.0 == b.0);
    pages
        .map(|same| {
            let best = same.iter().map(|(_, saving)| *saving).max().unwrap_or(0);
            best.saturating_sub(spared[same[0].0])
        })
        .sum()
}
