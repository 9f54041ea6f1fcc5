//! A manifest that is accepted means the same after it was written again.
#![no_main]
use forkd_format::Manifest;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(bytes) {
        assert_eq!(Manifest::parse(&manifest.to_bytes()).as_ref(), Ok(&manifest));
        assert!(manifest.unpacked_size() <= forkd_format::manifest::MAX_UNPACKED);
    }
});
