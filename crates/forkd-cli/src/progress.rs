//! Progress on standard error: a bar on a terminal, a plain line every ten seconds elsewhere, nothing when quiet.

use forkd_core::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(10);

/// Shows how far a command is.
pub(crate) struct Shown {
    quiet: bool,
    bar: Mutex<Option<ProgressBar>>,
    plain: Mutex<Option<Plain>>,
    /// Bytes that are shown as done and will be told as done once more.
    resumed: AtomicU64,
}

struct Plain {
    task: String,
    total: Option<u64>,
    done: u64,
    /// Of these, what an earlier run did.
    resumed: u64,
    begun: Instant,
    told: Instant,
}

impl Plain {
    /// How far it is after so many seconds, and how fast this run goes.
    fn line(&self, seconds: f64) -> String {
        let of = self.total.map(|total| format!(" of {}", crate::output::mib(total))).unwrap_or_default();
        let rate = (self.done - self.resumed) as f64 / seconds;
        let (done, rate) = (crate::output::mib(self.done), crate::output::mib(rate as u64));
        format!("{} {done}{of} ({rate}/s)", self.task)
    }
}

impl Shown {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet, bar: Mutex::default(), plain: Mutex::default(), resumed: AtomicU64::new(0) }
    }
}

impl Progress for Shown {
    fn start(&self, task: &str, total: Option<u64>) {
        if self.quiet {
            return;
        }
        self.resumed.store(0, Ordering::Relaxed);
        if !std::io::stderr().is_terminal() {
            let now = Instant::now();
            let task = task.into();
            *lock(&self.plain) = Some(Plain { task, total, done: 0, resumed: 0, begun: now, told: now });
            return;
        }
        let target = ProgressDrawTarget::stderr_with_hz(10);
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::with_draw_target(Some(total), target),
                "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
            ),
            None => {
                (ProgressBar::with_draw_target(None, target), "{msg} {binary_bytes} {binary_bytes_per_sec}")
            }
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(task.to_owned());
        *lock(&self.bar) = Some(bar);
    }

    fn resume(&self, bytes: u64) {
        self.resumed.store(bytes, Ordering::Relaxed);
        if let Some(bar) = &*lock(&self.bar) {
            bar.set_position(bytes);
            bar.reset_eta();
        }
        if let Some(plain) = &mut *lock(&self.plain) {
            (plain.done, plain.resumed) = (bytes, bytes);
        }
    }

    fn advance(&self, bytes: u64) {
        let known = self.resumed.load(Ordering::Relaxed).min(bytes);
        self.resumed.fetch_sub(known, Ordering::Relaxed);
        let bytes = bytes - known;
        if let Some(bar) = &*lock(&self.bar) {
            bar.inc(bytes);
        }
        if let Some(plain) = &mut *lock(&self.plain) {
            plain.done += bytes;
            if plain.told.elapsed() >= EVERY {
                plain.told = Instant::now();
                print(&plain.line(plain.begun.elapsed().as_secs_f64()));
            }
        }
    }

    fn finish(&self) {
        if let Some(bar) = lock(&self.bar).take() {
            bar.finish_and_clear();
        }
        *lock(&self.plain) = None;
    }

    fn note(&self, line: &str) {
        if self.quiet {
            return;
        }
        match &*lock(&self.bar) {
            Some(bar) => bar.suspend(|| print(line)),
            None => print(line),
        }
    }
}

fn print(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", crate::output::printable(line));
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_here_from_before_is_done_and_says_nothing_of_the_pace() {
        let shown = Shown::new(false);
        let now = Instant::now();
        let task = "pulling".to_owned();
        *lock(&shown.plain) =
            Some(Plain { task, total: Some(500 << 20), done: 0, resumed: 0, begun: now, told: now });
        shown.resume(400 << 20);
        // Those bytes are told once more, in parts, and some with those that come.
        for mib in [300, 101, 19] {
            shown.advance(mib << 20);
        }
        let line = lock(&shown.plain).as_ref().unwrap().line(10.0);
        assert_eq!(line, "pulling 420.0 MiB of 500.0 MiB (2.0 MiB/s)");
    }
}
