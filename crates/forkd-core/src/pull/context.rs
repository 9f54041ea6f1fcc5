//! What all parts of one pull share.

use crate::arrival::begin::Arrivals;
use crate::cache::answers::AnswerCache;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::hub::port::Hub;
use crate::hub::remote::{Location, Remote};
use crate::hub::repository::{ManifestName, Repository};
use crate::store::root::Store;
use crate::store::workdir::WorkDir;
use crate::unpack::plan::UnpackOptions;
use forkd_format::{Digest, Reference};
use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
}

impl fmt::Debug for PullTarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(location) => write!(f, "{location}"),
            Self::Release { repository, name } => write!(f, "{}:{name}", repository.name()),
            Self::Name { reference, hub } => write!(f, "{reference} of {}", hub.name()),
        }
    }
}

/// How to pull.
#[derive(Clone)]
pub struct PullOptions<'a> {
    pub target: PullTarget<'a>,
    /// Tag and force.
    pub unpack: UnpackOptions,
    /// Connections at a time, 1 to 16.
    pub connections: usize,
    /// Told as soon as the snapshot can be forked, if the pack lets it be before all is here.
    pub arrivals: Option<&'a dyn Arrivals>,
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

/// Bytes that came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traffic(Arc<AtomicU64>);

impl Traffic {
    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
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
