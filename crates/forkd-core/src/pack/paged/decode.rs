//! From a frame to the pages that it stands for.

use crate::error::{Error, Result};
use crate::pack::paged::page_source::PageSource;
use forkd_format::paged::{FRAME_SIZE, MAX_WINDOW, PageRun, Plan, RunKind, StoredFrame, frame_hash};
use forkd_format::zstd_frame::{FrameHeader, FrameScanner};
use forkd_format::{FormatError, PAGE_SIZE};
use xxhash_rust::xxh3::Xxh3Default;
use zstd::zstd_safe::DCtx;

/// The pages of a frame that are not zero, one after another.
pub(crate) struct Pages {
    bytes: Vec<u8>,
    len: usize,
    /// Where each run of them lies in the file's frame: offset in bytes, and the bytes here.
    runs: Vec<(usize, std::ops::Range<usize>)>,
}

impl Pages {
    /// Room for one frame, to be used again and again.
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; FRAME_SIZE], len: 0, runs: Vec::new() }
    }

    /// Stretches of the frame that are not zero: offset in the frame, and bytes.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.runs.iter().map(|(at, range)| (*at, &self.bytes[range.clone()]))
    }

    /// A whole page of the frame; `None` where it is zero.
    pub(crate) fn page(&self, number: usize) -> Option<&[u8]> {
        let at = number * PAGE_SIZE;
        let after = self.runs.partition_point(|(begin, _)| *begin <= at);
        let (begin, range) = self.runs.get(after.checked_sub(1)?)?;
        let from = range.start + (at - begin);
        (from + PAGE_SIZE <= range.end).then(|| &self.bytes[from..from + PAGE_SIZE])
    }

    /// Takes what is not zero of a frame's bytes; gives its bitmap.
    pub(crate) fn take(&mut self, raw: &[u8]) -> Vec<u8> {
        let mut bitmap = vec![0; raw.len().div_ceil(PAGE_SIZE).div_ceil(8)];
        self.clear();
        for (i, page) in raw.chunks(PAGE_SIZE).enumerate().filter(|(_, page)| !forkd_sys::is_zero(page)) {
            bitmap[i / 8] |= 1 << (i % 8);
            self.bytes[self.len..self.len + page.len()].copy_from_slice(page);
            self.push(i * PAGE_SIZE, page.len());
        }
        bitmap
    }

    /// XXH3-64 of the frame, zeros included.
    fn sum(&self, len: usize) -> u64 {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut hasher = Xxh3Default::new();
        let mut at = 0;
        let zeros = |hasher: &mut Xxh3Default, mut len: usize| {
            while len > 0 {
                let step = len.min(ZEROS.len());
                hasher.update(&ZEROS[..step]);
                len -= step;
            }
        };
        for (offset, bytes) in self.runs() {
            zeros(&mut hasher, offset - at);
            hasher.update(bytes);
            at = offset + bytes.len();
        }
        zeros(&mut hasher, len - at);
        hasher.digest()
    }

    /// Whether these pages, where the bitmap has them, make the frame.
    pub(crate) fn are(&self, frame: &StoredFrame, len: usize, bitmap: &[u8]) -> bool {
        frame_hash(len, bitmap, &self.bytes[..self.len]) == frame.hash
    }

    #[cfg(fuzzing)]
    pub(crate) fn facts(&self, len: usize, bitmap: &[u8]) -> (forkd_format::paged::FrameHash, u64) {
        (frame_hash(len, bitmap, &self.bytes[..self.len]), self.sum(len))
    }

    fn clear(&mut self) {
        self.len = 0;
        self.runs.clear();
    }

    fn push(&mut self, offset: usize, len: usize) {
        let begin = self.len;
        self.len += len;
        match self.runs.last_mut() {
            Some((at, range)) if *at + range.len() == offset => range.end = self.len,
            _ => self.runs.push((offset, begin..self.len)),
        }
    }
}

/// Memory that decoding uses, to be used again and again.
pub(crate) struct DecodeBuffers {
    prefix: Vec<u8>,
    data: Vec<u8>,
}

impl DecodeBuffers {
    pub(crate) fn new() -> Self {
        Self { prefix: Vec::new(), data: Vec::new() }
    }
}

