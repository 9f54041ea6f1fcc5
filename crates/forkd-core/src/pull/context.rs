//! What all parts of one pull share.

use crate::arrival::begin::Arrivals;
use crate::cache::answers::AnswerCache;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::hub::offer::Offer;
use crate::hub::port::Hub;
use crate::hub::remote::{Location, Remote};
use crate::hub::repository::{ManifestName, Repository};
use crate::pipeline::mutex::lock;
use crate::store::root::Store;
use crate::store::workdir::WorkDir;
use crate::unpack::plan::UnpackOptions;
use forkd_format::{Digest, Reference};
use std::fmt;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What to pull.
#[derive(Clone)]
pub enum PullTarget<'a> {
    /// A pack at a URL.
    Url(Location),
    /// A release in a repository.
    Release { repository: &'a dyn Repository, name: ManifestName },
    /// A name on a hub.
    Name {
        /// The name.
        reference: Reference,
        hub: &'a dyn Hub,
    },
    /// What a name stood for when it was looked up.
    Offers { reference: Reference, offers: Vec<Offer> },
}

impl fmt::Debug for PullTarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(location) => write!(f, "{location}"),
            Self::Release { repository, name } => write!(f, "{}:{name}", repository.name()),
            Self::Name { reference, hub } => write!(f, "{reference} of {}", hub.name()),
            Self::Offers { reference, .. } => write!(f, "{reference}, locked"),
        }
    }
}

/// Connections at a time, where the user names no number.
pub const CONNECTIONS: usize = 8;

/// The same where the server is far away: what packets that get lost there cost, they cost each connection by itself.
const FAR_CONNECTIONS: usize = 12;

/// No answer of a server that is near takes as long.
const FAR: Duration = Duration::from_millis(15);

/// What a server is asked to bear at most.
const MOST_CONNECTIONS: usize = 16;

/// How to pull.
#[derive(Clone)]
pub struct PullOptions<'a> {
    pub target: PullTarget<'a>,
    /// Tag and force.
    pub unpack: UnpackOptions,
    /// Connections at a time, 1 to 16; `None` for [`CONNECTIONS`], and some more where the server is far away.
    pub connections: Option<usize>,
    /// Told as soon as the snapshot can be forked, if the pack lets it be before all is here.
    pub arrivals: Option<&'a dyn Arrivals>,
}

impl PullOptions<'_> {
    /// Connections to a server, of whose answers so far the quickest took so long.
    pub(crate) fn connections(&self, quickest: Option<Duration>) -> usize {
        let is_far = quickest.is_some_and(|quickest| quickest > FAR);
        let usual = if is_far { FAR_CONNECTIONS } else { CONNECTIONS };
        self.connections.unwrap_or(usual).clamp(1, MOST_CONNECTIONS)
    }
}

impl fmt::Debug for PullOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullOptions").field("target", &self.target).finish_non_exhaustive()
    }
}

/// One pull.
#[derive(Clone)]
pub(crate) struct PullContext<'a> {
    pub(crate) store: &'a Store,
    pub(crate) remote: &'a dyn Remote,
    pub(crate) options: &'a PullOptions<'a>,
    pub(crate) env: Env<'a>,
    pub(crate) traffic: Traffic,
}

impl<'a> PullContext<'a> {
    pub(crate) fn answers(&self) -> AnswerCache<'a> {
        AnswerCache(self.options.unpack.cache.as_ref())
    }
}

/// Bytes that came, and how fast answers did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traffic(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    quickest: Mutex<Option<Duration>>,
}

impl Traffic {
    pub(crate) fn add(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// A request, with the time that its answer takes.
    pub(crate) fn ask<T>(&self, request: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let answer = request();
        let mut quickest = lock(&self.0.quickest);
        let took = begun.elapsed();
        *quickest = Some(quickest.map_or(took, |least| least.min(took)));
        answer
    }

    /// `None` before the first one.
    pub(crate) fn quickest_answer(&self) -> Option<Duration> {
        *lock(&self.0.quickest)
    }

    /// A body whose bytes are counted.
    pub(crate) fn meter<R>(&self, body: R) -> TrafficMeter<R> {
        TrafficMeter { body, traffic: self.clone() }
    }
}

/// A stream that counts its bytes.
pub(crate) struct TrafficMeter<R> {
    body: R,
    traffic: Traffic,
}

impl<R: Read> Read for TrafficMeter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.body.read(buffer)?;
        self.traffic.add(read as u64);
        Ok(read)
    }
}

/// The download of a paged pack.
pub(crate) fn paged_key(manifest: Digest) -> String {
    format!("pack-{}", &manifest.to_string()[..32])
}

/// Files of a download whose bytes are worth going on with.
pub(crate) const JOURNAL: &str = "journal";
pub(crate) const PACK: &str = "pack";

/// What is to become of what has landed: it goes once the pull is done, or where the pack was refused; else the next run goes on with it.
pub(crate) fn settle<T>(download: WorkDir, outcome: Result<T>) -> Result<T> {
    let worthless = match &outcome {
        Ok(_) | Err(Error::Changed { .. }) => true,
        Err(error) => error.kind() == Kind::Integrity || download.are_empty(&[JOURNAL, PACK]),
    };
    if worthless {
        let removed = download.remove();
        return outcome.and_then(|value| removed.map(|()| value));
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_servers_have_more_connections_unless_the_user_says_how_many() {
        let target = PullTarget::Url(Location::parse("https://h/p").unwrap());
        let with = |connections| PullOptions {
            target: target.clone(),
            unpack: UnpackOptions::default(),
            connections,
            arrivals: None,
        };
        let traffic = Traffic::default();
        assert_eq!(with(None).connections(traffic.quickest_answer()), 8);
        traffic.ask(|| std::thread::sleep(FAR * 2));
        assert_eq!(with(None).connections(traffic.quickest_answer()), 12);
        assert_eq!(with(Some(3)).connections(traffic.quickest_answer()), 3);
        assert_eq!(with(Some(99)).connections(None), 16);
        // One quick answer is enough to know that it is near.
        traffic.ask(|| ());
        assert_eq!(with(None).connections(traffic.quickest_answer()), 8);
    }
}
