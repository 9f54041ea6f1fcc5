//! The guest channel, version 0 (docs/engine.md): lines of text over a virtio-serial port.

use forkd_core::{Cancel, Error, Result};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A line longer than this is no answer.
const MAX_LINE: usize = 4096;

pub(crate) struct Channel {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Channel {
    pub(crate) fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// Sends `ping TOKEN` until `pong TOKEN …` comes back, and gives the rest of that line. `Ok(None)`: not within the limit.
    pub(crate) fn ping(
        &mut self,
        token: &str,
        every: Duration,
        limit: Duration,
        cancel: &Cancel,
    ) -> Result<Option<String>> {
        let begun = Instant::now();
        let mut sent: Option<Instant> = None;
        let wanted = format!("pong {token} ");
        let broken = |e: std::io::Error| {
            Error::new(forkd_core::Kind::General, format!("the guest channel broke: {e}"))
        };
        while begun.elapsed() < limit {
            cancel.check()?;
            if sent.is_none_or(|at| at.elapsed() >= every) {
                self.stream.write_all(format!("ping {token}\n").as_bytes()).map_err(broken)?;
                sent = Some(Instant::now());
            }
            let mut buffer = [0; 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(broken(ErrorKind::UnexpectedEof.into())),
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(e) => return Err(broken(e)),
            }
            while let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                if let Some(answer) = String::from_utf8_lossy(&line).trim_end().strip_prefix(&wanted) {
                    return Ok(Some(answer.to_owned()));
                }
            }
            if self.received.len() > MAX_LINE {
                self.received.clear();
            }
        }
        Ok(None)
    }
}
