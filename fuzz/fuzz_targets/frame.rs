//! Frame ends are found, or not, without reading past what is there.
#![no_main]
use forkd_format::zstd_frame::{FrameHeader, FrameScanner};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(FrameHeader::Data { len, checksum, .. })) = FrameHeader::parse(bytes) {
        let mut scanner = FrameScanner::new(len, checksum);
        if let Ok(Some(end)) = scanner.scan(bytes) {
            assert!(end > len && end == scanner.known_len());
        }
    }
});
