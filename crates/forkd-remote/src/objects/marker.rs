//! Publishers and collectors announce themselves, each before it looks for the other: whoever looks second sees the first. So no blob is
//! collected that somebody is about to build upon (`docs/format/release.md`, collecting).

use super::entry::MARKERS;
use super::port::Objects;
use forkd_core::{Cancel, Error, Kind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A marker that is older was left by somebody who is gone.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a publisher waits for a collector.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// What somebody is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Publish,
    Collect,
}

impl Work {
    fn folder(self) -> String {
        match self {
            Self::Publish => format!("{MARKERS}publish/"),
            Self::Collect => format!("{MARKERS}collect/"),
        }
    }
}

/// Somebody is at work, for as long as this lives.
pub(crate) struct Marker {
    objects: Arc<dyn Objects>,
    key: String,
    /// When it was written, by the store's clock.
    pub(crate) since: SystemTime,
}

impl Marker {
    /// Announces work.
    pub(crate) fn put(objects: &Arc<dyn Objects>, work: Work, cancel: &Cancel) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let key = format!("{}{}-{}-{count}", work.folder(), now.as_nanos(), std::process::id());
        objects.put(&key, b"{}", cancel)?;
        let gone =
            || Error::new(Kind::General, format!("{}: what was written cannot be read", objects.name()));
        let since = objects.head(&key, cancel)?.ok_or_else(gone)?.modified;
        Ok(Self { objects: Arc::clone(objects), key, since })
    }

    /// Whether somebody else is at some work.
    pub(crate) fn sees(&self, work: Work, cancel: &Cancel) -> Result<bool> {
        let others = self.objects.list(&work.folder(), cancel)?;
        let fresh = |modified: SystemTime| self.since.duration_since(modified).is_ok_and(|age| age < STALE);
        Ok(others
            .iter()
            .any(|other| other.key != self.key && (other.modified > self.since || fresh(other.modified))))
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        // One that stays counts for nothing after a while.
        let _ = self.objects.delete(&self.key, &Cancel::default());
    }
}

/// Announces a publisher, once nobody collects.
pub(crate) fn publish(objects: &Arc<dyn Objects>, cancel: &Cancel) -> Result<Marker> {
    let marker = Marker::put(objects, Work::Publish, cancel)?;
    let begun = Instant::now();
    while marker.sees(Work::Collect, cancel)? {
        cancel.check()?;
        if begun.elapsed() > PATIENCE {
            let message = format!("{} is being collected", objects.name());
            return Err(Error::new(Kind::Locked, message).hint("try again when that has ended"));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(marker)
}
