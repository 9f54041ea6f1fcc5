//! A conversation with the agent inside a guest (docs/agent.md).

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use forkd_agent::fields::Malformed;
use forkd_agent::message::{
    Hello, INPUT_WINDOW, Identity, MAX_ANSWER, MessageKind, PROTOCOL, Put, WakeReport,
};
use forkd_agent::wire::{self, Decoder, MAX_PAYLOAD, Packet};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A guest that has said nothing for so long is asked whether it lives, and for so long more is waited for.
const SILENCE: Duration = Duration::from_secs(10);

const PATIENCE: Duration = Duration::from_secs(30);

/// How long the host may sleep before it looks for a stop.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// A conversation with a guest's agent.
#[derive(Debug)]
pub struct Guest {
    pub(crate) stream: UnixStream,
    /// The same socket: a packet must not be written into the middle of another.
    pub(crate) writer: Arc<Mutex<UnixStream>>,
    pub(crate) decoder: Decoder,
    pub(crate) next_id: u32,
    pub(crate) cancel: Cancel,
    /// When the guest last said something, and whether it was asked since.
    pub(crate) heard: (Instant, bool),
    /// Says that the port is taken.
    pub(crate) lock: Option<std::fs::File>,
    /// What the agent said of itself.
    pub hello: Hello,
}

pub(crate) fn broken(e: &std::io::Error) -> Error {
    Error::new(Kind::General, format!("the guest's agent does not answer: {e}"))
}

pub(crate) fn malformed(_: Malformed) -> Error {
    Error::new(Kind::General, "the guest's agent sent a malformed answer")
}

impl Guest {
    /// Greets the agent behind a connected port. `Ok(None)`: it did not answer in time.
    ///
    /// # Errors
    /// [`Kind::Incompatible`] where it speaks another protocol.
    pub fn greet(stream: UnixStream, limit: Duration, cancel: &Cancel) -> Result<Option<Self>> {
        stream.set_read_timeout(Some(TICK)).map_err(|e| broken(&e))?;
        let hello = Hello { protocol: 0, uptime_ns: 0, kernel: String::new() };
        let writer = Arc::new(Mutex::new(stream.try_clone().map_err(|e| broken(&e))?));
        let mut guest = Self {
            stream,
            writer,
            decoder: Decoder::default(),
            next_id: 0,
            cancel: cancel.clone(),
            heard: (Instant::now(), false),
            lock: None,
            hello,
        };
        // What an earlier conversation left in the port has other ids.
        guest.next_id =
            u32::from_le_bytes(crate::machine::run_dir::random(4)?.try_into().unwrap_or_default());
        let id = guest.send(MessageKind::Hello, &[])?;
        let deadline = Instant::now() + limit;
        loop {
            match guest.receive(Some(deadline))? {
                None => return Ok(None),
                Some(packet) if packet.id == id && packet.kind == MessageKind::Ok as u8 => {
                    guest.hello = Hello::decode(&packet.payload).map_err(malformed)?;
                    break;
                }
                Some(_) => {}
            }
        }
        if guest.hello.protocol != PROTOCOL {
            let message = format!(
                "the guest's agent speaks protocol {}; this forkd speaks {PROTOCOL}",
                guest.hello.protocol
            );
            return Err(Error::new(Kind::Incompatible, message));
        }
        Ok(Some(guest))
    }

    /// Keeps a lock for as long as the conversation goes on.
    #[must_use]
    pub(crate) fn holding(mut self, lock: std::fs::File) -> Self {
        self.lock = Some(lock);
        self
    }

    pub(crate) fn send(&mut self, kind: MessageKind, payload: &[u8]) -> Result<u32> {
        if payload.len() > MAX_PAYLOAD {
            let message = format!(
                "{} bytes are too many for one message to the guest; at most {MAX_PAYLOAD}",
                payload.len()
            );
            return Err(Error::new(Kind::Usage, message));
        }
        self.next_id = self.next_id.wrapping_add(1);
        self.write(self.next_id, kind, payload)?;
        Ok(self.next_id)
    }

