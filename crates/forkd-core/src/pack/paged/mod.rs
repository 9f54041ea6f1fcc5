//! Pack format 3: frames of pages that refer to pages that are known already.

pub(crate) mod assemble;
pub(crate) mod bases;
pub(crate) mod bases_written;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod header;
pub(crate) mod header_parts;
pub(crate) mod kernel;
pub(crate) mod needs;
pub(crate) mod page_ref;
pub(crate) mod page_source;
pub(crate) mod search;
pub(crate) mod set_places;
pub(crate) mod set_written;
pub(crate) mod write;
pub(crate) mod write_pack;

/// For the fuzzer: decodes a frame that covers so many bytes and may refer to these files; gives the bytes that are not zero. What
/// the index says of them is made to fit, or nothing would ever be accepted.
#[cfg(fuzzing)]
#[must_use]
pub fn fuzz_frame(body: &[u8], len: usize, files: &[std::fs::File]) -> Option<Vec<(usize, Vec<u8>)>> {
    use crate::pack::paged::decode::Pages;
    use crate::pack::paged::page_source::PageSource;
    use forkd_format::paged::{Plan, StoredFrame, zero_frame_hash};
    let source = |file: &std::fs::File| {
        let size = file.metadata().ok()?.len();
        Some(PageSource::file(file.try_clone().ok()?, "fuzzed".into(), size))
    };
    let sources: Vec<PageSource> = files.iter().filter_map(source).collect();
    let (plan, plan_len) = Plan::parse(body, len, |s| sources.get(s).map(PageSource::pages)).ok()?;
    let (mut scratch, mut pages) = (decode::DecodeBuffers::new(), Pages::new());
    let mut frame =
        StoredFrame { hash: zero_frame_hash(len), sum: 0, offset: 0, len: 0, needs: Box::default() };
    let mut run = |frame: &StoredFrame, pages: &mut Pages| {
        decode::decode(body, (&plan, plan_len), frame, len, &sources, &mut scratch, pages).is_ok()
    };
    let _ = run(&frame, &mut pages);
    (frame.hash, frame.sum) = pages.facts(len, &plan.bitmap(len));
    let accepted = run(&frame, &mut pages);
    accepted.then(|| pages.runs().map(|(at, bytes)| (at, bytes.to_vec())).collect())
}
