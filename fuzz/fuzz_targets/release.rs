//! The documents of a release. What is accepted is written as it was read, no frame needs a later one, and no two blobs lie in one place.
#![no_main]
use forkd_format::release::{ReleaseIndex, ReleaseManifest};

// Two lengths of two bytes each; then manifest, configuration and index.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((lengths, rest)) = bytes.split_first_chunk::<4>() else { return };
    let length = |at: usize| usize::from(u16::from_le_bytes([lengths[at], lengths[at + 1]]));
    let (first, second) = (length(0), length(2));
    if rest.len() < first + second {
        return;
    }
    let (manifest, rest) = rest.split_at(first);
    let (config, index) = rest.split_at(second);
    if let Ok(parsed) = ReleaseManifest::parse(manifest) {
        assert_eq!(ReleaseManifest::parse(&parsed.to_bytes()), Ok(parsed));
    }
    if let Ok(parsed) = ReleaseIndex::parse(index) {
        assert_eq!(ReleaseIndex::parse(&parsed.to_bytes()), Ok(parsed));
    }
    if let Some((_, blobs)) = forkd_core::fuzz_release(manifest, config, index) {
        assert!(blobs.windows(2).all(|pair| pair[0].end < pair[1].start));
    }
});
