//! Finds, for a page, the pages of other files that are most like it: those that share most pieces with it, wherever in the page these
//! stand. The pieces that count are chosen by their content (a gear hash over 32 bytes), so that the same ones are chosen everywhere.

use super::sources::SourceFile;
use crate::buffers::Buffers;
use crate::lanes::{self, LaneKind};
use crate::{Env, Error, Result};
use forkd_format::PAGE_SIZE;
use forkd_format::v3::FRAME_SIZE;
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
    sources: &'a [SourceFile],
    /// The number of each source's first page.
    first: Vec<u64>,
    /// Half of a hash, and a page's number plus one; 0 is free.
    slots: Vec<u64>,
    mask: u64,
}

/// A page of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageRef {
    pub(crate) source: usize,
    pub(crate) page: u64,
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
    /// Reads all pages of some sources that are not in holes. Memory: at most an eighth of their bytes.
    pub(crate) fn build(sources: &'a [SourceFile], env: Env<'_>) -> Result<Self> {
        let pages: u64 = sources.iter().map(|source| source.data_bytes() / PAGE_SIZE as u64).sum();
        let expected = pages * (PAGE_SIZE as u64 >> SAMPLE_BITS);
        let buckets = (expected.div_ceil(BUCKET as u64) * 5 / 4).next_power_of_two().max(64);
        let mut first = Vec::with_capacity(sources.len());
        let mut next = 0;
        for source in sources {
            first.push(next);
            next += source.pages();
        }
        let mut search =
            Self { sources, first, slots: vec![0; buckets as usize * BUCKET], mask: buckets - 1 };
        let slots = Mutex::new(std::mem::take(&mut search.slots));
        let buffers = Buffers::new(2 * env.jobs + 2, FRAME_SIZE);
        let kinds = [LaneKind::Ordered, LaneKind::Parallel];
        lanes::run(env.jobs, &kinds, env.cancel, |lanes| {
            let (search, slots) = (&search, &slots);
            let mut number = 0;
            for (s, source) in sources.iter().enumerate() {
                let Some(file) = &source.file else { continue };
                let (mut at, end) = (0, source.pages() * PAGE_SIZE as u64);
                while let Some(data) = next_data(source, file, at, end)? {
                    let start = data - data % FRAME_SIZE as u64;
                    let len = (end - start).min(FRAME_SIZE as u64) as usize;
                    at = start + len as u64;
                    let Ok(mut buffer) = buffers.take(usize::MAX, env.cancel, || lanes.failed()) else {
                        return env.cancel.check();
                    };
                    lanes.submit(1, move |lanes| {
                        crate::sparse::read_data(file, start, &mut buffer[..len])
                            .map_err(Error::io("read", &source.path))?;
                        let first = search.first[s] + start / PAGE_SIZE as u64;
                        let features: Vec<(u64, Features)> = buffer[..len]
                            .chunks_exact(PAGE_SIZE)
                            .enumerate()
                            .map(|(i, page)| (first + i as u64, Features::of(page)))
                            .filter(|(_, features)| features.count > 0)
                            .collect();
                        drop(buffer);
                        lanes.submit_ordered(0, number, move |_| {
                            let mut slots = super::lock(slots);
                            for (page, features) in &features {
                                features
                                    .hashes()
                                    .iter()
                                    .for_each(|hash| search.insert(&mut slots, *hash, *page));
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
        search.slots = slots.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(search)
    }

    fn bucket(&self, hash: u64) -> std::ops::Range<usize> {
        // The lowest bits are zero in nearly all hashes that are looked at.
        let at = ((hash >> 8) & self.mask) as usize * BUCKET;
        at..at + BUCKET
    }

    fn insert(&self, slots: &mut [u64], hash: u64, page: u64) {
        let tag = hash & !u64::from(u32::MAX);
        let mut alike = 0;
        for slot in &mut slots[self.bucket(hash)] {
            if *slot == 0 {
                *slot = tag | (page + 1);
                return;
            }
            alike += usize::from(*slot & !u64::from(u32::MAX) == tag);
            if alike == MOST_ALIKE {
                return;
            }
        }
    }

    fn place(&self, page: u64) -> PageRef {
        let source = self.first.partition_point(|first| *first <= page) - 1;
        PageRef { source, page: page - self.first[source] }
    }

    /// The pages that share most pieces with this one, the best first; only those that `allowed` lets pass.
    pub(crate) fn find(&self, page: &[u8], allowed: impl Fn(PageRef) -> bool, most: usize) -> Vec<PageRef> {
        let features = Features::of(page);
        let mut votes: Vec<(u64, u128)> = Vec::with_capacity(32);
        for (bit, hash) in features.hashes().iter().enumerate() {
            let tag = hash & !u64::from(u32::MAX);
            for slot in &self.slots[self.bucket(*hash)] {
                if *slot == 0 {
                    break;
                }
                if slot & !u64::from(u32::MAX) != tag {
                    continue;
                }
                let page = (slot & u64::from(u32::MAX)) - 1;
                match votes.iter_mut().find(|(voted, _)| *voted == page) {
                    Some((_, bits)) => *bits |= 1u128 << bit,
                    None if allowed(self.place(page)) => votes.push((page, 1u128 << bit)),
                    None => {}
                }
            }
        }
        // The best one; then the one that has most of what that one lacks.
        let mut found = Vec::new();
        let mut covered = 0_u128;
        while found.len() < most {
            let gain = |bits: u128| (bits & !covered).count_ones();
            let best = votes.iter().max_by_key(|(page, bits)| (gain(*bits), std::cmp::Reverse(*page)));
            let Some((page, bits)) = best.filter(|(_, bits)| gain(*bits) > 0).copied() else { break };
            covered |= bits;
            found.push(self.place(page));
        }
        found
    }

    pub(crate) fn source(&self, source: usize) -> &'a SourceFile {
        &self.sources[source]
    }
}

fn next_data(source: &SourceFile, file: &File, at: u64, end: u64) -> Result<Option<u64>> {
    if at >= end {
        return Ok(None);
    }
    let data = forkd_sys::next_data(file, at).map_err(Error::io("read", &source.path))?;
    Ok(data.filter(|data| *data < end))
}
