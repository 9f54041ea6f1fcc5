//! Streams that come in pieces, cut into lines.

use forkd_core::machine::Stream;
use std::sync::{Mutex, PoisonError};

/// A line that never ends is broken here.
const LONGEST_LINE: usize = 64 << 10;

/// Cuts a program's two streams into lines.
pub struct Lines<'a> {
    partial: Mutex<[Vec<u8>; 2]>,
    hear: &'a (dyn Fn(Stream, &[u8]) + Sync),
}

impl<'a> Lines<'a> {
    /// Whole lines go to `hear`, without their ends.
    pub fn new(hear: &'a (dyn Fn(Stream, &[u8]) + Sync)) -> Self {
        Self { partial: Mutex::default(), hear }
    }

    /// Takes a piece.
    pub fn push(&self, stream: Stream, bytes: &[u8]) {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        let partial = &mut partial[usize::from(stream == Stream::Err)];
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") || partial.len() > LONGEST_LINE {
                self.line(stream, partial);
            }
        }
    }

    fn line(&self, stream: Stream, line: &mut Vec<u8>) {
        (self.hear)(stream, line.strip_suffix(b"\n").unwrap_or(line));
        line.clear();
    }

    /// Hands on what has no end of line.
    pub fn finish(&self) {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        for (stream, line) in [Stream::Out, Stream::Err].into_iter().zip(partial.iter_mut()) {
            if !line.is_empty() {
                self.line(stream, line);
            }
        }
    }
}

/// What is kept of each stream of a program, in bytes; the rest is left out.
const MOST_KEPT: usize = 1 << 20;

/// The beginning of a program's two streams.
#[derive(Default)]
pub(crate) struct KeptOutput([Vec<u8>; 2]);

impl KeptOutput {
    pub(crate) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        let kept = &mut self.0[usize::from(stream == Stream::Err)];
        let room = MOST_KEPT.saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Its output and its errors; what is not UTF-8 is replaced.
    pub(crate) fn texts(self) -> [String; 2] {
        self.0.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_whatever_the_cuts() {
        let seen = Mutex::new(Vec::new());
        let hear = |_, line: &[u8]| seen.lock().unwrap().push(String::from_utf8(line.to_vec()).unwrap());
        let lines = Lines::new(&hear);
        for piece in ["a", "b\nc\n", "", "d"] {
            lines.push(Stream::Out, piece.as_bytes());
        }
        lines.push(Stream::Err, b"e");
        lines.push(Stream::Out, &vec![b'x'; LONGEST_LINE]);
        lines.finish();
        let seen = seen.lock().unwrap();
        assert_eq!(seen[..2], ["ab", "c"]);
        assert_eq!(seen[2], format!("d{}", "x".repeat(LONGEST_LINE)));
        assert_eq!(seen[3..], ["e"]);
    }

    #[test]
    fn output_is_kept_up_to_a_bound() {
        let mut kept = KeptOutput::default();
        kept.push(Stream::Err, b"e\xff");
        for _ in 0..3 {
            kept.push(Stream::Out, &vec![b'x'; MOST_KEPT / 2 + 1]);
        }
        let [out, err] = kept.texts();
        assert_eq!((out.len(), err.as_str()), (MOST_KEPT, "e\u{fffd}"));
    }
}
