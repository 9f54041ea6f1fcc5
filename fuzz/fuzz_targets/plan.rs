//! A plan that is accepted is written byte for byte as it was read, covers its frame, and names only pages that are there.
#![no_main]
use forkd_format::paged::{MAX_PREFIX_PAGES, Plan, page_count};

// The first three bytes say how long the frame is.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((len, frame)) = bytes.split_first_chunk::<3>() else { return };
    let len = 1 + (u32::from_le_bytes([len[0], len[1], len[2], 0]) as usize & ((1 << 20) - 1));
    let pages = |source: usize| [0, 3, 1000, 1 << 26].get(source).copied();
    let Ok((plan, end)) = Plan::parse(frame, len, pages) else { return };
    assert!(plan.to_bytes() == frame[..end]);
    assert_eq!(plan.runs.iter().map(|run| run.count).sum::<usize>(), page_count(len));
    assert!(plan.prefix.iter().map(|run| run.count).sum::<usize>() <= MAX_PREFIX_PAGES);
    for (run, _) in plan.references() {
        assert!(run.count > 0 && pages(run.source).is_some_and(|known| run.page + run.count as u64 <= known));
    }
    assert!(plan.data_len(len) <= len);
    assert_eq!(plan.bitmap(len).len(), page_count(len).div_ceil(8));
});
