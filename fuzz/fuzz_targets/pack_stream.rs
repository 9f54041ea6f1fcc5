//! What a pack's stream means does not depend on how it is cut, and no file gets more bytes than declared.
#![no_main]
use forkd_format::reader::{PackEvent, PackReader};

fn read(bytes: &[u8], step: usize) -> Option<u64> {
    let mut reader = PackReader::default();
    let mut seen = 0u64;
    for mut chunk in bytes.chunks(step) {
        while !chunk.is_empty() {
            let (taken, event) = reader.step(chunk).ok()?;
            assert!(taken > 0 || matches!(event, Some(PackEvent::Hole { .. })), "no progress");
            match event {
                Some(PackEvent::Data { range, .. }) => seen += range.len() as u64,
                Some(PackEvent::Hole { len, .. }) => seen += len,
                _ => {}
            }
            chunk = &chunk[taken..];
        }
    }
    reader.finish().ok()?;
    assert_eq!(
        seen,
        reader.manifest()?.links.iter().flat_map(|link| &link.files).map(|file| file.size).sum::<u64>()
    );
    Some(seen)
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes, bytes.len().max(1));
    for step in [1, 511, 513] {
        assert_eq!(read(bytes, step), whole);
    }
});
