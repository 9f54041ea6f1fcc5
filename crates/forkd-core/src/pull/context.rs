use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::hub::registry::Target;
use crate::hub::remote::Remote;
use crate::store::partial::Partial;
use crate::store::record::Source;
use crate::store::root::Store;
use crate::unpack::plan::UnpackOptions;
use forkd_format::Digest;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How to pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// What.
    pub target: Target,
    /// Tag and force.
    pub unpack: UnpackOptions,
    /// Connections at a time, 1 to 16.
    pub connections: usize,
}

/// What all parts of one pull share.
#[derive(Clone)]
pub(crate) struct Pulling<'a> {
    pub(crate) store: &'a Store,
    pub(crate) remote: &'a dyn Remote,
    pub(crate) options: &'a PullOptions,
    pub(crate) env: Env<'a>,
    pub(crate) moved: Moved,
}

/// Bytes that came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moved(pub(crate) Arc<AtomicU64>);

impl Moved {
    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A stream whose bytes are counted.
pub(crate) struct Counted<R> {
    pub(crate) body: R,
    pub(crate) moved: Moved,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.body.read(buffer)?;
        self.moved.add(read as u64);
        Ok(read)
    }
}

/// What is to become of what has landed: it goes once the pull is done, or where the pack was refused; else the next run goes on with it.
pub(crate) fn settle<T>(partial: Partial, outcome: Result<T>) -> Result<T> {
    let worthless = match &outcome {
        Ok(_) => true,
        Err(Error::Changed { .. }) => true,
        Err(error) => error.kind() == Kind::Integrity || partial.is_empty(),
    };
    if worthless {
        let removed = partial.remove();
        return outcome.and_then(|value| removed.map(|()| value));
    }
    outcome
}

pub(crate) fn source_of(name: &str, sha256: Option<Digest>) -> Source {
    Source { name: name.to_owned(), head: None, sha256 }
}
