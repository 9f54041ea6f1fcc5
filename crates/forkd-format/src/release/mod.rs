//! Releases (`docs/format/release.md`): a snapshot and its ancestors as blobs that are named by their digests, so that what several
//! releases have is stored, sent and fetched once. An OCI image manifest names a configuration, an index and the blobs.

mod config;
mod descriptor;
mod file_reader;
mod index;
mod manifest;
mod paged_file;
mod variants;

pub use config::{LinkFiles, ReleaseBase, ReleaseConfig};
pub use descriptor::{Annotations, Descriptor};
pub use index::ReleaseIndex;
pub use manifest::{MAX_BLOBS, MAX_RELEASE_MANIFEST, ReleaseManifest, media};
pub use paged_file::{FileBlob, FileFrame, FrameRef, PagedFile};
pub use variants::{ReleaseDocument, ReleaseVariants};
