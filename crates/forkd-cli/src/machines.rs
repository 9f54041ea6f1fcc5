//! What the commands on machines have in common: the engine and the folders it is given.

use crate::config;
use crate::context::Context;
use crate::output::printable;
use anyhow::Result;
use forkd_core::machine::{DetachedChild, Exit, Guest, Runtime, Stream};
use forkd_core::{Error, Kind};
use forkd_engine::Qemu;
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The engine of this host, and where its machines have their folders.
pub(crate) struct Machines {
    pub(crate) engine: Qemu,
    pub(crate) runtime: Runtime,
}

impl Machines {
    pub(crate) fn open() -> Result<Self> {
        let engine = Qemu::find(std::env::var_os("PATH").as_deref())?;
        Ok(Self { engine, runtime: Runtime::new(config::runtime_dir()) })
    }

    /// For what runs already: QEMU itself need not be found.
    pub(crate) fn running() -> Self {
        Self { engine: Qemu::unfound(), runtime: Runtime::new(config::runtime_dir()) }
    }

    pub(crate) fn child(&self, id: &str) -> Result<DetachedChild> {
        Ok(self.runtime.child(&self.engine, id)?)
    }

    /// A conversation with a child.
    #[allow(clippy::unused_self, reason = "what is talked to are machines")]
    pub(crate) fn talk(&self, child: &DetachedChild, context: &Context<'_>) -> Result<Guest> {
        forkd_core::machine::talk(child, Duration::from_secs(30), context.env())
            .map_err(|e| explain(child, &e).into())
    }
}

/// Says what became of a child with which a conversation failed.
pub(crate) fn explain(child: &DetachedChild, error: &Error) -> Error {
    if error.kind() == Kind::Interrupted {
        return Error::new(Kind::Interrupted, "interrupted; what ran in the child was ended");
    }
    // A machine that is just ending closes its sockets first.
    std::thread::sleep(Duration::from_millis(100));
    if forkd_core::machine::is_held(&child.run.join(forkd_core::machine::ALIVE)) {
        return Error::new(error.kind(), format!("child {}: {error}", child.id));
    }
    let console = forkd_core::machine::console(&child.run).unwrap_or_else(|| "nothing".into());
    let message = format!("child {} has ended; its console ends with:\n  {console}", child.id);
    Error::new(Kind::General, message)
}

/// Writes a file that has no name, so that nothing of it is left however this process ends; gives the path by which others may open it
/// as long as it is open here.
pub(crate) fn unnamed(bytes: &[u8]) -> Result<(File, PathBuf)> {
    let dir = std::env::temp_dir();
    let failed = || Error::io("create a file in", &dir);
    let mut file = tempfile::tempfile().map_err(failed())?;
    file.write_all(bytes).map_err(failed())?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    Ok((file, path.into()))
}

/// The line for the eval endpoint that asks for an expression's value.
pub(crate) fn eval_line(expression: &str) -> String {
    Value::from(expression).to_string()
}

/// Asks for an expression's value.
pub(crate) fn eval(
    guest: &mut Guest,
    expression: &str,
    limit: Option<Duration>,
) -> forkd_core::Result<String> {
    let answer = guest.eval(&eval_line(expression), limit)?;
    let wrong = || {
        Error::new(
            Kind::General,
            format!("the eval endpoint's answer is not as docs/agent.md says: {}", printable(&answer)),
        )
    };
    let value: Value = serde_json::from_str(&answer).map_err(|_| wrong())?;
    match (value.get("ok"), value.get("error")) {
        (Some(Value::String(text)), None) => Ok(text.clone()),
        (None, Some(Value::String(text))) => {
            Err(Error::new(Kind::General, format!("in the guest: {}", printable(text))))
        }
        _ => Err(wrong()),
    }
}

/// Puts a prefix before each line of a stream that comes in pieces.
pub(crate) struct Prefixed<'a> {
    prefix: String,
    partial: Mutex<[Vec<u8>; 2]>,
    write: &'a (dyn Fn(Stream, &[u8]) + Sync),
}

/// A line that never ends is broken here.
const LONGEST_LINE: usize = 64 << 10;

impl<'a> Prefixed<'a> {
    pub(crate) fn new(prefix: String, write: &'a (dyn Fn(Stream, &[u8]) + Sync)) -> Self {
        Self { prefix, partial: Mutex::default(), write }
    }

    pub(crate) fn push(&self, stream: Stream, bytes: &[u8]) {
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
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        (self.write)(stream, &[self.prefix.as_bytes(), text, b"\n"].concat());
        line.clear();
    }

    /// Prints what has no end of line.
    pub(crate) fn finish(&self) {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        for (stream, line) in [Stream::Out, Stream::Err].into_iter().zip(partial.iter_mut()) {
            if !line.is_empty() {
                self.line(stream, line);
            }
        }
    }
}

/// Shows what a program in a guest prints while `work` goes on. It is no result, so it goes where progress goes.
pub(crate) fn with_guest_words<T>(
    context: &Context<'_>,
    work: impl FnOnce(&mut dyn FnMut(Stream, &[u8]) -> forkd_core::Result<()>) -> T,
) -> T {
    let print = |_, bytes: &[u8]| drop(pass_on(Stream::Err, bytes));
    let prefixed = Prefixed::new("  | ".into(), &print);
    let quiet = context.output.is_quiet();
    let done = work(&mut |stream, bytes| {
        if !quiet {
            prefixed.push(stream, bytes);
        }
        Ok(())
    });
    prefixed.finish();
    done
}

/// A program's exit code, as `timeout(1)` has it where it was killed at its limit.
pub(crate) fn exit_code(exit: Exit) -> u8 {
    if exit.timed_out { 124 } else { exit.code }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_gets_its_prefix_whatever_the_cuts() {
        let seen = Mutex::new(Vec::new());
        let write = |_, bytes: &[u8]| seen.lock().unwrap().extend_from_slice(bytes);
        let prefixed = Prefixed::new("1| ".into(), &write);
        for piece in ["a", "b\nc\n", "", "d"] {
            prefixed.push(Stream::Out, piece.as_bytes());
        }
        prefixed.push(Stream::Err, b"e");
        prefixed.finish();
        assert_eq!(String::from_utf8(seen.lock().unwrap().clone()).unwrap(), "1| ab\n1| c\n1| d\n1| e\n");
    }
}
