//! A snapshot whose first pages are here: reads of it are answered as soon as what they need has landed.

use crate::arrival::shown::{PackFiles, ShownBody};
use crate::error::{Error, Kind};
use crate::mount::{PageReader, ReadAnswer, ReadRequest, ShownFile};
use crate::pipeline::mutex::lock;
use crate::pull::demands::Demands;
use forkd_format::Tag;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// What the kernel makes a failed read of, and of a page that is mapped a SIGBUS.
const EIO: i32 = 5;

/// What is called where a read can never be answered: who reads, and why.
pub(crate) type Stop = Box<dyn Fn(u32, &Failure) + Send + Sync>;

/// A snapshot that is arriving.
pub struct ArrivalReader {
    /// Its tag.
    pub tag: Tag,
    pub(crate) shown: Vec<(ShownFile, ShownBody)>,
    pub(crate) pack: PackFiles,
    pub(crate) demands: Arc<Demands>,
    pub(crate) state: Mutex<ArrivingState>,
    pub(crate) stop: OnceLock<Stop>,
    /// Bytes of the pack that had to come for what was read so far.
    pub(crate) needed: AtomicU64,
}

impl std::fmt::Debug for ArrivalReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArrivalReader").field("tag", &self.tag).finish_non_exhaustive()
    }
}

pub(crate) struct ArrivingState {
    /// By their places in the pack.
    pub(crate) landed: Vec<bool>,
    pub(crate) waiting: Vec<WaitingRead>,
    /// What reads have waited for, each once.
    pub(crate) demanded: BTreeSet<usize>,
    pub(crate) failed: Option<Failure>,
}

/// A read that waits for frames.
pub(crate) struct WaitingRead {
    request: ReadRequest,
    missing: BTreeSet<usize>,
    answer: ReadAnswer,
}

/// Why nothing more comes.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

impl ArrivalReader {
    /// The files, as a mount shows them.
    pub(crate) fn files(&self) -> Vec<ShownFile> {
        self.shown.iter().map(|(file, _)| file.clone()).collect()
    }

    /// A frame is in its files.
    pub(crate) fn landed(&self, id: usize) {
        let mut state = lock(&self.state);
        state.landed[id] = true;
        let (ready, waiting) = std::mem::take(&mut state.waiting)
            .into_iter()
            .partition(|read| read.missing.iter().all(|id| state.landed[*id]));
        state.waiting = waiting;
        drop(state);
        for WaitingRead { request, answer, .. } in ready {
            self.read(request, answer);
        }
    }

    /// Nothing more comes: whoever waits for it, or will, is stopped.
    pub(crate) fn fail(&self, error: &Error) {
        let failure = Failure { kind: error.kind(), message: error.to_string() };
        let mut state = lock(&self.state);
        state.failed = Some(failure.clone());
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(|read| self.refuse(read.request, read.answer, &failure));
    }

    fn refuse(&self, request: ReadRequest, answer: ReadAnswer, failure: &Failure) {
        let file = &self.shown[request.file].0.name;
        let (from, to) = (request.offset, request.offset + request.len as u64);
        let message = format!("bytes {from}..{to} of {file} did not come: {}", failure.message);
        if let Some(stop) = self.stop.get() {
            stop(request.pid, &Failure { message, ..failure.clone() });
        }
        answer(Err(io::Error::from_raw_os_error(EIO)));
    }
}

impl PageReader for ArrivalReader {
    fn read(&self, request: ReadRequest, answer: ReadAnswer) {
        let mut bytes = vec![0; request.len];
        let Some((_, body)) = self.shown.get(request.file) else {
            return answer(Err(io::ErrorKind::NotFound.into()));
        };
        let mut state = lock(&self.state);
        let Ok(missing) = self.pack.read(&state.landed, body, request.offset, &mut bytes) else {
            return answer(Err(io::Error::from_raw_os_error(EIO)));
        };
        if missing.is_empty() {
            drop(state);
            return answer(Ok(&bytes));
        }
        if let Some(failure) = state.failed.clone() {
            drop(state);
            return self.refuse(request, answer, &failure);
        }
        let wanted = self.pack.header.closure(&missing, |id| state.landed[id]);
        let new = wanted.iter().filter(|id| state.demanded.insert(**id));
        let bytes = new.map(|id| u64::from(self.pack.header.stored(*id).len)).sum();
        self.needed.fetch_add(bytes, Ordering::Relaxed);
        state.waiting.push(WaitingRead { request, missing, answer });
        drop(state);
        self.demands.push(wanted);
    }
}
