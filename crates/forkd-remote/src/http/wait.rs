//! Waiting: for a future, for another try, never past the user's patience.

use super::body::Item;
use super::errors::Failed;
use super::{HttpOptions, jitter};
use forkd_core::{Cancel, Error, Kind, Result};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// The longest wait before another try, whatever a server asks for.
const LONGEST: Duration = Duration::from_secs(30);
/// How long a wish to stop may go unseen.
const STEP: Duration = Duration::from_millis(100);

/// What makes it pointless to go on: the user, or a reader that is gone.
#[derive(Clone)]
pub(super) struct Stop {
    pub(super) cancel: Cancel,
    pub(super) reader: Option<mpsc::Sender<Item>>,
}

impl Stop {
    pub(super) fn is_set(&self) -> bool {
        self.cancel.is_cancelled() || self.reader.as_ref().is_some_and(mpsc::Sender::is_closed)
    }

    /// Sleeps, unless it is pointless.
    pub(super) async fn sleep(&self, wait: Duration) -> Result<()> {
        match watch(tokio::time::sleep(wait), Duration::MAX, self).await {
            Waited::Value(()) => Ok(()),
            Waited::Stalled | Waited::Stopped => Err(Error::Interrupted),
        }
    }
}

pub(super) enum Waited<T> {
    Value(T),
    Stalled,
    Stopped,
}

/// Waits for a future, a time limit, or a reason to stop.
pub(super) async fn watch<T>(future: impl Future<Output = T>, limit: Duration, stop: &Stop) -> Waited<T> {
    let begun = Instant::now();
    tokio::pin!(future);
    // Also between things that are always ready, as the bytes of a fast server are.
    if stop.is_set() {
        return Waited::Stopped;
    }
    loop {
        let step = STEP.min(limit.saturating_sub(begun.elapsed()));
        match tokio::time::timeout(step, &mut future).await {
            Ok(value) => return Waited::Value(value),
            Err(_) if stop.is_set() => return Waited::Stopped,
            Err(_) if begun.elapsed() >= limit => return Waited::Stalled,
            Err(_) => {}
        }
    }
}

/// The tries since the last progress.
pub(super) struct Tries {
    limit: u32,
    backoff: Duration,
    made: u32,
}

impl Tries {
    pub(super) fn new(options: &HttpOptions) -> Self {
        Self { limit: options.tries.max(1), backoff: options.backoff, made: 0 }
    }

    pub(super) fn begin(&mut self) {
        self.made += 1;
    }

    pub(super) fn progress(&mut self) {
        self.made = 0;
    }

    /// How long to wait before another try; the failure itself where none is left or none would help.
    pub(super) fn another(&self, failed: Failed) -> Result<Duration> {
        if self.made >= self.limit || failed.error.kind() != Kind::Transient {
            return Err(failed.error);
        }
        let doubled = 2_u32.saturating_pow(self.made.saturating_sub(1));
        let wait = jitter(self.backoff.saturating_mul(doubled).min(LONGEST));
        // A server's own figure is the least that it wants, so what scatters comes on top.
        Ok(failed.retry_after.map_or(wait, |asked| asked.min(LONGEST) + wait / 4))
    }
}

/// How long a server wants to be left alone: seconds, or a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(then.duration_since(jiff::Timestamp::now()).try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, text.parse().unwrap());
        retry_after(&headers)
    }

    #[test]
    fn a_server_may_name_seconds_or_a_date() {
        assert_eq!(wanted("7"), Some(Duration::from_secs(7)));
        assert_eq!(wanted("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(wanted("Fri, 01 Jan 2100 00:00:00 GMT") > Some(LONGEST));
        assert_eq!(wanted("soon"), None);
    }

    #[test]
    fn tries_end_and_progress_begins_them_anew() {
        let options = HttpOptions { tries: 2, backoff: Duration::from_millis(8), ..HttpOptions::default() };
        let mut tries = Tries::new(&options);
        let failed = |kind, asked| Failed { error: Error::new(kind, "x"), retry_after: asked };
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
