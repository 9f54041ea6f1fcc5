//! Names of images, manifests, configurations, archives, and what a registry asks for.
#![no_main]
use forkd_image::{ImageSource, fuzz};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = fuzz::ImageConfig::parse(bytes, None, "x") {
        assert!(fuzz::ImageConfig::parse(bytes, Some(config.diff_ids.len()), "x").is_ok());
    }
    let _ = fuzz::manifest(bytes, None, "x");
    fuzz::archive(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = fuzz::challenges(text);
        if let Ok(source) = text.parse::<ImageSource>() {
            assert_eq!(source.to_string().parse::<ImageSource>().unwrap(), source);
        }
    }
});
