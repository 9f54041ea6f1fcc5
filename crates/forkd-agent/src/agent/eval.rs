//! Expressions for a warm program: one line to the eval endpoint, and one line back.

use super::job::{PortJob, PortRequest};
use super::paths::EVAL_SOCKET;
use super::send_queue::SendQueue;
use forkd_agent::message::{MAX_ANSWER, MessageKind};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(600);
/// How soon to try again where the endpoint has too many callers.
const RETRY: Duration = Duration::from_millis(5);

struct EvalJob {
    id: u32,
    socket: OwnedFd,
    connected: bool,
    request: Vec<u8>,
    sent: usize,
    received: usize,
    until: Instant,
}

pub(super) fn begin(request: &PortRequest<'_>) -> Result<Option<Box<dyn PortJob>>, String> {
    if request.payload.contains(&b'\n') {
        return Err("a line with a line feed in it".into());
    }
    let mut line = request.payload.to_vec();
    line.push(b'\n');
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|e| format!("cannot make a socket: {}", std::io::Error::from(e)))?;
    let mut eval = EvalJob {
        id: request.id,
        socket,
        connected: false,
        request: line,
        sent: 0,
        received: 0,
        until: Instant::now() + LIMIT,
    };
    eval.connect()?;
    Ok(Some(Box::new(eval)))
}

impl EvalJob {
    fn connect(&mut self) -> Result<(), String> {
        let address = SocketAddrUnix::new(EVAL_SOCKET).map_err(|e| std::io::Error::from(e).to_string())?;
        match connect(&self.socket, &address) {
            Ok(()) => self.connected = true,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOENT | Errno::CONNREFUSED) => {
                return Err(format!("no eval endpoint: nothing listens at {EVAL_SOCKET} (docs/agent.md)"));
            }
            Err(error) => return Err(format!("{EVAL_SOCKET}: {}", std::io::Error::from(error))),
        }
        Ok(())
    }

    /// Does what can be done without waiting; true once the answer was passed on.
    fn advance(&mut self, queue: &mut SendQueue, scratch: &mut [u8]) -> Result<bool, String> {
        if Instant::now() >= self.until {
            return Err(format!("the eval endpoint has not answered within {} s", LIMIT.as_secs()));
        }
        if !self.connected {
            self.connect()?;
        }
        let broken = |error: Errno| format!("the eval endpoint has hung up: {}", std::io::Error::from(error));
        while self.connected && self.sent < self.request.len() {
            match rustix::io::write(&self.socket, self.request.get(self.sent..).unwrap_or_default()) {
                Ok(len) => self.sent += len,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(broken(error)),
            }
        }
        if !self.connected || !queue.has_room() {
            return Ok(false);
        }
        let bytes = match rustix::io::read(&self.socket, &mut *scratch) {
            Ok(0) => return Err("the eval endpoint has hung up without an answer".into()),
            Ok(len) => scratch.get(..len).unwrap_or_default(),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(error) => return Err(broken(error)),
        };
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        self.received += part.len();
        if self.received > MAX_ANSWER {
            return Err(format!("the eval endpoint's answer is longer than {} MiB", MAX_ANSWER >> 20));
        }
        if !part.is_empty() {
            queue.push(self.id, MessageKind::Stdout, part);
        }
        if end.is_some() {
            queue.push(self.id, MessageKind::Ok, &[]);
        }
        Ok(end.is_some())
    }
}

impl PortJob for EvalJob {
    fn interest<'a>(&'a self, room: bool, fds: &mut Vec<PollFd<'a>>) {
        if self.connected && self.sent < self.request.len() {
            fds.push(PollFd::new(&self.socket, PollFlags::OUT));
        } else if self.connected && room {
            fds.push(PollFd::new(&self.socket, PollFlags::IN));
        }
    }

    fn deadline(&self, _: bool) -> Option<Instant> {
        Some(if self.connected { self.until } else { Instant::now() + RETRY })
    }

    fn step(&mut self, queue: &mut SendQueue, scratch: &mut [u8]) -> bool {
        self.advance(queue, scratch).unwrap_or_else(|message| {
            queue.error(self.id, &message);
            true
        })
    }
}
