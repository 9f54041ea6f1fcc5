//! Programs that the host runs.

use super::children::{Program, Wake};
use super::image::{User, environment, image};
use super::job::{PortJob, PortRequest};
use super::send_queue::SendQueue;
use forkd_agent::fields::Malformed;
use forkd_agent::message::{self, Exit, INPUT_WINDOW, MessageKind};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Signal, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcsetwinsize};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long what a program left behind may still add to its output.
const LINGER: Duration = Duration::from_millis(100);
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;
/// What ends the input of a terminal: ^D.
const END_OF_INPUT: u8 = 4;

struct ExecJob {
    id: u32,
    program: Program,
    input: Option<InputQueue>,
    sources: [Option<OutputStream>; 2],
    terminal: Option<OwnedFd>,
    limit: Option<Instant>,
    timed_out: bool,
    /// Once the program has ended: until when output is waited for.
    until: Option<Instant>,
    /// Input taken but not told yet.
    taken: u32,
}

struct InputQueue {
    fd: OwnedFd,
    terminal: bool,
    queue: VecDeque<Vec<u8>>,
    /// So many bytes of the first are written.
    written: usize,
    waiting: usize,
    ends: bool,
}

struct OutputStream {
    fd: OwnedFd,
    kind: MessageKind,
    /// So many bytes were in it when the program ended, and are the host's however long they take.
    owed: u64,
}

/// Starts a program. One that cannot be started is answered as a shell would.
pub(super) fn begin(
    request: &PortRequest<'_>,
    queue: &mut SendQueue,
) -> Result<Option<Box<dyn PortJob>>, String> {
    let exec = message::Exec::decode(request.payload).map_err(|e| e.to_string())?;
    let (name, arguments) = exec.argv.split_first().ok_or("there is no program to run")?;
    let mut command = Command::new(name);
    command.args(arguments);
    let mut refuse = |message: String, code| {
        queue.push(request.id, MessageKind::Stderr, format!("{message}\n").as_bytes());
        queue.push(request.id, MessageKind::Exit, &Exit { code, timed_out: false }.encode());
        Ok(None)
    };
    let image = image();
    let user = match User::find(if exec.user.is_empty() { &image.user } else { &exec.user }) {
        Ok(user) => user,
        Err(message) => return refuse(message, NOT_RUN),
    };
    command.env_clear().envs(environment(image, &user));
    if exec.terminal.is_some() && !image.env.iter().any(|text| text.starts_with("TERM=")) {
        command.env("TERM", "xterm");
    }
    for variable in &exec.env {
        let (name, value) =
            variable.split_once('=').ok_or_else(|| format!("'{variable}' is not NAME=VALUE"))?;
        command.env(name, value);
    }
    let folder = [&exec.cwd, &image.folder].into_iter().find(|folder| !folder.is_empty());
    let folder = folder.map_or("/", String::as_str);
    command.current_dir(folder);
    if exec.cwd.is_empty() && !Path::new(folder).is_dir() {
        // As containers' engines do with a WORKDIR that no layer holds.
        let _ = std::fs::create_dir_all(folder);
    }
    if !Path::new(folder).is_dir() {
        return refuse(format!("{folder}: no such folder"), NOT_RUN);
    }
    match start(&exec, command, &user, request) {
        Ok(job) => Ok(Some(Box::new(job))),
        Err(error) => match error.kind() {
            // A script is there, but not what its first line names.
            io::ErrorKind::NotFound if name.contains('/') && Path::new(folder).join(name).exists() => {
                refuse(format!("{name}: its interpreter is not found"), NOT_FOUND)
            }
            io::ErrorKind::NotFound => refuse(format!("{name}: not found"), NOT_FOUND),
            io::ErrorKind::PermissionDenied => refuse(format!("{name}: permission denied"), NOT_RUN),
            io::ErrorKind::InvalidInput => Err(Malformed.to_string()),
            io::ErrorKind::ResourceBusy | io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => {
                Err(format!("cannot start {name}: {error}"))
            }
            _ => refuse(format!("{name}: {error}"), NOT_RUN),
        },
    }
}