    pub(crate) fn write(&self, id: u32, kind: MessageKind, payload: &[u8]) -> Result<()> {
        write(&self.writer, id, kind, payload).map_err(|e| broken(&e))
    }

    /// The next packet; `None` at the deadline.
    pub(crate) fn receive(&mut self, deadline: Option<Instant>) -> Result<Option<Packet>> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Some(packet) = self.decoder.next_packet() {
                return Ok(Some(packet));
            }
            self.cancel.check()?;
            if deadline.is_some_and(|at| Instant::now() >= at) {
                return Ok(None);
            }
            if !self.fill(&mut buffer)? && deadline.is_none() {
                self.ask_for_life()?;
            }
        }
    }

    /// A guest whose processor stands still, or whose agent is gone, would be waited for without end.
    pub(crate) fn ask_for_life(&mut self) -> Result<()> {
        let (heard, asked) = self.heard;
        if heard.elapsed() > SILENCE + PATIENCE && asked {
            let silence = heard.elapsed().as_secs();
            return Err(Error::new(Kind::General, format!("the guest has not answered for {silence} s")));
        }
        if heard.elapsed() > SILENCE && !asked {
            self.heard.1 = true;
            self.send(MessageKind::Ping, b"alive")?;
        }
        Ok(())
    }

    /// Takes what has come, waiting one tick at most; whether something has.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        match self.stream.read(buffer) {
            Ok(0) => Err(broken(&ErrorKind::UnexpectedEof.into())),
            Ok(read) => {
                self.heard = (Instant::now(), false);
                self.decoder.push(&buffer[..read]);
                Ok(true)
            }
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                Ok(false)
            }
            Err(e) => Err(broken(&e)),
        }
    }

    /// Waits for the answer to a request, handing out what comes before it.
    pub(crate) fn answer(
        &mut self,
        id: u32,
        limit: Option<Duration>,
        part: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Vec<u8>> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        loop {
            let Some(packet) = self.receive(deadline)? else {
                let message = format!(
                    "the guest's agent does not answer within {} s",
                    limit.unwrap_or_default().as_secs()
                );
                return Err(Error::new(Kind::General, message));
            };
            match MessageKind::from_u8(packet.kind) {
                _ if packet.id != id => {}
                Some(MessageKind::Ok) => return Ok(packet.payload),
                Some(MessageKind::Error) => return Err(refusal(&packet)),
                Some(MessageKind::Stdout) => part(&packet.payload)?,
                _ => {}
            }
        }
    }

    fn request(&mut self, kind: MessageKind, payload: &[u8], limit: Duration) -> Result<Vec<u8>> {
        let id = self.send(kind, payload)?;
        self.answer(id, Some(limit), &mut |_| Ok(()))
    }

    /// Asks for a sign of life; says how long it took.
    ///
    /// # Errors
    /// Where none comes in time.
    pub fn ping(&mut self, limit: Duration) -> Result<Duration> {
        let begun = Instant::now();
        self.request(MessageKind::Ping, b"ping", limit)?;
        Ok(begun.elapsed())
    }

    /// Makes the guest ready to be frozen; it rests until [`Guest::forked`].
    ///
    /// # Errors
    /// What the agent says.
    pub fn prepare(mut self, limit: Duration) -> Result<()> {
        self.request(MessageKind::Prepare, &[], limit).map(drop)
    }

    /// Ends all programs and lets go of the disk, as before a machine is switched off. Ends the conversation.
    ///
    /// # Errors
    /// What the agent says.
    pub fn halt(mut self, limit: Duration) -> Result<()> {
        self.request(MessageKind::Halt, &[], limit).map(drop)
    }

    /// Makes a child itself: its clock, its entropy, its names.
    ///
    /// # Errors
    /// What the agent says; what did not work but does no harm is in the answer.
    pub fn forked(&mut self, identity: &Identity, limit: Duration) -> Result<WakeReport> {
        let payload = self.request(MessageKind::Forked, &identity.encode(), limit)?;
        WakeReport::decode(&payload).map_err(malformed)
    }

    /// Hands a line to the guest's eval endpoint; gives its line.
    ///
    /// # Errors
    /// What the agent says, as that nothing listens.
    pub fn eval(&mut self, line: &str, limit: Option<Duration>) -> Result<String> {
        let id = self.send(MessageKind::Eval, line.as_bytes())?;
        let mut answer = Vec::new();
        self.answer(id, limit, &mut |part| {
            answer.extend_from_slice(part);
            if answer.len() > MAX_ANSWER {
                let message = format!("the answer has more than {} MiB", MAX_ANSWER >> 20);
                return Err(Error::new(Kind::General, message).hint("write it to a file and `forkd cp` that"));
            }
            Ok(())
        })?;
        String::from_utf8(answer).map_err(|_| Error::new(Kind::General, "the answer is not UTF-8"))
    }

    /// Reads a file; gives its permission bits.
    ///
    /// # Errors
    /// What the agent and `write` say.
    pub fn get(&mut self, path: &str, write: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<u32> {
        let id = self.send(MessageKind::Get, path.as_bytes())?;
        let mode = self.answer(id, None, write).map_err(name_missing)?;
        Ok(u32::from_le_bytes(mode.try_into().map_err(|_| malformed(Malformed))?))
    }

    /// Writes a file, which appears whole or not at all.
    ///
    /// # Errors
    /// What the agent and the reader say.
    pub fn put(&mut self, path: &str, mode: u32, from: &mut dyn Read, name: &Path) -> Result<u64> {
        let id = self.send(MessageKind::Put, &Put { path: path.to_owned(), mode }.encode())?;
        let (mut sent, mut taken) = (0u64, 0u64);
        let mut buffer = vec![0; MAX_PAYLOAD];
        let mut ended = false;
        loop {
            while !ended && sent - taken <= (INPUT_WINDOW - MAX_PAYLOAD) as u64 {
                let read = from.read(&mut buffer).map_err(Error::io("read", name))?;
                self.write(id, MessageKind::Input, &buffer[..read])?;
                sent += read as u64;
                ended = read == 0;
            }
            let Some(packet) = self.receive(None)? else { continue };
            match MessageKind::from_u8(packet.kind) {
                _ if packet.id != id => {}
                Some(MessageKind::Taken) => {
                    taken = taken.saturating_add(count(&packet)?.into());
                    if taken > sent {
                        return Err(malformed(Malformed));
                    }
                }
                Some(MessageKind::Ok) => return Ok(sent),
                Some(MessageKind::Error) => return Err(name_missing(refusal(&packet))),
                _ => {}
            }
        }
    }
}

/// Tells a file that is not there from other errors, by the system's number that the agent ends its words with (docs/agent.md).
fn name_missing(error: Error) -> Error {
    let text = error.to_string();
    if error.kind() == Kind::General && text.ends_with("(os error 2)") {
        return Error::new(Kind::NotFound, text);
    }
    error
}

pub(crate) fn write(
    writer: &Mutex<UnixStream>,
    id: u32,
    kind: MessageKind,
    payload: &[u8],
) -> std::io::Result<()> {
    let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
    writer.write_all(&wire::encode(id, kind as u8, payload))
}

pub(crate) fn count(packet: &Packet) -> Result<u32> {
    Ok(u32::from_le_bytes(packet.payload.as_slice().try_into().map_err(|_| malformed(Malformed))?))
}

pub(crate) fn refusal(packet: &Packet) -> Error {
    Error::new(Kind::General, format!("in the guest: {}", String::from_utf8_lossy(&packet.payload)))
}
