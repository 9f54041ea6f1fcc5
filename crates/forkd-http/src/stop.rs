//! Waiting for the network, never past the user's patience.

use forkd_core::{Cancel, Error, Result};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a wish to stop may go unseen.
const STEP: Duration = Duration::from_millis(100);

/// What makes it pointless to go on: the user, or a reader that is gone.
#[derive(Clone)]
pub(crate) struct Stop {
    cancel: Cancel,
    is_gone: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
    /// For all of an answer.
    deadline: Option<Instant>,
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}

impl Stop {
    /// Stopped by the user only.
    pub(crate) fn by(cancel: &Cancel) -> Self {
        Self { cancel: cancel.clone(), is_gone: None, deadline: None }
    }

    /// Stopped by the user, or when nobody reads any more.
    pub(crate) fn with_reader(cancel: &Cancel, is_gone: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { cancel: cancel.clone(), is_gone: Some(Arc::new(is_gone)), deadline: None }
    }

    /// The same with a deadline for all of an answer.
    pub(crate) fn before(self, deadline: Option<Instant>) -> Self {
        Self { deadline, ..self }
    }

    /// Puts the deadline off.
    pub(crate) fn allow(&mut self, more: Duration) {
        self.deadline = self.deadline.map(|deadline| deadline + more);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(crate) fn is_set(&self) -> bool {
        self.cancel.is_cancelled() || self.is_gone.as_ref().is_some_and(|is_gone| is_gone())
    }

    /// Sleeps, unless it is pointless. That a deadline has passed is told by whoever waits for the answer.
    pub(crate) async fn sleep(&self, wait: Duration) -> Result<()> {
        match watch(tokio::time::sleep(wait), Duration::MAX, self).await {
            WaitEnd::Value(()) | WaitEnd::Late => Ok(()),
            WaitEnd::Stalled | WaitEnd::Stopped => Err(Error::Interrupted),
        }
    }
}

pub(crate) enum WaitEnd<T> {
    Value(T),
    Stalled,
    /// The deadline for all of the answer has passed.
    Late,
    Stopped,
}

/// Waits for a future, a time limit, a deadline, or a reason to stop.
pub(crate) async fn watch<T>(future: impl Future<Output = T>, limit: Duration, stop: &Stop) -> WaitEnd<T> {
    let begun = Instant::now();
    tokio::pin!(future);
    // Also between things that are always ready, as the bytes of a fast server are.
    if stop.is_set() {
        return WaitEnd::Stopped;
    }
    let left = || stop.deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
    if left().is_zero() {
        return WaitEnd::Late;
    }
    loop {
        let step = STEP.min(limit.saturating_sub(begun.elapsed())).min(left());
        match tokio::time::timeout(step, &mut future).await {
            Ok(value) => return WaitEnd::Value(value),
            Err(_) if stop.is_set() => return WaitEnd::Stopped,
            Err(_) if left().is_zero() => return WaitEnd::Late,
            Err(_) if begun.elapsed() >= limit => return WaitEnd::Stalled,
            Err(_) => {}
        }
    }
}
