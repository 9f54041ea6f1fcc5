//! A fixed number of buffers that go round: they bound memory, and the wait for a free one is what slows a reader down
//! to the pace of the workers.

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

pub(crate) struct Buffers {
    count: usize,
    free: Mutex<Vec<Vec<u8>>>,
    wake: Condvar,
}

/// A buffer of fixed length that goes back to its pool when it is dropped.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    home: Arc<Buffers>,
}

impl Buffers {
    pub(crate) fn new(count: usize, len: usize) -> Arc<Self> {
        // Zeroed by the kernel when first touched: unused buffers cost nothing.
        Arc::new(Self {
            count,
            free: Mutex::new((0..count).map(|_| vec![0; len]).collect()),
            wake: Condvar::new(),
        })
    }

    /// Waits for a free buffer while fewer than `most` are in use, until `stop` says so or the user does.
    pub(crate) fn take(
        self: &Arc<Self>,
        most: usize,
        cancel: &Cancel,
        stop: impl Fn() -> bool,
    ) -> Result<Buffer> {
        loop {
            // Asked without the lock: a pipeline that fails drops its buffers, which takes it.
            cancel.check()?;
            if stop() {
                return Err(Error::new(Kind::General, "stopped"));
            }
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            if self.count - free.len() < most
                && let Some(bytes) = free.pop()
            {
                return Ok(Buffer { bytes, home: Arc::clone(self) });
            }
            drop(self.wake.wait_timeout(free, Duration::from_millis(100)));
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.home.free.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        self.home.wake.notify_one();
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// Frames in memory at a time, before they are decoded or after they are made: enough to keep the workers busy, few enough to
/// stay under 256 MiB in all.
pub(crate) fn frames_in_flight(jobs: usize) -> usize {
    (2 * jobs + 4).min(20)
}

/// Decoded pieces in memory at a time. More than workers need: while one hashes a long stretch of zeros, others decode ahead.
pub(crate) const DECODED_IN_FLIGHT: usize = 26;
