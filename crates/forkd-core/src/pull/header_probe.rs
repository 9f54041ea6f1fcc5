//! A paged pack or a release, seen from here: its header, and where its frames lie.

use crate::pack::computed_id::ComputedId;
use crate::pack::paged::header::PagedHeader;
use crate::pull::frame_place::FramePlace;
use crate::release::link_note::ReleaseOrigin;
use std::io::Read;

/// What was read of a paged pack or a release: it is the one that was offered.
pub(crate) struct HeaderProbe<'a> {
    pub(crate) header: PagedHeader,
    /// What names it, where something was claimed and holds.
    pub(crate) verified: Option<ComputedId>,
    pub(crate) place: FramePlace,
    /// The frames, where the server gives no ranges and is sending them all.
    pub(crate) stream: Option<Box<dyn Read + Send + 'a>>,
    /// The first frames, where they were asked for with the header.
    pub(crate) front: Option<Front<'a>>,
    /// Where a release comes from.
    pub(crate) from: Option<ReleaseOrigin>,
}

/// What comes behind a header without another request.
pub(crate) struct Front<'a> {
    pub(crate) body: Box<dyn Read + Send + 'a>,
    /// Where it ends in the pack.
    pub(crate) end: u64,
}
