//! Releases: snapshots as blobs that are named by what they hold (`docs/format/release.md`).

pub(crate) mod build;
pub(crate) mod compose;
pub(crate) mod known;
pub(crate) mod link;
pub(crate) mod link_note;
pub(crate) mod mirror;
pub(crate) mod open;
pub(crate) mod options;
pub(crate) mod push;
pub(crate) mod told;
pub(crate) mod variants;

/// For the fuzzer: puts documents together, where they are some; gives how many frames there are and where each blob's lie.
#[cfg(fuzzing)]
#[must_use]
pub fn fuzz_release(
    manifest: &[u8],
    config: &[u8],
    index: &[u8],
) -> Option<(usize, Vec<std::ops::Range<u64>>)> {
    use crate::pack::computed_id::ComputedId;
    let id = ComputedId::of_release(manifest);
    let manifest = forkd_format::release::ReleaseManifest::parse(manifest).ok()?;
    let composed = open::parse(manifest, config, index, "fuzzed").ok()?.compose(id, "fuzzed").ok()?;
    let header = composed.header;
    let all = header.wanted(|_| false);
    for id in all {
        assert!(header.stored(id).needs.iter().all(|need| (*need as usize) < id));
        assert!(header.len(id) > 0);
    }
    Some((header.frames(), composed.blobs.into_iter().map(|(_, range)| range).collect()))
}
