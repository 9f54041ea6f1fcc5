//! Finds, for a page, the pages of other files that are most like it: those that share most pieces with it, wherever in the page these
//! stand. The pieces that count are chosen by their content (a gear hash over 32 bytes), so that the same ones are chosen everywhere.

use crate::env::Env;
use crate::error::{Error, Result};
use crate::pack::paged::page_ref::{Alike, PageCandidates, PageRef};
use crate::pack::paged::page_source::PageSource;
use crate::pipeline::buffers::Buffers;
use crate::pipeline::lanes::{self, LaneKind};
use forkd_format::PAGE_SIZE;
use forkd_format::paged::{FRAME_SIZE, frame_count};
use std::fs::File;
use std::sync::Mutex;

/// A piece is as many bytes as move out of a 64-bit hash that is shifted by so many bits a byte: 32.
const SHIFT: u32 = 2;

/// Of all pieces, at whatever offset, those are looked at whose hash begins with so many zero bits: the same ones wherever they stand.
const SAMPLE_BITS: u32 = 7;

/// Pages kept for a piece; what stands in more says little.
const MOST_ALIKE: usize = 4;

/// Pieces of a page that are looked at, at most.
const MOST: usize = 128;

/// Pages with fewer are known by their smallest hashes instead.
const FEWEST: usize = 4;

/// Slots that share a cache line.
const BUCKET: usize = 8;

/// A number for each byte (splitmix64).
static GEAR: [u64; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut z = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        table[i] = z ^ (z >> 31);
        i += 1;
    }
    table
};

/// Pages by the pieces that they hold.
pub(crate) struct Search<'a> {
    sources: &'a [PageSource],
    /// The number of each source's first page.
    first: Vec<u64>,
    /// Which frames of each source are not all zero.
    stored: Vec<Vec<bool>>,
    table: Table,
}

/// A hash table that grows with what is put into it, up to a limit, and so does not depend on how the files' holes lie.
struct Table {
    /// A piece's tag, and a page's number plus one; 0 is free.
    slots: Vec<u64>,
    /// Buckets, as a power of two.
    bits: u32,
    used: usize,
    /// Of so many pieces' tags one is kept, as a power of two: rises where the table may not grow any more.
    thinned: u32,
}

/// The largest table, in buckets as a power of two: 64 MiB.
const LARGEST: u32 = 20;

impl Table {
    fn new(bits: u32) -> Self {
        Self { slots: vec![0; BUCKET << bits], bits, used: 0, thinned: 0 }
    }

    fn bucket(&self, tag: u32) -> std::ops::Range<usize> {
        let at = (tag.wrapping_mul(0x9E37_79B1) >> (32 - self.bits)) as usize * BUCKET;
        at..at + BUCKET
    }

    fn insert(&mut self, tag: u32, page: u64) {
        if self.used * 4 > self.slots.len() * 3 {
            self.make_room();
        }
        if self.keeps(tag) {
            self.put(tag, u64::from(tag) << 32 | (page + 1));
        }
    }

    /// Whether pieces with a tag are kept at all.
    fn keeps(&self, tag: u32) -> bool {
        tag.trailing_zeros() >= self.thinned
    }

    fn make_room(&mut self) {
        if self.bits < LARGEST {
            let mut larger = Self { thinned: self.thinned, ..Self::new(self.bits + 1) };
            for slot in self.slots.iter().filter(|slot| **slot != 0) {
                larger.put((slot >> 32) as u32, *slot);
            }
            *self = larger;
            return;
        }
        self.thinned += 1;
        for bucket in 0..self.slots.len() / BUCKET {
            let slots = &mut self.slots[bucket * BUCKET..][..BUCKET];
            let mut kept = 0;
            for at in 0..BUCKET {
                let slot = slots[at];
                if slot != 0 && ((slot >> 32) as u32).trailing_zeros() >= self.thinned {
                    slots[kept] = slot;
                    kept += 1;
                }
            }
            slots[kept..].fill(0);
        }
        self.used = self.slots.iter().filter(|slot| **slot != 0).count();
    }

    fn put(&mut self, tag: u32, entry: u64) {
        let mut alike = 0;
        let bucket = self.bucket(tag);
        for slot in &mut self.slots[bucket] {
            if *slot == 0 {
                *slot = entry;
                self.used += 1;
                return;
            }
            alike += usize::from((*slot >> 32) as u32 == tag);
            if alike == MOST_ALIKE {
                return;
            }
        }
    }

    /// Pages that hold a piece, and by chance others.
    fn pages(&self, tag: u32) -> impl Iterator<Item = u64> + '_ {
        let used = self.slots[self.bucket(tag)].iter().take_while(|slot| **slot != 0);
        used.filter(move |slot| (**slot >> 32) as u32 == tag).map(|slot| (slot & u64::from(u32::MAX)) - 1)
    }
}

/// Half of a hash: what a piece is known by.
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// The pieces of a page that are looked at.
struct Features {
    hashes: [u64; MOST],
    count: usize,
}

