//! Which frames must come.

use crate::pack::paged::header::PagedHeader;
use crate::store::by_content::{LocalBlocks, LocalFile};
use forkd_format::Tag;
use std::collections::BTreeMap;

/// Which frames of a pack must be fetched.
pub(crate) struct MissingFrames {
    /// Their bytes in the pack.
    pub(crate) bytes: u64,
    /// Content that the store seems to have, by the tag that has it, in bytes.
    pub(crate) reused: BTreeMap<Tag, u64>,
}

/// Looks frames up in the store, by checksums that prove nothing yet.
pub(crate) fn missing(header: &PagedHeader, files: &[LocalFile], blocks: &LocalBlocks) -> MissingFrames {
    let mut missing = MissingFrames { bytes: 0, reused: BTreeMap::new() };
    let mut here = vec![false; header.frames()];
    for (id, here) in here.iter_mut().enumerate().skip(header.set_ids().end) {
        let frame = header.stored(id);
        match blocks.places(frame.sum).first() {
            Some((local, _)) => {
                *here = true;
                *missing.reused.entry(files[*local].tag.clone()).or_default() += header.len(id) as u64;
            }
            None => missing.bytes += u64::from(frame.len),
        }
    }
    for id in header.set_ids().filter(|id| !header.pages_are_in(*id, |of| here[of])) {
        missing.bytes += u64::from(header.stored(id).len);
    }
    missing
}
