//! A frame of format 3 gives pages of its own stretch that are not zero, or is refused.
#![no_main]
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

/// What frames may refer to: a few pages that hold something, an empty file, and one with a hole and a short end.
static SOURCES: LazyLock<Vec<File>> = LazyLock::new(|| {
    let file = |len: u64, texts: &[(u64, &str)]| {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(len).unwrap();
        for (page, text) in texts {
            file.write_all_at(&text.repeat(4096).as_bytes()[..4096], page * 4096).unwrap();
        }
        file
    };
    vec![
        file(4 * 4096, &[(0, "a"), (1, "bc"), (2, "def"), (3, "ghij")]),
        file(0, &[]),
        file(9000, &[(0, "warm heap ")]),
    ]
});

// The first three bytes say how long the frame is.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((len, body)) = bytes.split_first_chunk::<3>() else { return };
    let len = 1 + (u32::from_le_bytes([len[0], len[1], len[2], 0]) as usize & ((1 << 20) - 1));
    let Some(runs) = forkd_core::fuzz_frame(body, len, &SOURCES) else { return };
    let mut end = 0;
    for (at, bytes) in runs {
        assert!(at >= end && at % 4096 == 0 && at + bytes.len() <= len);
        assert!(bytes.chunks(4096).all(|page| page.iter().any(|byte| *byte != 0)));
        end = at + bytes.len();
    }
});