impl Features {
    fn of(page: &[u8]) -> Self {
        let mut found = Self { hashes: [0; MOST], count: 0 };
        let mut hash = 0_u64;
        let mut last = 0;
        for byte in page {
            hash = (hash << SHIFT).wrapping_add(GEAR[usize::from(*byte)]);
            if hash >> (64 - SAMPLE_BITS) == 0 && hash != last && found.count < MOST {
                last = hash;
                found.hashes[found.count] = mix(hash);
                found.count += 1;
            }
        }
        if found.count < FEWEST {
            found.count = 0;
            let mut hash = 0_u64;
            for byte in page {
                hash = (hash << SHIFT).wrapping_add(GEAR[usize::from(*byte)]);
                let mixed = mix(hash);
                let at = found.hashes[..found.count].partition_point(|known| *known < mixed);
                if at < FEWEST && found.hashes.get(at) != Some(&mixed) {
                    found.hashes.copy_within(at..FEWEST - 1, at + 1);
                    found.hashes[at] = mixed;
                    found.count = (found.count + 1).min(FEWEST);
                }
            }
        }
        found
    }

    fn hashes(&self) -> &[u64] {
        &self.hashes[..self.count]
    }
}

fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    hash ^ (hash >> 32)
}

impl<'a> Search<'a> {
    /// Reads all pages of some sources that are not in holes. Memory: at most a sixth of their bytes, and no more than 96 MiB.
    pub(crate) fn build(sources: &'a [PageSource], env: Env<'_>) -> Result<Self> {
        let mut first = Vec::with_capacity(sources.len());
        let mut next = 0;
        for source in sources {
            first.push(next);
            next += source.pages();
        }
        let frames = |source: &PageSource| vec![false; frame_count(source.size())];
        let found = Mutex::new((Table::new(10), sources.iter().map(frames).collect::<Vec<_>>()));
        let buffers = Buffers::new(2 * env.jobs + 2, FRAME_SIZE);
        let kinds = [LaneKind::Ordered, LaneKind::Parallel];
        lanes::run(env.jobs, &kinds, env.cancel, |lanes| {
            let (first, found) = (&first, &found);
            let mut number = 0;
            for (s, source) in sources.iter().enumerate() {
                let Some(file) = source.as_file() else { continue };
                let mut at = 0;
                while let Some(data) = next_data(source, file, at)? {
                    let start = data - data % FRAME_SIZE as u64;
                    let len = (source.size() - start).min(FRAME_SIZE as u64) as usize;
                    at = start + len as u64;
                    let Ok(mut buffer) = buffers.take(usize::MAX, env.cancel, || lanes.failed()) else {
                        return env.cancel.check();
                    };
                    lanes.submit(1, move |lanes| {
                        crate::digest::sparse::read_data(file, start, &mut buffer[..len])
                            .map_err(Error::io("read", &source.path))?;
                        let first = first[s] + start / PAGE_SIZE as u64;
                        let features: Vec<(u64, Features)> = buffer[..len]
                            .chunks_exact(PAGE_SIZE)
                            .enumerate()
                            .filter(|(_, page)| !forkd_sys::is_zero(page))
                            .map(|(i, page)| (first + i as u64, Features::of(page)))
                            .collect();
                        let is_zero = features.is_empty() && forkd_sys::is_zero(&buffer[..len]);
                        drop(buffer);
                        lanes.submit_ordered(0, number, move |_| {
                            let (table, stored) = &mut *crate::pipeline::mutex::lock(found);
                            stored[s][(start / FRAME_SIZE as u64) as usize] = !is_zero;
                            for (page, features) in &features {
                                features.hashes().iter().for_each(|hash| table.insert(tag(*hash), *page));
                            }
                            Ok(())
                        });
                        Ok(())
                    });
                    number += 1;
                }
            }
            Ok(())
        })?;
        let (table, stored) = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(Self { sources, first, stored, table })
    }

    /// Whether a frame of a source is not all zero.
    pub(crate) fn is_stored(&self, source: usize, frame: usize) -> bool {
        self.stored[source].get(frame).is_some_and(|stored| *stored)
    }

    /// How many frames of a source are not all zero.
    pub(crate) fn stored(&self, source: usize) -> usize {
        self.stored[source].iter().filter(|stored| **stored).count()
    }

    fn place(&self, page: u64) -> PageRef {
        let source = self.first.partition_point(|first| *first <= page) - 1;
        PageRef { source, page: page - self.first[source] }
    }

    /// The pages that share pieces with this one. `place` says where such a page is referred to, if it may be.
    pub(crate) fn candidates(
        &self,
        page: &[u8],
        place: impl Fn(PageRef) -> Option<PageRef>,
    ) -> PageCandidates {
        let features = Features::of(page);
        let mut votes: Vec<(u64, Option<Alike>)> = Vec::with_capacity(32);
        let mut pieces = 0;
        for (bit, hash) in
            features.hashes().iter().enumerate().filter(|(_, hash)| self.table.keeps(tag(**hash)))
        {
            pieces += 1;
            for page in self.table.pages(tag(*hash)) {
                match votes.iter_mut().find(|(voted, _)| *voted == page) {
                    Some((_, Some((_, bits)))) => *bits |= 1u128 << bit,
                    Some((_, None)) => {}
                    None => votes.push((page, place(self.place(page)).map(|page| (page, 1u128 << bit)))),
                }
            }
        }
        PageCandidates { found: votes.into_iter().filter_map(|(_, alike)| alike).collect(), pieces }
    }

    pub(crate) fn sources(&self) -> &'a [PageSource] {
        self.sources
    }

    pub(crate) fn source(&self, source: usize) -> &'a PageSource {
        &self.sources[source]
    }
}

fn next_data(source: &PageSource, file: &File, at: u64) -> Result<Option<u64>> {
    if at >= source.size() {
        return Ok(None);
    }
    let data = forkd_sys::next_data(file, at).map_err(Error::io("read", &source.path))?;
    Ok(data.filter(|data| *data < source.size()))
}
