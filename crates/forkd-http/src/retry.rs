//! Trying again: how often, and after what wait.

use crate::failure::Failure;
use crate::options::HttpOptions;
use forkd_core::{Cancel, Kind, Result};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The longest wait before another try, whatever a server asks for.
const LONGEST: Duration = Duration::from_secs(30);

/// The tries since the last progress.
#[derive(Debug)]
pub struct Tries {
    limit: u32,
    backoff: Duration,
    made: u32,
}

impl Tries {
    /// None was made yet.
    #[must_use]
    pub fn new(options: &HttpOptions) -> Self {
        Self { limit: options.tries.max(1), backoff: options.backoff, made: 0 }
    }

    /// One more is made.
    pub fn begin(&mut self) {
        self.made += 1;
    }

    /// The last one brought something: those before it no longer count.
    pub fn progress(&mut self) {
        self.made = 0;
    }

    /// How long to wait before another try.
    ///
    /// # Errors
    /// The failure itself, where no try is left or none would help.
    pub fn another(&self, failed: Failure) -> Result<Duration> {
        if self.made >= self.limit || failed.error.kind() != Kind::Transient {
            return Err(failed.error);
        }
        let doubled = 2_u32.saturating_pow(self.made.saturating_sub(1));
        let wait = jitter(self.backoff.saturating_mul(doubled).min(LONGEST));
        // A server's own figure is the least that it wants, so what scatters comes on top.
        Ok(failed.retry_after.map_or(wait, |asked| asked.min(LONGEST) + wait / 4))
    }
}

impl Tries {
    /// Waits before another try, on a thread that may block.
    ///
    /// # Errors
    /// As [`Tries::another`]; [`forkd_core::Error::Interrupted`].
    pub fn wait(&self, failed: Failure, cancel: &Cancel) -> Result<()> {
        let (wait, begun) = (self.another(failed)?, Instant::now());
        while begun.elapsed() < wait {
            cancel.check()?;
            std::thread::sleep(Duration::from_millis(20).min(wait));
        }
        Ok(())
    }
}

/// Between half and all of a wait, so that many who failed together do not come back together.
fn jitter(wait: Duration) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    wait / 2 + wait.mul_f64(f64::from(now.subsec_nanos() % 1000) / 2000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use forkd_core::Error;

    #[test]
    fn tries_end_and_progress_begins_them_anew() {
        let options = HttpOptions { tries: 2, backoff: Duration::from_millis(8), ..HttpOptions::default() };
        let mut tries = Tries::new(&options);
        let failed = |kind, asked| Failure { error: Error::new(kind, "x"), retry_after: asked };
        tries.begin();
        assert!(tries.another(failed(Kind::General, None)).is_err());
        assert!(tries.another(failed(Kind::Transient, None)).unwrap() <= options.backoff);
        let patient = tries.another(failed(Kind::Transient, Some(Duration::MAX))).unwrap();
        assert!(patient >= LONGEST && patient < LONGEST * 2);
        tries.begin();
        assert!(tries.another(failed(Kind::Transient, None)).is_err());
        tries.progress();
        assert!(tries.another(failed(Kind::Transient, None)).is_ok());
    }
}
