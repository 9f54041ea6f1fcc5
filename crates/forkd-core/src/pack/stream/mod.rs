//! Stream packs (versions 1 and 2, `docs/format/pack.md`): one tar archive in zstd frames.

pub(crate) mod content;
pub(crate) mod read;
pub(crate) mod write;
pub(crate) mod zstd_frames;
