//! From a stretch of a file to a frame.

use crate::error::{Error, Kind, Result};
use crate::pack::paged::needs::{Candidates, Needs};
use crate::pack::paged::page_ref::PageRef;
use crate::pack::paged::page_source::PageSource;
use crate::pack::paged::search::Search;
use crate::pack::paged::set_written::PackSet;
use forkd_format::PAGE_SIZE;
use forkd_format::paged::{
    FrameHash, MAX_PREFIX_PAGES, PageRun, Plan, RefRun, RunKind, SKIPPABLE_HEADER, data_frame_header,
    frame_hash,
};
use zstd::zstd_safe::{CCtx, CParameter, compress_bound};

/// Pages of references that one page may bring into the prefix.
const REFERENCES: usize = 3;

/// Up to this level zstd's tables are made for less than what a prefix and a frame have together.
const SMALL_TABLES: i32 = 4;

/// Tables of 2^18 entries stay in a core's cache. Measured: larger ones spare 0.4 % of a pack and take a third more time.
const LARGEST_TABLES: u32 = 18;

/// What a frame may refer to.
pub(crate) struct FrameReferences<'a> {
    pub(crate) candidates: &'a Candidates,
    pub(crate) needs: &'a Needs<'a>,
    pub(crate) search: &'a Search<'a>,
    pub(crate) set: &'a PackSet,
    /// How many pages of the set stand before the frame.
    pub(crate) set_pages: u64,
    /// Which page of the set each of its pages is.
    pub(crate) in_set: Vec<Option<u64>>,
}

impl FrameReferences<'_> {
    fn source(&self, number: usize) -> &PageSource {
        if number == self.set.number { &self.set.source } else { self.search.source(number) }
    }

    fn allow(&self, page: PageRef) -> bool {
        (page.source != self.set.number || page.page < self.set_pages) && self.needs.allow(page)
    }
}

/// A frame, as it goes into the pack.
pub(crate) struct EncodedFrame {
    pub(crate) hash: FrameHash,
    pub(crate) sum: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) plan: Plan,
}

/// Encodes the bytes of one frame; `None` where they are all zero.
pub(crate) fn encode(raw: &[u8], known: &FrameReferences<'_>, level: i32) -> Result<Option<EncodedFrame>> {
    let mut maker = Maker { plan: Plan::default(), prefix: Vec::new(), named: Vec::new(), data: Vec::new() };
    let mut pages = Vec::new();
    for (number, page) in raw.chunks(PAGE_SIZE).enumerate() {
        if forkd_sys::is_zero(page) {
            maker.push(RunKind::Zero);
            continue;
        }
        pages.push(page);
        let in_set = known.in_set.get(number).copied().flatten();
        let in_set = in_set.map(|page| PageRef { source: known.set.number, page });
        match in_set.filter(|page| known.needs.allow(*page)) {
            Some(PageRef { source, page }) => maker.push(RunKind::Copy { source, page }),
            None => maker.page(page, pages.len() - 1, known)?,
        }
    }
    if pages.is_empty() {
        return Ok(None);
    }
    let Maker { plan, prefix, data, .. } = maker;
    // Where every page is kept, the frame's own bytes are what is hashed and compressed.
    let kept: Vec<u8>;
    let stored = if pages.len() * PAGE_SIZE >= raw.len() {
        raw
    } else {
        kept = pages.concat();
        &kept
    };
    let hash = frame_hash(raw.len(), &plan.bitmap(raw.len()), stored);
    let head = plan.to_bytes();
    let mut bytes = vec![0; SKIPPABLE_HEADER];
    bytes.extend_from_slice(&head);
    if !data.is_empty() {
        // Where the data follows its prefix in memory zstd searches both as one, in half of the time.
        let begin = prefix.len();
        let joined = [prefix, data].concat();
        compress(joined.split_at(begin), level, &mut bytes)?;
    }
    let len = (bytes.len() - SKIPPABLE_HEADER) as u32;
    bytes[..SKIPPABLE_HEADER].copy_from_slice(&data_frame_header(len));
    Ok(Some(EncodedFrame { hash, sum: xxhash_rust::xxh3::xxh3_64(raw), bytes, plan }))
}

