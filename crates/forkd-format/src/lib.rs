//! Bytes to types and back: everything that forkd reads from strangers is parsed here.
//!
//! This crate works on byte slices and strings only. It knows no paths, no network and no clock, so that all of
//! it can be fuzzed. The formats are specified in `docs/format/`; where code and document disagree, the code is wrong.
#![forbid(unsafe_code)]

mod digest;
mod error;
pub mod layout;
mod little_endian;
mod lockfile;
pub mod manifest;
mod pack_format;
pub mod paged;
pub mod reader;
pub mod recipe;
mod reference;
pub mod registry;
pub mod registry_text;
pub mod release;
mod sizes;
mod snapshot;
mod tag;
mod tar;
pub mod tar_rules;
pub mod zstd_frame;

pub use digest::{Digest, Hasher};
pub use error::FormatError;
pub use lockfile::{LockedPackage, LockedVariant, Lockfile};
pub use manifest::Manifest;
pub use pack_format::{PackFormat, PackId};
pub use recipe::Recipe;
pub use reference::Reference;
pub use sizes::{PAGE_SIZE, PIECE_SIZE};
pub use snapshot::{NeededFile, NeededRun, ParentLink, Snapshot, is_in_runs};
pub use tag::Tag;
