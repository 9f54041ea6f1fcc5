//! What the user sees on standard output, and how numbers look.

use forkd_core::Cancel;
use forkd_format::PackFormat;
use serde::Serialize;
use serde_json::json;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// One JSON document (docs/json.md)
    Json,
    /// pack, push: one snapshot in one stream, as existing hosts read it
    #[value(name = "1")]
    Pack1,
    /// pack, push: a chain in one stream, as existing hosts read it
    #[value(name = "2")]
    Pack2,
    /// pack, push: frames with an index, of which pulls fetch only those that they lack
    #[value(name = "3")]
    Pack3,
}

impl Format {
    /// The pack format that it names.
    pub(crate) fn pack(self) -> Option<PackFormat> {
        match self {
            Self::Text | Self::Json => None,
            Self::Pack1 => Some(PackFormat::Single),
            Self::Pack2 => Some(PackFormat::Chain),
            Self::Pack3 => Some(PackFormat::Paged),
        }
    }
}

/// Why a command failed (`docs/json.md`).
#[derive(Debug, Serialize)]
pub(crate) struct Failure<'a> {
    /// As people read it.
    #[serde(skip)]
    pub(crate) text: String,
    pub(crate) kind: &'a str,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) exit_code: u8,
}

/// Standard output, and errors.
#[derive(Debug)]
pub(crate) struct Printer {
    format: Format,
    quiet: bool,
    closed: AtomicBool,
    failed: AtomicBool,
    exit: AtomicU8,
    /// Stops what a program in a guest prints for a reader who has gone.
    cancel: Cancel,
    reader_gone: AtomicBool,
    /// Whether one child's output is ours, as it is.
    through: AtomicBool,
}

impl Printer {
    pub(crate) fn new(format: Format, quiet: bool, cancel: &Cancel) -> Self {
        Self {
            format,
            quiet,
            closed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            exit: AtomicU8::new(0),
            cancel: cancel.clone(),
            reader_gone: AtomicBool::new(false),
            through: AtomicBool::new(false),
        }
    }

    /// From now on what a child says is passed on as if it were ours, and nothing is said around it.
    pub(crate) fn pass_through(&self) {
        self.through.store(true, Ordering::Relaxed);
    }

    pub(crate) fn passes_through(&self) -> bool {
        self.through.load(Ordering::Relaxed)
    }

    /// Whoever read a program's output has had enough: the program ends, as it would on this host.
    pub(crate) fn reader_has_gone(&self) {
        self.reader_gone.store(true, Ordering::Relaxed);
        self.cancel.cancel();
    }

    /// Whether that is why something was interrupted.
    pub(crate) fn is_reader_gone(&self) -> bool {
        self.reader_gone.load(Ordering::Relaxed)
    }

    /// Whoever read us may have enough; the work goes on without telling.
    fn write(&self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        if !self.closed.load(Ordering::Relaxed)
            && let Err(error) = writeln!(stdout, "{text}").and_then(|()| stdout.flush())
        {
            self.closed.store(true, Ordering::Relaxed);
            if error.kind() != ErrorKind::BrokenPipe {
                self.failed.store(true, Ordering::Relaxed);
                let _ = writeln!(std::io::stderr(), "forkd: cannot print: {error}");
            }
        }
    }

    /// A line as wide as the terminal; all of it elsewhere.
    pub(crate) fn fit<'t>(&self, line: &'t str) -> &'t str {
        let Some(width) = terminal_width() else { return line };
        line.char_indices().nth(width).map_or(line, |(end, _)| &line[..end])
    }

    /// Whether something could not be printed although someone was there to read it.
    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// What a command that did its work ends with, where that is not success: as a guest's program did.
    pub(crate) fn exit_with(&self, code: u8) {
        self.exit.store(code, Ordering::Relaxed);
    }

    pub(crate) fn exit(&self) -> u8 {
        self.exit.load(Ordering::Relaxed)
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A line that tells how things go: text only, not when quiet.
    pub(crate) fn line(&self, line: &str) {
        if self.format == Format::Text && !self.quiet && !self.passes_through() {
            self.write(line);
        }
    }

    /// A line that was asked for: text only, quiet or not.
    pub(crate) fn answer(&self, line: &str) {
        if self.format == Format::Text {
            self.write(line);
        }
    }

    /// The result as JSON; printed in that format only.
    pub(crate) fn json(&self, report: &impl Serialize) {
        if self.format == Format::Json {
            match serde_json::to_string_pretty(report) {
                Ok(text) => self.write(&text),
                Err(error) => {
                    self.failed.store(true, Ordering::Relaxed);
                    let _ = writeln!(std::io::stderr(), "forkd: cannot print: {error}");
                }
            }
        }
    }

    /// An error, on standard error: in words, or as a document of its own. Those of the libraries name their causes themselves.
    pub(crate) fn error(&self, failure: &Failure<'_>) {
        let mut stderr = std::io::stderr().lock();
        let _ = match self.format {
            Format::Json => writeln!(stderr, "{:#}", json!({ "error": failure })),
            _ => {
                let lines: Vec<String> = failure.text.lines().map(printable).collect();
                writeln!(stderr, "forkd: {}", lines.join("\n"))
            }
        };
    }
}

/// Bytes as `22.1 MiB`.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// A compression ratio as `23.2`.
pub(crate) fn ratio(unpacked: u64, packed: u64) -> String {
    format!("{:.1}", unpacked as f64 / packed.max(1) as f64)
}

/// A duration as `4.3s`.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

/// An age as `3d ago`.
pub(crate) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "s"),
        60..3600 => (seconds / 60, "m"),
        3600..86_400 => (seconds / 3600, "h"),
        86_400..604_800 => (seconds / 86_400, "d"),
        604_800..31_536_000 => (seconds / 604_800, "w"),
        _ => (seconds / 31_536_000, "y"),
    };
    format!("{count}{unit} ago")
}

/// Text from strangers, so that it cannot steer a terminal.
pub(crate) fn printable(text: &str) -> String {
    // Control characters, line separators, and those that turn the direction of writing.
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .flat_map(|c| if steers(c) { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

/// The columns of the terminal that standard output is; `None` where it is none.
fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|width| *width > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_look_as_specified() {
        assert_eq!(mib(23_173_530), "22.1 MiB");
        assert_eq!(ratio(536_870_912, 23_173_530), "23.2");
        assert_eq!(seconds(Duration::from_millis(4312)), "4.3s");
        let ages = [59, 3600, 3 * 86_400 + 5, 8 * 86_400].map(|s| age(Duration::from_secs(s)));
        assert_eq!(ages, ["59s ago", "1h ago", "3d ago", "1w ago"]);
        assert_eq!(printable("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}
