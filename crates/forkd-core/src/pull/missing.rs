//! Which frames must come.

use crate::pack::paged::header::PagedHeader;
use crate::pack::paged::header_parts::BaseBody;
use crate::store::by_content::{self, LocalBlocks, LocalFile};
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
    let mut reused: BTreeMap<Tag, u64> = BTreeMap::new();
    let mut here = vec![false; header.frames()];
    for (number, base) in header.bases.iter().enumerate() {
        if let BaseBody::File(base) = &base.body
            && by_content::find_base(files, base).is_some()
        {
            here[header.ids_of(header.base_file(number))].fill(true);
        }
    }
    for id in (0..here.len()).filter(|id| header.place(*id).0 < header.set_file()) {
        if let Some((local, _)) = blocks.places(header.stored(id).sum).first() {
            here[id] = true;
            *reused.entry(files[*local].tag.clone()).or_default() += header.len(id) as u64;
        }
    }
    for id in header.all_set_ids() {
        here[id] = header.pages_are_in(id, |of| here[of]);
    }
    let wanted = header.wanted(|id| here[id]);
    let bytes = wanted.iter().map(|id| u64::from(header.stored(*id).len)).sum();
    MissingFrames { bytes, reused }
}