struct Maker {
    plan: Plan,
    prefix: Vec<u8>,
    named: Vec<PageRef>,
    data: Vec<u8>,
}

impl Maker {
    fn push(&mut self, kind: RunKind) {
        if let Some(last) = self.plan.runs.last_mut() {
            let goes_on = match (last.kind, kind) {
                (RunKind::Copy { source, page }, RunKind::Copy { source: s, page: p }) => {
                    source == s && page + last.count as u64 == p
                }
                (a, b) => a == b,
            };
            if goes_on {
                last.count += 1;
                return;
            }
        }
        self.plan.runs.push(PageRun { kind, count: 1 });
    }

    /// Decides where a page that is not zero comes from: the one of this number among those.
    fn page(&mut self, page: &[u8], number: usize, known: &FrameReferences<'_>) -> Result<()> {
        let mut buffer = [0; PAGE_SIZE];
        if page.len() < PAGE_SIZE {
            self.data.extend_from_slice(page);
            self.push(RunKind::Data);
            return Ok(());
        }
        // What follows the page that was copied last is likely to follow here too.
        if let Some(PageRun { kind: RunKind::Copy { source, page: first }, count }) = self.plan.runs.last() {
            let next = PageRef { source: *source, page: first + *count as u64 };
            let file = known.source(next.source);
            if next.page < file.pages() && known.allow(next) {
                file.read(next.page, &mut buffer)?;
                if buffer == page {
                    self.push(RunKind::Copy { source: next.source, page: next.page });
                    return Ok(());
                }
            }
        }
        let mut wanted = Vec::new();
        for reference in known.candidates.references(number, known.needs, REFERENCES) {
            if let Some(at) = self.named.iter().position(|named| *named == reference) {
                if self.prefix[at * PAGE_SIZE..][..PAGE_SIZE] == *page {
                    self.push(RunKind::Copy { source: reference.source, page: reference.page });
                    return Ok(());
                }
                continue;
            }
            known.source(reference.source).read(reference.page, &mut buffer)?;
            if buffer == page {
                self.push(RunKind::Copy { source: reference.source, page: reference.page });
                return Ok(());
            }
            wanted.push((reference, buffer));
        }
        for (reference, bytes) in wanted {
            if self.named.len() < MAX_PREFIX_PAGES {
                self.name(reference);
                self.prefix.extend_from_slice(&bytes);
            }
        }
        self.data.extend_from_slice(page);
        self.push(RunKind::Data);
        Ok(())
    }

    fn name(&mut self, reference: PageRef) {
        self.named.push(reference);
        let PageRef { source, page } = reference;
        match self.plan.prefix.last_mut() {
            Some(run) if run.source == source && run.page + run.count as u64 == page => run.count += 1,
            _ => self.plan.prefix.push(RefRun { source, page, count: 1 }),
        }
    }
}

/// Appends the zstd part: one frame that says how long its content is, compressed with a raw prefix.
fn compress((prefix, data): (&[u8], &[u8]), level: i32, out: &mut Vec<u8>) -> Result<()> {
    let failed = |code| Error::new(Kind::General, format!("zstd: {}", zstd::zstd_safe::get_error_name(code)));
    let mut context = CCtx::create();
    let window = (data.len() + prefix.len()).next_power_of_two().trailing_zeros().clamp(10, 23);
    context.set_parameter(CParameter::CompressionLevel(level)).map_err(failed)?;
    if !prefix.is_empty() {
        context.set_parameter(CParameter::WindowLog(window)).map_err(failed)?;
        if level <= SMALL_TABLES {
            context.set_parameter(CParameter::HashLog(window.min(LARGEST_TABLES))).map_err(failed)?;
            context.set_parameter(CParameter::ChainLog(window.min(LARGEST_TABLES))).map_err(failed)?;
        }
        context.ref_prefix(prefix).map_err(failed)?;
    }
    let at = out.len();
    out.resize(at + compress_bound(data.len()), 0);
    let len = context.compress2(&mut out[at..], data).map_err(failed)?;
    out.truncate(at + len);
    Ok(())
}
