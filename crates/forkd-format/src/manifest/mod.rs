//! `manifest.toml`, versions 1 and 2 (`docs/format/pack.md`) and 3 (`docs/format/pack-v3.md`).

mod base;
mod document;
mod link;
mod rules;
mod wire;

pub use base::{Base, BaseKind, kernel_file_name};
pub use document::Manifest;
pub use link::{
    FILE_ORDER, FileEntry, IndexEntry, Link, MANIFEST, MAX_CHAIN, MAX_MANIFEST, MAX_UNPACKED, MEMORY, ROOTFS,
    RootfsSidecar, SNAPSHOT_JSON, VMSTATE,
};
