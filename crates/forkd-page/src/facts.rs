//! Values as people read them.

use forkd_format::Digest;
use serde::Serialize;

/// A line of what is told of a version.
#[derive(Debug, Serialize)]
pub(crate) struct Fact {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    /// Whether it is something to be typed.
    pub(crate) code: bool,
}

/// Bytes in MiB.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The day of an RFC 3339 time; what is none stays as it is.
pub(crate) fn created(text: &str) -> String {
    let is_time = text.len() >= 20 && text.as_bytes()[10] == b'T' && text.is_char_boundary(10);
    if is_time { text[..10].to_owned() } else { text.chars().take(40).collect() }
}

/// As much of a digest as tells it from others.
pub(crate) fn short(digest: &Digest) -> String {
    digest.to_string()[..12].to_owned()
}
