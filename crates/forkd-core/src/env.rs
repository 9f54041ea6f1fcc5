use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request to stop, seen by every long operation within a fraction of a second.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>, Option<Arc<AtomicBool>>);

impl Cancel {
    /// The flag itself, for a signal handler.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// One that is stopped with this one, or by itself.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(Arc::default(), Some(self.flag()))
    }

    /// Asks for a stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst) || self.1.as_ref().is_some_and(|parent| parent.load(Ordering::SeqCst))
    }

    /// Fails once a stop was asked for.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Where an operation tells how far it is.
pub trait Progress: Send + Sync {
    /// A task begins: what it does, and of how many bytes, where that is known.
    fn start(&self, task: &str, total: Option<u64>);
    /// So many bytes more are done.
    fn advance(&self, bytes: u64);
    /// The task has ended.
    fn finish(&self);
    /// Something that the user should know now, such as a wait.
    fn note(&self, line: &str);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _task: &str, _total: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
    fn note(&self, _line: &str) {}
}

/// What every long operation is given.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    /// Where progress goes.
    pub progress: &'a dyn Progress,
    /// How it is stopped.
    pub cancel: &'a Cancel,
    /// Threads for hashing, compressing and decoding.
    pub jobs: usize,
}

impl std::fmt::Debug for Env<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("jobs", &self.jobs).finish_non_exhaustive()
    }
}
