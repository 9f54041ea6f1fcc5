//! Pages by where they stand.

/// A page of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PageRef {
    pub(crate) source: usize,
    pub(crate) page: u64,
}

/// A page like one that is to be packed, and which of that one's pieces it has.
pub(crate) type Alike = (PageRef, u128);

/// The pages that are like a page.
pub(crate) struct PageCandidates {
    pub(crate) found: Vec<Alike>,
    /// Pieces that were looked for.
    pub(crate) pieces: u32,
}
