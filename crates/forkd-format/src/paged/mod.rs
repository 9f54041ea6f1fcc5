//! Paged packs, which is format 3 (`docs/format/pack-v3.md`): a manifest, an index, and frames that can each be fetched and decoded alone.

mod file_frames;
mod file_root;
mod frame_hash;
mod index;
mod plan;
mod sizes;
mod skippable;
mod table_reader;
mod varint;
mod working_set;

pub use file_frames::{FileFrames, StoredFrame};
pub use file_root::{FileRoot, RootHasher};
pub use frame_hash::{FrameHash, FrameHasher, frame_hash, zero_frame_hash};
pub use index::Index;
pub use plan::{PageRun, PlacedRun, Plan, RefRun, RunKind};
pub use sizes::{
    FRAME_PAGES, FRAME_SIZE, HEADER_GUESS, MAX_BASES, MAX_DEPTH, MAX_FRAME_LEN, MAX_NEEDS, MAX_PREFIX_PAGES,
    MAX_WINDOW, frame_count, frame_len, page_count,
};
pub use skippable::{
    SKIPPABLE_HEADER, data_frame_header, index_frame_header, parse_data_frame, parse_index_frame_header,
};
pub(crate) use varint::{NumberReader, put, put_signed};
pub use working_set::{SetRun, WorkingSet};
