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
