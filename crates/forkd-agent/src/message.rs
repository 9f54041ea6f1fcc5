//! Messages: what the payload of a packet of each kind holds.

use crate::fields::{FieldReader, FieldWriter, Malformed};

/// What a packet is. Requests come from the host, answers from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageKind {
    /// Request, the first of a connection: what an earlier connection of this port had begun is ended. Answer: [`MessageKind::Ok`] with [`Hello`].
    Hello = 1,
    /// Request: any payload. Answer: [`MessageKind::Ok`] with the same payload.
    Ping = 2,
    /// Request: [`Exec`]. Answers: [`MessageKind::Stdout`] and [`MessageKind::Stderr`], then [`MessageKind::Exit`]; [`MessageKind::Error`] where it cannot be started.
    Exec = 3,
    /// More input for an [`MessageKind::Exec`] or [`MessageKind::Put`] of the same id; an empty one ends it. Answered by [`MessageKind::Taken`].
    Input = 4,
    /// A signal for the process group of an [`MessageKind::Exec`]: one byte, its number. Not answered.
    Signal = 5,
    /// A terminal's new size for an [`MessageKind::Exec`]: rows, columns, two bytes each, little-endian. Not answered.
    Resize = 6,
    /// Request: [`Put`], followed by [`MessageKind::Input`]. Answer: [`MessageKind::Ok`], once the file is in its place whole.
    Put = 7,
    /// Request: a path. Answers: [`MessageKind::Stdout`] with the file's bytes, then [`MessageKind::Ok`] with its mode, four bytes.
    Get = 8,
    /// Request, no payload: make ready for the freeze. Answer: [`MessageKind::Ok`]; the host then hangs up and stops the machine.
    Prepare = 9,
    /// Request: [`Identity`]. Answer: [`MessageKind::Ok`] with [`WakeReport`], before which nothing but the agent runs in the guest.
    Forked = 10,
    /// Request: a line for the eval endpoint, without its end. Answer: [`MessageKind::Stdout`] with the endpoint's line in parts, then [`MessageKind::Ok`].
    Eval = 11,
    /// Request, no payload: end all programs and let go of the disk. Answer: [`MessageKind::Ok`]; the host then switches the machine off.
    Halt = 12,
    /// Answer: the request is done; its payload is as the request says.
    Ok = 64,
    /// Answer: not done; why, in UTF-8.
    Error = 65,
    /// Answer: bytes of standard output, or of a file.
    Stdout = 66,
    /// Answer: bytes of standard error.
    Stderr = 67,
    /// Answer: [`Exit`].
    Exit = 68,
    /// Answer: so many bytes of [`MessageKind::Input`] were taken, four bytes. The host lets at most [`INPUT_WINDOW`] bytes be on their way.
    Taken = 69,
}

/// The longest answer of an eval endpoint, in bytes (docs/agent.md).
pub const MAX_ANSWER: usize = 16 << 20;

/// How many bytes of input may be on their way.
pub const INPUT_WINDOW: usize = 256 << 10;

/// The version of the messages, which `Hello` tells and `snapshot.json` records as `guest.protocol`.
pub const PROTOCOL: u32 = 1;

impl MessageKind {
    /// What the number in a packet's header means; `None` for kinds of later versions.
    #[must_use]
    pub fn from_u8(kind: u8) -> Option<Self> {
        const ALL: [MessageKind; 18] = [
            MessageKind::Hello,
            MessageKind::Ping,
            MessageKind::Exec,
            MessageKind::Input,
            MessageKind::Signal,
            MessageKind::Resize,
            MessageKind::Put,
            MessageKind::Get,
            MessageKind::Prepare,
            MessageKind::Forked,
            MessageKind::Eval,
            MessageKind::Halt,
            MessageKind::Ok,
            MessageKind::Error,
            MessageKind::Stdout,
            MessageKind::Stderr,
            MessageKind::Exit,
            MessageKind::Taken,
        ];
        ALL.into_iter().find(|known| *known as u8 == kind)
    }
}

