//! How the work goes, in lines.

use crate::config;
use crate::output::{Printer, mib, printable, seconds};
use forkd_app::{Event, Narrator, Speaker};
use forkd_core::machine::Stream;
use std::io::{ErrorKind, IsTerminal, Write};

impl Narrator for Printer {
    fn tell(&self, event: &Event<'_>) {
        match event {
            // One child that stands for itself: its answer is ours.
            Event::ChildAnswered { answer, .. } if self.passes_through() => self.answer(&printable(answer)),
            Event::ChildReady { .. } | Event::ChildEnded { .. } if self.passes_through() => {}
            Event::ChildReady { number, id, time } => {
                self.answer(&format!("child {number} ready in {:.2}s: {id}", time.as_secs_f64()));
            }
            Event::ChildAnswered { number, answer, time } => {
                let (time, answer) = (time.as_secs_f64(), printable(answer));
                self.answer(&format!("child {number} answered in {time:.2}s: {answer}"));
            }
            _ => self.line(&line(event)),
        }
    }

    fn hear(&self, speaker: Speaker, stream: Stream, line: &[u8]) {
        let (prefix, stream) = match speaker {
            Speaker::Child(_) if self.passes_through() => (String::new(), stream),
            Speaker::Child(number) => (format!("{number}| "), stream),
            // It is no result, so it goes where progress goes.
            _ if self.is_quiet() => return,
            Speaker::Guest => ("  | ".to_owned(), Stream::Err),
            Speaker::Host => (String::new(), Stream::Err),
        };
        // A guest's line neither steers a terminal nor passes for one of ours.
        let terminal = match stream {
            Stream::Out => std::io::stdout().is_terminal(),
            Stream::Err => std::io::stderr().is_terminal(),
        };
        let line =
            if terminal { printable(&String::from_utf8_lossy(line)).into_bytes() } else { line.to_vec() };
        if let Err(error) = pass_on(stream, &[prefix.as_bytes(), &line, b"\n"].concat())
            && error.kind() == ErrorKind::BrokenPipe
            && stream == Stream::Out
        {
            self.reader_has_gone();
        }
    }
}

fn line(event: &Event<'_>) -> String {
    match event {
        Event::ImageFound { reference, digest } => format!("→ {reference} (sha256:{})", digest.short()),
        Event::LayersHere { layers, fetch } => {
            let how = match (fetch.fetched_layers, fetch.cached_layers) {
                (0, _) => "none fetched".to_owned(),
                (fetched, cached) => {
                    format!("{fetched} fetched ({}), {cached} were here", mib(fetch.fetched_bytes))
                }
            };
            format!("✓ {layers} layers: {how}")
        }
        Event::InstallBegun { packages, release } => {
            format!("==> installing {packages} packages on Debian {release}")
        }
        Event::InstallDone(time) => format!("✓ installed in {}", seconds(*time)),
        Event::DiskFound => "✓ root disk: from the cache".to_owned(),
        Event::DiskMade(disk) => {
            format!("✓ root disk: {} of {} in {} files", mib(disk.used), mib(disk.size), disk.files)
        }
        Event::SetUpBegun => "==> setting up the disk in a guest with a network".to_owned(),
        Event::SetUpDone(time) => format!("✓ set up in {}", seconds(*time)),
        Event::BakeBegun { tag, memory, accel } => {
            format!("==> baking snapshot '{tag}' ({} of memory, {})", mib(*memory), accel.name())
        }
        Event::TestPassed { number, test, time } => {
            format!("✓ test {number} in {}: {}", seconds(*time), printable(test))
        }
        Event::BakeDone(summary) => format!(
            "✓ snapshot '{}' at {}/ in {} (boot {}, warm {}, trial fork {:.2}s)",
            summary.bake.tag,
            config::display(&summary.bake.path),
            seconds(summary.time),
            seconds(summary.bake.boot),
            seconds(summary.bake.warm),
            summary.bake.trial.as_secs_f64()
        ),
        Event::DiffBegun { tag, from } => format!("==> baking link '{tag}' on top of '{from}'"),
        Event::ChildEnded { number, exit_code, timed_out, time } => {
            let how = if *timed_out { "was killed at its time limit" } else { "ended" };
            format!("child {number} {how} in {:.2}s: exit code {exit_code}", time.as_secs_f64())
        }
        Event::ChildReady { .. } | Event::ChildAnswered { .. } => String::new(),
    }
}

/// Writes bytes of a guest's program to our own standard output or error. Whoever read us may have had enough.
pub(crate) fn pass_on(stream: Stream, bytes: &[u8]) -> std::io::Result<()> {
    match stream {
        Stream::Out => {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
        Stream::Err => std::io::stderr().lock().write_all(bytes),
    }
}
