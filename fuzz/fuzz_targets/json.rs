//! snapshot.json, registry.json, tags and references.
#![no_main]
use forkd_format::{Reference, Snapshot, Tag, registry};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if registry::check(bytes).is_ok() {
        let _ = registry::look_up(bytes, &"a/b".parse().unwrap());
    }
    if let Ok(snapshot) = Snapshot::parse(bytes) {
        let moved = snapshot.relocated("/x/", None);
        assert_eq!(moved.relocated("/x/", None), moved);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(tag) = text.parse::<Tag>() {
            assert!(!tag.as_str().contains('/') && !tag.as_str().starts_with('.'));
        }
        if let Ok(reference) = text.parse::<Reference>() {
            assert_eq!(reference.to_string().parse(), Ok(reference));
        }
    }
});
