//! One port: it is read, written and polled by one thread, which waits for nothing else. What a request has begun is a [`PortJob`], which
//! ends with the connection.

use super::children::{Children, FROZEN, Wake};
use super::job::{PortJob, PortRequest};
use super::send_queue::SendQueue;
use super::{eval, exec, file, forked};
use forkd_agent::message::{Hello, MessageKind, PROTOCOL};
use forkd_agent::wire::{self, Decoder, Packet};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A host that is silent for so long after what looks like the beginning of a conversation, though it is within a packet, waits for
/// the answer.
const BEGIN_ANEW: Duration = Duration::from_millis(20);

/// The kernel may pass on what a host sends before it hears that the host has connected. So a port that something has come through
/// for so long is not hung up, though it seems to be.
const SETTLE: Duration = Duration::from_millis(30);
/// How often to look whether it has heard.
const SETTLE_STEP: Duration = Duration::from_millis(1);

struct Port {
    name: &'static str,
    file: File,
    /// Tells when something has come. Edge-triggered: a port without a host is readable all the time.
    arrivals: OwnedFd,
    /// Whether the port may have more to read.
    unread: bool,
    decoder: Decoder,
    /// When something has last come.
    last: Instant,
    /// Whether the port seems to be hung up, but not for long enough.
    settling: bool,
    /// When to take the end of what has come for a conversation's beginning, with this id.
    anew: Option<(Instant, u32)>,
    /// Whether the last request was a conversation's beginning.
    greeted: bool,
    queue: SendQueue,
    job: Option<(u32, Box<dyn PortJob>)>,
    children: Arc<Children>,
    wake: Arc<Wake>,
    scratch: Vec<u8>,
}

/// Serves a port for as long as there is one.
pub(super) fn serve(name: &'static str, device: &Path, children: &Arc<Children>) -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(device, flags, Mode::empty())?);
    let arrivals = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&arrivals, &file, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
    let mut port = Port {
        name,
        file,
        arrivals,
        unread: true,
        decoder: Decoder::default(),
        last: Instant::now(),
        settling: false,
        anew: None,
        greeted: false,
        queue: SendQueue::default(),
        job: None,
        children: Arc::clone(children),
        wake: Wake::new()?,
        scratch: vec![0; 64 << 10],
    };
    loop {
        port.read()?;
        if let Some((_, job)) = &mut port.job
            && job.step(&mut port.queue, &mut port.scratch)
        {
            port.job = None;
        }
        port.queue.flush(&port.file);
        port.wait();
    }
}

