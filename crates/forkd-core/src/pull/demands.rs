//! What children wait for while a snapshot arrives.

use crate::pipeline::mutex::lock;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Frames that someone waits for, before all others.
#[derive(Debug, Default)]
pub(crate) struct Demands {
    frames: Mutex<VecDeque<usize>>,
    changed: Condvar,
    /// Whether nothing else is to come for now.
    alone: AtomicBool,
}

impl Demands {
    /// Until [`Demands::share`] nothing comes but what is demanded: all of the link is for that.
    pub(crate) fn come_alone(&self) {
        self.alone.store(true, Ordering::SeqCst);
    }

    /// From now on other frames come as well.
    pub(crate) fn share(&self) {
        self.alone.store(false, Ordering::SeqCst);
        self.wake();
    }

    /// These before those that were demanded so far.
    pub(crate) fn push(&self, frames: BTreeSet<usize>) {
        let mut queue = lock(&self.frames);
        frames.into_iter().rev().for_each(|id| queue.push_front(id));
        self.changed.notify_all();
    }

    pub(crate) fn are_alone(&self) -> bool {
        self.alone.load(Ordering::SeqCst)
    }

    /// The first of them that is still missing.
    pub(crate) fn pop(&self, missing: &BTreeSet<usize>) -> Option<usize> {
        let mut frames = lock(&self.frames);
        frames.retain(|id| missing.contains(id));
        frames.pop_front()
    }

    /// Gives `guard` away and waits for a change, for a while, unless something is demanded already.
    pub(crate) fn wait<T>(&self, guard: MutexGuard<'_, T>) {
        // Looked at under their lock, so that none is missed while this falls asleep.
        let frames = lock(&self.frames);
        drop(guard);
        if frames.is_empty() {
            let waited = self.changed.wait_timeout(frames, Duration::from_millis(50));
            drop(waited.unwrap_or_else(PoisonError::into_inner).0);
        }
    }

    /// Under the lock that connections fall asleep with, so that none of them misses it.
    pub(crate) fn wake(&self) {
        let _frames = lock(&self.frames);
        self.changed.notify_all();
    }
}
