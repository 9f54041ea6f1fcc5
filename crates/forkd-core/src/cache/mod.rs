//! What can be fetched or made again (`docs/format/store.md`).

pub(crate) mod answers;
pub(crate) mod entry;
pub(crate) mod folder;
pub(crate) mod registries;
#[cfg(test)]
mod tests;

pub use entry::{CacheEntry, CacheSlot, CacheWriter};
pub use folder::{Cache, CacheInfo, CacheKind, Freed};