/// What the guest says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The version of the messages that the agent speaks ([`PROTOCOL`] here).
    pub protocol: u32,
    /// Nanoseconds since the guest booted.
    pub uptime_ns: u64,
    /// The running kernel's release, as `uname -r` prints it.
    pub kernel: String,
}

impl Hello {
    /// The payload of the answer to a [`MessageKind::Hello`] (docs/agent.md).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        FieldWriter::default()
            .number(self.protocol.into())
            .number(self.uptime_ns)
            .bytes(self.kernel.as_bytes())
            .0
    }

    /// Reads the payload of the answer to a [`MessageKind::Hello`].
    ///
    /// # Errors
    /// [`Malformed`] where fields are cut off, too many, or no text where text is expected.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = FieldReader(payload);
        let protocol = u32::try_from(r.number()?).map_err(|_| Malformed)?;
        let hello = Self { protocol, uptime_ns: r.number()?, kernel: r.text()? };
        // Later versions may say more.
        Ok(hello)
    }
}

/// A program that the host wants run, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exec {
    /// The program, looked up in `PATH`, and its arguments.
    pub argv: Vec<String>,
    /// `NAME=VALUE`, added to the image's and the agent's own.
    pub env: Vec<String>,
    /// Its working folder; empty for the image's.
    pub cwd: String,
    /// Who runs it: a name or number, and a group's after a colon; empty for the image's.
    pub user: String,
    /// Rows and columns of its terminal; `None` for pipes.
    pub terminal: Option<(u16, u16)>,
    /// After so many milliseconds it is killed; 0 for never.
    pub limit_ms: u64,
    /// Whether input follows; else its standard input is empty.
    pub input: bool,
}

impl Exec {
    /// The payload of a [`MessageKind::Exec`] (docs/agent.md).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let terminal =
            self.terminal.map_or(0, |(rows, columns)| 1 << 32 | u64::from(rows) << 16 | u64::from(columns));
        FieldWriter::default()
            .texts(&self.argv)
            .texts(&self.env)
            .bytes(self.cwd.as_bytes())
            .bytes(self.user.as_bytes())
            .number(terminal)
            .number(self.limit_ms)
            .number(self.input.into())
            .0
    }

    /// Reads the payload of a [`MessageKind::Exec`].
    ///
    /// # Errors
    /// [`Malformed`] where fields are cut off, too many, or no text where text is expected.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = FieldReader(payload);
        let (argv, env, cwd, user) = (r.texts()?, r.texts()?, r.text()?, r.text()?);
        let terminal = match r.number()? {
            0 => None,
            size => Some(((size >> 16) as u16, size as u16)),
        };
        let exec = Self { argv, env, cwd, user, terminal, limit_ms: r.number()?, input: r.number()? != 0 };
        r.end()?;
        Ok(exec)
    }
}

/// How a program ended, once all its output was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, or 128 and the signal that ended it, as shells have it.
    pub code: u8,
    /// Whether it was killed at its time limit.
    pub timed_out: bool,
}

impl Exit {
    /// As a shell has it, and `timeout(1)` where it was killed at its limit.
    #[must_use]
    pub fn shell_code(self) -> u8 {
        if self.timed_out { 124 } else { self.code }
    }

    /// The payload of a [`MessageKind::Exit`] (docs/agent.md).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        vec![self.code, self.timed_out.into()]
    }

    /// Reads the payload of a [`MessageKind::Exit`].
    ///
    /// # Errors
    /// [`Malformed`] where it is not two bytes, the second 0 or 1.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let [code, timed_out @ (0 | 1)] = payload else { return Err(Malformed) };
        Ok(Self { code: *code, timed_out: *timed_out == 1 })
    }
}

/// Where the bytes of the [`MessageKind::Input`] that follows are to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Absolute; the folder must exist, and what is there is replaced.
    pub path: String,
    /// Permission bits, of which the lowest twelve count.
    pub mode: u32,
}

