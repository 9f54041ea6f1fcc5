//! A bound on the bytes per second of all connections together.

use crate::stop::Stop;
use forkd_core::Result;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What may be caught up on after a pause; timers that come late must not lower the rate.
const CREDIT: Duration = Duration::from_millis(50);

/// A token bucket that is kept as a time: when all that was let through so far is paid for.
#[derive(Debug)]
pub(crate) struct RateLimit {
    rate: u64,
    paid: Mutex<Instant>,
}

impl RateLimit {
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate, paid: Mutex::new(Instant::now()) }
    }

    /// The most bytes to let through at once, a twentieth of a second's: with the credit, bursts stay within a tenth.
    pub(crate) fn piece(&self) -> usize {
        usize::try_from(self.rate / 20).unwrap_or(usize::MAX).max(1)
    }

    /// Waits until so many bytes more may pass; whether it had to.
    pub(crate) async fn pass(&self, bytes: usize, stop: &Stop) -> Result<bool> {
        let wait = self.reserve(bytes, Instant::now());
        if wait.is_zero() {
            return Ok(false);
        }
        stop.sleep(wait).await.map(|()| true)
    }

    fn reserve(&self, bytes: usize, now: Instant) -> Duration {
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let from = now.checked_sub(CREDIT).map_or(now, |earliest| earliest.max(*paid));
        let wait = from.saturating_duration_since(now);
        *paid = from + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_holds_whoever_asks_and_a_pause_earns_little() {
        let limiter = RateLimit::new(1000);
        assert_eq!(limiter.piece(), 50);
        let begun = Instant::now() + Duration::from_secs(10);
        assert_eq!(limiter.reserve(50, begun), Duration::ZERO);
        assert_eq!(limiter.reserve(50, begun), Duration::ZERO);
        assert_eq!(limiter.reserve(50, begun), Duration::from_millis(50));
        assert_eq!(limiter.reserve(50, begun), Duration::from_millis(100));
        let later = begun + Duration::from_secs(100);
        assert_eq!(limiter.reserve(100, later), Duration::ZERO);
        assert_eq!(limiter.reserve(50, later), Duration::from_millis(50));
        assert_eq!(RateLimit::new(1).piece(), 1);
    }
}
