//! What interrupted runs left, and what the cache holds beyond its limit.

use crate::app::App;
use forkd_core::Result;
use forkd_core::cache::Cache;
use serde::Serialize;
use std::time::Duration;

/// What a server answered is forgotten when nobody asked again in so long.
const UNUSED_ANSWER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What was deleted.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct GcReport {
    /// Leftovers in the store.
    pub removed: u64,
    /// Files of the cache.
    pub cache_removed: u64,
    /// What those took on the disk, in bytes.
    pub cache_freed_bytes: u64,
}

impl App<'_> {
    /// Deletes what interrupted runs left, and of the cache what is beyond `cache_limit` bytes, least recently used first; or counts it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn gc(&self, cache_limit: u64, dry_run: bool) -> Result<GcReport> {
        let cache_dir = self.settings.cache_dir();
        let store = &self.settings.store;
        let removed = if dry_run { store.leftovers()? } else { store.gc(self.env.progress)? };
        let cache = Cache::new(cache_dir?);
        let freed = if dry_run { cache.beyond(cache_limit)? } else { cache.trim(cache_limit, self.env)? };
        if !dry_run {
            let _ = cache.sweep_answers(UNUSED_ANSWER);
        }
        Ok(GcReport { removed, cache_removed: freed.entries, cache_freed_bytes: freed.bytes })
    }
}
