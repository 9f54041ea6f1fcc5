//! What every operation is given: how far it is told, how it is stopped, how many threads it has.

use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request to stop, seen by every long operation within a fraction of a second.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    own: Arc<AtomicBool>,
    /// Those of whoever asked for the work, and of whoever asked them.
    above: Vec<Arc<AtomicBool>>,
}

impl Cancel {
    /// The flag itself, for a signal handler.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.own)
    }

    /// One that is stopped with this one and all that this one is stopped with, or by itself.
    #[must_use]
    pub fn child(&self) -> Self {
        let above = self.above.iter().cloned().chain([self.flag()]).collect();
        Self { own: Arc::default(), above }
    }

    /// Asks for a stop.
    pub fn cancel(&self) {
        self.own.store(true, Ordering::SeqCst);
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        std::iter::once(&self.own).chain(&self.above).any(|flag| flag.load(Ordering::SeqCst))
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
    /// So many bytes of the task are here from an earlier run: they will be told as done, and say nothing about its pace.
    fn resume(&self, bytes: u64) {
        let _ = bytes;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grandchild_hears_its_grandparent() {
        let parent = Cancel::default();
        let child = parent.child();
        let grandchild = child.child();
        child.child().cancel();
        assert!(!grandchild.is_cancelled());
        grandchild.cancel();
        assert!(!child.is_cancelled() && grandchild.check().is_err());
        let other = child.child();
        parent.cancel();
        assert!(other.is_cancelled() && child.is_cancelled());
    }
}