fn start(
    exec: &message::Exec,
    mut command: Command,
    user: &User,
    request: &PortRequest<'_>,
) -> io::Result<ExecJob> {
    let wake: &Arc<Wake> = request.wake;
    // What it is given is its own: it may open it anew by a name like /dev/stdout.
    let owner = (!user.is_root()).then_some(user);
    let give = |fd: BorrowedFd<'_>| match owner {
        Some(user) => rustix::fs::fchown(fd, Some(Uid::from_raw(user.uid)), None),
        None => Ok(()),
    };
    let (program, input, sources, terminal);
    if let Some((rows, columns)) = exec.terminal {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::pty::unlockpt(&master)?;
        tcsetwinsize(&master, size(rows, columns))?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let end = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        give(end.as_fd())?;
        command.stdin(end.try_clone()?).stdout(end.try_clone()?).stderr(end);
        // All of them are one open file: this is for the others too.
        rustix::io::ioctl_fionbio(&master, true)?;
        (input, terminal) = (exec.input.then(|| master.try_clone()).transpose()?, Some(master.try_clone()?));
        (_, program) = request.children.start(command, owner, true, wake)?;
        sources = [Some(OutputStream { fd: master, kind: MessageKind::Stdout, owed: 0 }), None];
    } else {
        let none_or_pipe = if exec.input { Stdio::piped() } else { Stdio::null() };
        command.stdin(none_or_pipe).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (mut child, started) = request.children.start(command, owner, false, wake)?;
        program = started;
        let source = |fd: Option<OwnedFd>, kind| {
            fd.map(|fd| {
                give(fd.as_fd())?;
                rustix::io::ioctl_fionbio(&fd, true).map(|()| OutputStream { fd, kind, owed: 0 })
            })
            .transpose()
        };
        sources = [
            source(child.stdout.take().map(OwnedFd::from), MessageKind::Stdout)?,
            source(child.stderr.take().map(OwnedFd::from), MessageKind::Stderr)?,
        ];
        input = child.stdin.take().map(OwnedFd::from);
        if let Some(input) = &input {
            give(input.as_fd())?;
            rustix::io::ioctl_fionbio(input, true)?;
        }
        terminal = None;
    }
    let is_terminal = terminal.is_some();
    let input = input.map(|fd| InputQueue {
        fd,
        terminal: is_terminal,
        queue: VecDeque::new(),
        written: 0,
        waiting: 0,
        ends: false,
    });
    let limit = (exec.limit_ms > 0).then(|| Instant::now().checked_add(Duration::from_millis(exec.limit_ms)));
    Ok(ExecJob {
        id: request.id,
        program,
        input,
        sources,
        terminal,
        limit: limit.flatten(),
        timed_out: false,
        until: None,
        taken: 0,
    })
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl InputQueue {
    /// Writes what the program takes now, and gives the number of bytes; true where no more can be written.
    fn feed(&mut self) -> (usize, bool) {
        let mut taken = 0;
        while let Some(front) = self.queue.front() {
            match rustix::io::write(&self.fd, front.get(self.written..).unwrap_or_default()) {
                Ok(0) | Err(Errno::AGAIN) => return (taken, false),
                Ok(len) => {
                    taken += len;
                    self.written += len;
                    self.waiting = self.waiting.saturating_sub(len);
                    if self.written >= front.len() {
                        self.written = 0;
                        self.queue.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                // The program reads no more: what is left is dropped, and counts as taken.
                Err(_) => return (taken + self.waiting, true),
            }
        }
        if self.ends && self.terminal {
            let _ = rustix::io::write(&self.fd, &[END_OF_INPUT]);
        }
        (taken, self.ends)
    }
}

impl OutputStream {
    /// Sends on what can be read now; true at its end.
    fn drain(&mut self, id: u32, queue: &mut SendQueue, scratch: &mut [u8]) -> bool {
        match rustix::io::read(&self.fd, &mut *scratch) {
            // The other end of a terminal that nobody has open is an I/O error.
            Ok(0) | Err(Errno::IO) => true,
            Ok(len) => {
                queue.push(id, self.kind, scratch.get(..len).unwrap_or_default());
                self.owed = self.owed.saturating_sub(len as u64);
                false
            }
            Err(Errno::AGAIN) => {
                self.owed = 0;
                false
            }
            Err(Errno::INTR) => false,
            Err(_) => true,
        }
    }
}

impl PortJob for ExecJob {
    fn interest<'a>(&'a self, room: bool, fds: &mut Vec<PollFd<'a>>) {
        if let Some(input) = self.input.as_ref().filter(|input| !input.queue.is_empty()) {
            fds.push(PollFd::new(&input.fd, PollFlags::OUT));
        }
        if room {
            fds.extend(self.sources.iter().flatten().map(|source| PollFd::new(&source.fd, PollFlags::IN)));
        }
    }

    fn deadline(&self, room: bool) -> Option<Instant> {
        // Without room nothing can be done about the output, and a deadline that has passed would be no wait at all.
        self.until.filter(|_| room).or(self.limit)
    }

    fn step(&mut self, queue: &mut SendQueue, scratch: &mut [u8]) -> bool {
        let code = self.program.code();
        let now = Instant::now();
        if code.is_some() && self.until.is_none() {
            self.until = Some(now + LINGER);
            self.limit = None;
            let terminal = self.terminal.is_some();
            for source in self.sources.iter_mut().flatten() {
                source.owed = rustix::io::ioctl_fionread(&source.fd).unwrap_or(0);
                if terminal {
                    // The kernel does not tell.
                    source.owed = 64 << 10;
                }
            }
        }
        if self.limit.is_some_and(|limit| now >= limit) {
            self.limit = None;
            self.timed_out = true;
            self.program.signal(Signal::KILL);
        }
        if let Some(input) = &mut self.input {
            let (taken, ended) = input.feed();
            self.taken += taken as u32;
            if ended {
                self.input = None;
            }
        }
        if self.taken > 0 {
            queue.push(self.id, MessageKind::Taken, &self.taken.to_le_bytes());
            self.taken = 0;
        }
        for slot in &mut self.sources {
            if queue.has_room() && slot.as_mut().is_some_and(|source| source.drain(self.id, queue, scratch)) {
                *slot = None;
            }
        }
        let (Some(code), Some(until)) = (code, self.until) else { return false };
        let all_read = self.sources.iter().flatten().all(|source| source.owed == 0);
        if self.sources.iter().all(Option::is_none) || (now >= until && all_read) {
            queue.push(self.id, MessageKind::Exit, &Exit { code, timed_out: self.timed_out }.encode());
            return true;
        }
        false
    }

    fn input(&mut self, bytes: Vec<u8>, queue: &mut SendQueue) -> bool {
        let Some(input) = &mut self.input else {
            self.taken += bytes.len() as u32;
            return false;
        };
        if bytes.is_empty() {
            input.ends = true;
        } else if input.waiting + bytes.len() > INPUT_WINDOW {
            queue.error(self.id, "more input than the window holds");
            return true;
        } else {
            input.waiting += bytes.len();
            input.queue.push_back(bytes);
        }
        false
    }

    fn signal(&mut self, number: u8) {
        if let Some(signal) = Signal::from_named_raw(number.into()) {
            self.program.signal(signal);
        }
    }

    fn resize(&mut self, rows: u16, columns: u16) {
        if let Some(terminal) = &self.terminal {
            let _ = tcsetwinsize(terminal, size(rows, columns));
        }
    }
}