impl Port {
    fn read(&mut self) -> io::Result<()> {
        // Not for ever: a running job has its turn too.
        for _ in 0..32 {
            if !self.unread || (self.queue.is_stuck() && !self.settling) {
                break;
            }
            match rustix::io::read(&self.file, &mut self.scratch[..]) {
                Ok(0) => {
                    self.unread = false;
                    self.seems_hung_up();
                }
                Ok(len) => {
                    self.last = Instant::now();
                    self.decoder.push(self.scratch.get(..len).unwrap_or_default());
                    self.handle_all();
                    let bytes = self.scratch.get(..len).unwrap_or_default();
                    let id = wire::ends_with_empty(bytes, MessageKind::Hello as u8);
                    let swallowed = !(self.greeted && self.decoder.is_empty());
                    self.anew = id.filter(|_| swallowed).map(|id| (self.last + BEGIN_ANEW, id));
                }
                Err(Errno::AGAIN) => {
                    self.unread = false;
                    self.settling = false;
                    if let Some((_, id)) = self.anew.take_if(|(at, _)| Instant::now() >= *at) {
                        self.decoder.reset();
                        self.handle(Packet { id, kind: MessageKind::Hello as u8, payload: Vec::new() });
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => {
                    self.hung_up();
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn handle_all(&mut self) {
        while let Some(packet) = self.decoder.next_packet() {
            self.handle(packet);
        }
        self.queue.flush(&self.file);
    }

    fn seems_hung_up(&mut self) {
        let idle = self.job.is_none() && self.queue.is_empty() && self.decoder.is_empty();
        self.settling = !idle && self.last.elapsed() < SETTLE;
        if !self.settling {
            self.hung_up();
        }
    }

    fn hung_up(&mut self) {
        self.job = None;
        self.anew = None;
        self.queue.clear();
        self.decoder.reset();
    }

    fn wait(&mut self) {
        let room = self.queue.has_room();
        let stuck = self.queue.is_stuck() && !self.settling;
        let mut fds = vec![
            PollFd::new(&self.arrivals, if stuck { PollFlags::empty() } else { PollFlags::IN }),
            PollFd::new(self.wake.fd(), PollFlags::IN),
        ];
        let writes = !self.queue.is_empty() && !self.settling;
        if writes {
            fds.push(PollFd::new(&self.file, PollFlags::OUT));
        }
        let settle = self.settling.then(|| Instant::now() + SETTLE_STEP);
        let anew = self.anew.map(|(at, _)| at);
        let mut deadline = anew.into_iter().chain(settle).min();
        if let Some((_, job)) = &self.job {
            job.interest(room, &mut fds);
            deadline = deadline.into_iter().chain(job.deadline(room)).min();
        }
        let limit = match deadline {
            _ if self.unread && !stuck => Some(Duration::ZERO),
            Some(at) => Some(at.saturating_duration_since(Instant::now())),
            None => None,
        };
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return,
            // No memory, for now.
            Err(_) => return std::thread::sleep(Duration::from_millis(10)),
        }
        let ready = |at: usize| fds.get(at).map_or(PollFlags::empty(), PollFd::revents);
        let arrived = ready(0).contains(PollFlags::IN);
        let woken = ready(1).contains(PollFlags::IN);
        let hung_up = writes && ready(2).intersects(PollFlags::HUP | PollFlags::ERR);
        if arrived {
            let mut event = [MaybeUninit::<epoll::Event>::uninit(); 1];
            let _ = epoll::wait(&self.arrivals, &mut event, Some(&Timespec::default()));
            self.unread = true;
        }
        if woken {
            self.wake.clear();
        }
        if self.anew.is_some() || self.settling {
            // How it stands is seen by reading only.
            self.unread = true;
        }
        if hung_up {
            // What the host had still sent is read all the same.
            self.unread = true;
            self.seems_hung_up();
        }
    }

    fn handle(&mut self, packet: Packet) {
        let (id, begun) = (packet.id, Instant::now());
        self.greeted = packet.kind == MessageKind::Hello as u8;
        let Some(kind) = MessageKind::from_u8(packet.kind) else {
            return self.queue.error(id, &format!("there is no request of kind {}", packet.kind));
        };
        match kind {
            MessageKind::Hello => {
                // A host that hangs up and comes back quickly may do so unseen.
                self.job = None;
                self.queue.forget_unsent();
                self.queue.push(id, MessageKind::Ok, &hello().encode());
            }
            MessageKind::Ping => self.queue.push(id, MessageKind::Ok, &packet.payload),
            MessageKind::Exec | MessageKind::Put | MessageKind::Get | MessageKind::Eval => {
                self.begin(kind, &packet)
            }
            MessageKind::Input => {
                if let Some((_, job)) = self.job.as_mut().filter(|(of, _)| *of == id)
                    && job.input(packet.payload, &mut self.queue)
                {
                    self.job = None;
                }
            }
            MessageKind::Signal => match (packet.payload.as_slice(), self.job_of(id)) {
                ([number], Some(job)) => job.signal(*number),
                ([_], None) => {}
                _ => self.malformed(id),
            },
            MessageKind::Resize => match (packet.payload.as_slice(), self.job_of(id)) {
                ([a, b, c, d], Some(job)) => {
                    job.resize(u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]))
                }
                ([_, _, _, _], None) => {}
                _ => self.malformed(id),
            },
            MessageKind::Prepare => match forked::prepare(&self.children) {
                Ok(()) => self.queue.push(id, MessageKind::Ok, &[]),
                Err(message) => self.queue.error(id, &message),
            },
            MessageKind::Halt => match forked::halt(&self.children) {
                Ok(()) => self.queue.push(id, MessageKind::Ok, &[]),
                Err(message) => self.queue.error(id, &message),
            },
            MessageKind::Forked => match forked::forked(&packet.payload, begun, &self.children) {
                Ok(woken) => self.queue.push(id, MessageKind::Ok, &woken.encode()),
                Err(message) => self.queue.error(id, &message),
            },
            MessageKind::Ok
            | MessageKind::Error
            | MessageKind::Stdout
            | MessageKind::Stderr
            | MessageKind::Exit
            | MessageKind::Taken => {
                self.queue.error(id, &format!("kind {} is an answer, not a request", packet.kind));
            }
        }
    }

    fn job_of(&mut self, id: u32) -> Option<&mut (dyn PortJob + 'static)> {
        self.job.as_mut().filter(|(of, _)| *of == id).map(|(_, job)| job.as_mut())
    }

    fn malformed(&mut self, id: u32) {
        self.queue.error(id, &forkd_agent::fields::Malformed.to_string());
    }

    fn begin(&mut self, kind: MessageKind, packet: &Packet) {
        let id = packet.id;
        if let Some((other, _)) = &self.job {
            let message = format!("busy: request {other} is still running on this port");
            return self.queue.error(id, &message);
        }
        // Programs would not answer, and one that is started would not even start.
        if matches!(kind, MessageKind::Exec | MessageKind::Eval) && self.children.frozen() {
            return self.queue.error(id, FROZEN);
        }
        let request = PortRequest {
            id,
            payload: &packet.payload,
            port: self.name,
            children: &self.children,
            wake: &self.wake,
        };
        let job = match kind {
            MessageKind::Exec => exec::begin(&request, &mut self.queue),
            MessageKind::Put => file::put(&request),
            MessageKind::Get => file::get(&request),
            _ => eval::begin(&request),
        };
        match job {
            Ok(job) => self.job = job.map(|job| (id, job)),
            Err(message) => self.queue.error(id, &message),
        }
    }
}

fn hello() -> Hello {
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let uptime = Duration::try_from(uptime).unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Hello { protocol: PROTOCOL, uptime_ns: uptime.as_nanos() as u64, kernel: kernel.trim_end().into() }
}