impl Put {
    /// The payload of a [`MessageKind::Put`] (docs/agent.md).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        FieldWriter::default().bytes(self.path.as_bytes()).number(self.mode.into()).0
    }

    /// Reads the payload of a [`MessageKind::Put`].
    ///
    /// # Errors
    /// [`Malformed`] where fields are cut off, too many, or no text where text is expected.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = FieldReader(payload);
        let put = Self { path: r.text()?, mode: u32::try_from(r.number()?).map_err(|_| Malformed)? };
        r.end()?;
        Ok(put)
    }
}

/// What a child is told after it woke: all that makes it differ from its siblings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The host's wall clock, nanoseconds since 1970.
    pub clock_ns: u64,
    /// 32 bytes from the host's generator.
    pub seed: Vec<u8>,
    /// What the child is called; empty for a guest that has just booted and is no child.
    pub hostname: String,
    /// 32 hexadecimal digits (machine-id(5)); empty to leave the guest's own.
    pub machine_id: String,
    /// Whether it has a network: 10.0.2.15/24 behind 10.0.2.2, names from 10.0.2.3.
    pub network: bool,
}

impl Identity {
    /// The payload of a [`MessageKind::Forked`] (docs/agent.md).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        FieldWriter::default()
            .number(self.clock_ns)
            .bytes(&self.seed)
            .bytes(self.hostname.as_bytes())
            .bytes(self.machine_id.as_bytes())
            .number(self.network.into())
            .0
    }

    /// Reads the payload of a [`MessageKind::Forked`].
    ///
    /// # Errors
    /// [`Malformed`] where fields are cut off, too many, or no text where text is expected.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = FieldReader(payload);
        let identity = Self {
            clock_ns: r.number()?,
            seed: r.bytes()?.to_vec(),
            hostname: r.text()?,
            machine_id: r.text()?,
            network: r.number()? != 0,
        };
        r.end()?;
        Ok(identity)
    }
}

/// What a child answers once it is itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WakeReport {
    /// The guest's wall clock, nanoseconds since 1970, as the answer is sent.
    pub clock_ns: u64,
    /// What did not work, in words for people; empty where all did.
    pub warnings: Vec<String>,
}

impl WakeReport {
    /// The payload of the answer to a [`MessageKind::Forked`] (docs/agent.md).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        FieldWriter::default().number(self.clock_ns).texts(&self.warnings).0
    }

    /// Reads the payload of the answer to a [`MessageKind::Forked`].
    ///
    /// # Errors
    /// [`Malformed`] where fields are cut off, too many, or no text where text is expected.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = FieldReader(payload);
        Ok(Self { clock_ns: r.number()?, warnings: r.texts()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_survive_a_round_trip(
            argv in prop::collection::vec(".*", 0..5), cwd in ".*", terminal in any::<Option<(u16, u16)>>(),
            number in any::<u64>(), flag in any::<bool>(), bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let exec = Exec { argv: argv.clone(), env: argv.clone(), cwd: cwd.clone(), user: cwd.clone(), terminal, limit_ms: number, input: flag };
            prop_assert_eq!(Exec::decode(&exec.encode()), Ok(exec));
            let identity = Identity { clock_ns: number, seed: bytes, hostname: cwd.clone(), machine_id: cwd.clone(), network: flag };
            prop_assert_eq!(Identity::decode(&identity.encode()), Ok(identity));
            let put = Put { path: cwd.clone(), mode: number as u32 };
            prop_assert_eq!(Put::decode(&put.encode()), Ok(put));
            let report = WakeReport { clock_ns: number, warnings: argv };
            prop_assert_eq!(WakeReport::decode(&report.encode()), Ok(report));
            let hello = Hello { protocol: 1, uptime_ns: number, kernel: cwd };
            prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
            let exit = Exit { code: number as u8, timed_out: flag };
            prop_assert_eq!(Exit::decode(&exit.encode()), Ok(exit));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (Exec::decode(&bytes), Identity::decode(&bytes), Put::decode(&bytes), WakeReport::decode(&bytes), Hello::decode(&bytes));
        }
    }

    #[test]
    fn counts_are_not_trusted() {
        assert_eq!(Exec::decode(&u64::MAX.to_le_bytes()), Err(Malformed));
        assert_eq!(Put::decode(&u32::MAX.to_le_bytes()), Err(Malformed));
    }
}