/// Decodes a frame that covers `len` bytes and checks it. `plan` was read from `body`, of which it took `plan_len` bytes.
pub(crate) fn decode(
    body: &[u8],
    (plan, plan_len): (&Plan, usize),
    frame: &StoredFrame,
    len: usize,
    sources: &[PageSource],
    scratch: &mut DecodeBuffers,
    pages: &mut Pages,
) -> Result<()> {
    let zstd_part = &body[plan_len..];
    let data_len = plan.data_len(len);
    check_zstd(zstd_part, data_len).map_err(Error::malformed("frame"))?;
    read_prefix(plan, sources, &mut scratch.prefix)?;
    pages.clear();
    let copies = plan.runs.iter().any(|run| matches!(run.kind, RunKind::Copy { .. }));
    // Without copies the decoded bytes are already where they belong.
    if copies {
        scratch.data.resize(FRAME_SIZE, 0);
    }
    let target = if copies { &mut scratch.data } else { &mut pages.bytes };
    decompress(zstd_part, &scratch.prefix, &mut target[..data_len])?;
    let mut taken = 0;
    for (at, PageRun { kind, count }) in plan.placed() {
        let offset = at * PAGE_SIZE;
        let run_len = (count * PAGE_SIZE).min(len - offset);
        match kind {
            RunKind::Zero => continue,
            RunKind::Data => {
                if copies {
                    pages.bytes[pages.len..pages.len + run_len]
                        .copy_from_slice(&scratch.data[taken..taken + run_len]);
                }
                taken += run_len;
            }
            RunKind::Copy { source, page } => {
                sources[source].read(page, &mut pages.bytes[pages.len..pages.len + run_len])?;
            }
        }
        pages.push(offset, run_len);
    }
    if pages.len == 0 {
        return Err(refused("it stands for zeros, which are not stored"));
    }
    if pages.bytes[..pages.len].chunks(PAGE_SIZE).any(forkd_sys::is_zero) {
        return Err(refused("a page of zeros that is not said to be one"));
    }
    if !pages.are(frame, len, &plan.bitmap(len)) {
        return Err(refused("it decodes to other bytes than the index says"));
    }
    if pages.sum(len) != frame.sum {
        return Err(refused("its checksum in the index is not that of what it decodes to"));
    }
    Ok(())
}

fn refused(why: &str) -> Error {
    Error::Malformed { file: "frame".into(), source: FormatError::Frame(why.into()) }
}

/// The zstd part is one frame of the right size, with a window that is allowed, and nothing else.
fn check_zstd(bytes: &[u8], data_len: usize) -> std::result::Result<(), FormatError> {
    let wrong = |message: String| Err(FormatError::Frame(message));
    if data_len == 0 {
        return if bytes.is_empty() { Ok(()) } else { wrong("bytes that no page needs".into()) };
    }
    let Some(FrameHeader::Data { content_size, len, checksum }) = FrameHeader::parse(bytes)? else {
        return wrong("its zstd part is cut off".into());
    };
    if content_size != Some(data_len as u64) {
        return wrong(format!("its zstd part declares {content_size:?} bytes; its plan needs {data_len}"));
    }
    if FrameHeader::window(bytes).is_none_or(|window| window > MAX_WINDOW) {
        return wrong(format!("it needs a window of more than {MAX_WINDOW} bytes"));
    }
    match FrameScanner::new(len, checksum).scan(bytes)? {
        Some(end) if end == bytes.len() => Ok(()),
        _ => wrong("its zstd part is cut off, or something follows it".into()),
    }
}

fn read_prefix(plan: &Plan, sources: &[PageSource], prefix: &mut Vec<u8>) -> Result<()> {
    prefix.clear();
    for run in &plan.prefix {
        let at = prefix.len();
        prefix.resize(at + run.count * PAGE_SIZE, 0);
        sources[run.source].read(run.page, &mut prefix[at..])?;
    }
    Ok(())
}

fn decompress(bytes: &[u8], prefix: &[u8], out: &mut [u8]) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let failed = |code| refused(zstd::zstd_safe::get_error_name(code));
    let mut context = DCtx::create();
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(failed)?;
    }
    let made = context.decompress(out, bytes).map_err(failed)?;
    if made == out.len() { Ok(()) } else { Err(refused("its zstd part is shorter than its plan needs")) }
}
