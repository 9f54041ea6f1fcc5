//! An index that is accepted is written as it was read, but for what nothing depends on; and takes no more room than files of its
//! sizes may.
#![no_main]
use forkd_format::paged::{FileFrames, FrameHash, Index, SKIPPABLE_HEADER, StoredFrame, WorkingSet, frame_count};

// The first byte says how many files there are and three bytes each how large they are; the index follows.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((count, rest)) = bytes.split_first() else { return };
    let count = usize::from(count % 4);
    if rest.len() < count * 3 {
        return;
    }
    let (sizes, index) = rest.split_at(count * 3);
    let sizes: Vec<u64> = sizes
        .chunks(3)
        .map(|size| u64::from(size[0]) << 16 | u64::from(size[1]) << 8 | u64::from(size[2]))
        .collect();
    // The roots are those of whatever the index holds: the fuzzer makes no hashes.
    let Some(files) = roots(index, &sizes) else { return };
    let declared: Vec<_> = files.iter().map(|file| (file.size, file.root())).collect();
    let Ok(parsed) = Index::parse(index, &declared) else { return };
    let written = parsed.to_bytes();
    assert!(written.len() as u64 <= Index::max_len(&sizes));
    assert_eq!(Index::parse(&written, &declared).as_ref(), Ok(&parsed));
    assert!(index.ends_with(&written[72..]));
    let mut at = parsed.header_len;
    for (_, _, frame) in parsed.stored() {
        assert_eq!(frame.offset, at);
        assert!(frame.len as usize > SKIPPABLE_HEADER);
        at += u64::from(frame.len);
    }
    assert_eq!(at, parsed.header_len + parsed.data_len);
});

/// The files that an index makes, read without any check.
fn roots(index: &[u8], sizes: &[u64]) -> Option<Vec<FileFrames>> {
    let number = |at: usize| Some(u32::from_le_bytes(index.get(at..at + 4)?.try_into().ok()?));
    let mut at = number(8)? as usize + number(68)? as usize;
    let set = WorkingSet::size(u64::from(number(64)?).min(WorkingSet::MAX_PAGES));
    let mut files = Vec::new();
    for size in [set].iter().chain(sizes) {
        let count = frame_count(*size);
        let bitmap = index.get(at..)?.get(..count.div_ceil(8))?;
        at += bitmap.len();
        let mut frames = Vec::new();
        for number in 0..count {
            if bitmap[number / 8] >> (number % 8) & 1 == 0 {
                frames.push(None);
                continue;
            }
            let hash = <[u8; 32]>::try_from(index.get(at..)?.get(..32)?).ok()?;
            at += 44;
            let needs = *index.get(at)?;
            at += 1;
            for _ in 0..needs.min(32) {
                at += index.get(at..)?.iter().position(|byte| byte & 0x80 == 0)? + 1;
            }
            let needs = Box::default();
            frames.push(Some(StoredFrame { hash: FrameHash::from_bytes(hash), sum: 0, offset: 0, len: 0, needs }));
        }
        files.push(FileFrames { size: *size, frames });
    }
    files.remove(0);
    Some(files)
}
