//! snapshot.json, registry.json, forkd.lock, tags and references.
#![no_main]
use forkd_format::{Lockfile, Reference, Snapshot, Tag, registry, registry_text::RegistryText};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if registry::check(bytes).is_ok() {
        let _ = registry::look_up(bytes, &"a/b".parse().unwrap());
        if let Ok(found) = registry::details(bytes, &|_, _| true) {
            found.iter().flat_map(|package| &package.versions).for_each(|version| drop(version.smallest()));
        }
        // A part that is all of it says what it says.
        if let Ok(text) = std::str::from_utf8(bytes)
            && let Ok(parts) = registry::RegistryParts::of(text)
        {
            let read = |_: usize, at: &std::ops::Range<u64>| {
                Ok::<_, ()>(text[at.start as usize..at.end as usize].to_owned())
            };
            let whole = parts.registry(&|_, _| true, read).unwrap();
            assert_eq!(registry::list(whole.as_bytes()).map(|all| all.len()), Ok(parts.packages.len()));
        }
        if let Ok(mut text) = RegistryText::parse(bytes) {
            text.remove_version("a/b", "latest");
            text.named_files();
            registry::check(text.to_string().as_bytes()).unwrap();
        }
    }
    if let Ok(snapshot) = Snapshot::parse(bytes) {
        let moved = snapshot.relocated("/x/", None);
        assert_eq!(moved.relocated("/x/", None), moved);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(lock) = Lockfile::parse(text) {
            lock.packages.iter().for_each(|package| drop(package.version()));
        }
        if let Ok(tag) = text.parse::<Tag>() {
            assert!(!tag.as_str().contains('/') && !tag.as_str().starts_with('.'));
        }
        if let Ok(reference) = text.parse::<Reference>() {
            assert_eq!(reference.to_string().parse(), Ok(reference));
        }
    }
});
