//! Which frames must come, and in which requests.

use crate::pack::paged::header::PagedHeader;
use crate::store::by_content::{LocalBlocks, LocalFile};
use forkd_format::Tag;
use std::collections::BTreeMap;

/// Frames that are not wanted are fetched along where they are so short that another request would cost more.
pub(crate) const GAP: u64 = 8 << 10;

/// The longest range that one request asks for.
pub(crate) const LONGEST: u64 = 8 << 20;

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

/// A stretch of a pack: its bytes, and the frames in it.
pub(crate) struct Stretch {
    pub(crate) bytes: std::ops::Range<u64>,
    pub(crate) ids: std::ops::Range<usize>,
}

/// The stretches of a pack that hold the frames that are missing: neighbours joined, none too long, so that connections share them.
pub(crate) fn ranges(header: &PagedHeader, landed: &[bool]) -> Vec<Stretch> {
    let mut ranges: Vec<Stretch> = Vec::new();
    for id in (0..header.frames()).filter(|id| !landed[*id]) {
        let frame = header.stored(id);
        let end = frame.offset + u64::from(frame.len);
        match ranges.last_mut() {
            Some(Stretch { bytes, ids })
                if frame.offset - bytes.end <= GAP && end - bytes.start <= LONGEST =>
            {
                (bytes.end, ids.end) = (end, id + 1);
            }
            _ => ranges.push(Stretch { bytes: frame.offset..end, ids: id..id + 1 }),
        }
    }
    ranges
}
