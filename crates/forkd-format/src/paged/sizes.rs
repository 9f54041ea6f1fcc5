//! How files are cut into frames and pages, and the limits of each.

use crate::sizes::PAGE_SIZE;

/// Bytes of a file that one frame covers.
pub const FRAME_SIZE: usize = 1 << 20;
/// Pages that a whole frame covers; the last frame of a file may cover fewer.
pub const FRAME_PAGES: usize = FRAME_SIZE / PAGE_SIZE;
/// Reference pages that one frame may name for its prefix.
pub const MAX_PREFIX_PAGES: usize = 1024;
/// The largest window that a frame's zstd part may ask for, in bytes.
pub const MAX_WINDOW: u64 = 8 << 20;
/// Base files that a pack may name.
pub const MAX_BASES: usize = 1024;
/// Frames of the pack that one frame may refer to.
pub const MAX_NEEDS: usize = 32;
/// How deep frames may refer to each other: one that refers to none has depth 0.
pub const MAX_DEPTH: u8 = 32;
/// The longest frame, in bytes: a whole frame that does not compress, its plan, and what zstd adds.
pub const MAX_FRAME_LEN: usize = FRAME_SIZE + (64 << 10);
/// What a reader asks for first where it does not know how long a pack's header is, in bytes.
pub const HEADER_GUESS: u64 = 64 << 10;

/// How many frames cover a file of so many bytes.
#[must_use]
pub fn frame_count(size: u64) -> usize {
    size.div_ceil(FRAME_SIZE as u64) as usize
}

/// Bytes of a file that its frame `number` covers.
#[must_use]
pub fn frame_len(size: u64, number: usize) -> usize {
    size.saturating_sub(number as u64 * FRAME_SIZE as u64).min(FRAME_SIZE as u64) as usize
}

/// How many pages cover so many bytes; the last one may be short.
#[must_use]
pub fn page_count(len: usize) -> usize {
    len.div_ceil(PAGE_SIZE)
}
