//! The programs that the agent starts. As PID 1 it is the parent of every orphan too: one thread collects all that have ended, and
//! hands the exit codes of its own programs to those who wait for them.

use super::freezer::Freezer;
use super::image::User;
use super::sys;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, kill_process_group, wait, waitid,
};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// What [`Children::start`] says while all programs are frozen.
pub(super) const FROZEN: &str = "the guest is frozen: nothing runs in it before 'forked'";

#[derive(Default)]
pub(super) struct Children {
    table: Mutex<ChildTable>,
    started: Condvar,
    pub(super) freezer: Freezer,
}

#[derive(Default)]
struct ChildTable {
    running: HashMap<i32, Arc<ProgramEnd>>,
    /// How many were started since boot: tells whether one was while nobody held the lock.
    count: u64,
    frozen: bool,
}

/// How a program has ended, once it has.
struct ProgramEnd {
    code: OnceLock<u8>,
    wake: Arc<Wake>,
}

/// Wakes a thread that polls it.
pub(super) struct Wake(OwnedFd);

impl Wake {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    pub(super) fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

/// A program that was started. Killed when this is dropped before it has ended.
pub(super) struct Program {
    children: Arc<Children>,
    pid: Pid,
    ending: Arc<ProgramEnd>,
}

impl Program {
    /// Its exit code, or 128 and the signal that ended it.
    pub(super) fn code(&self) -> Option<u8> {
        self.ending.code.get().copied()
    }

    /// Sends a signal to its process group, unless it has ended.
    pub(super) fn signal(&self, signal: Signal) {
        // The process is collected under the same lock: until then its number is not given to another.
        let _table = self.children.lock();
        if self.code().is_none() {
            let _ = kill_process_group(self.pid, signal);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

impl Children {
    fn lock(&self) -> MutexGuard<'_, ChildTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a program as the leader of a session of its own.
    ///
    /// # Errors
    /// As `fork(2)` and `execve(2)`; [`FROZEN`].
    pub(super) fn start(
        self: &Arc<Self>,
        mut command: Command,
        user: Option<&User>,
        terminal: bool,
        wake: &Arc<Wake>,
    ) -> io::Result<(Child, Program)> {
        sys::new_session(&mut command);
        if terminal {
            sys::take_terminal(&mut command);
        }
        self.freezer.enter(&mut command);
        if let Some(user) = user {
            sys::become_user(&mut command, user.uid, user.gid, user.groups.clone());
        }
        // Held until the program runs: one that ends at once must not be collected before it is known, nor one that could not be
        // started before std has collected it.
        let mut table = self.lock();
        if table.frozen {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, FROZEN));
        }
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::Other)?;
        let ending = Arc::new(ProgramEnd { code: OnceLock::new(), wake: Arc::clone(wake) });
        table.running.insert(pid.as_raw_nonzero().get(), Arc::clone(&ending));
        table.count += 1;
        drop(table);
        self.started.notify_one();
        Ok((child, Program { children: Arc::clone(self), pid, ending }))
    }

    /// Lets nothing be started, and stops what runs.
    pub(super) fn freeze(&self) -> Result<(), String> {
        self.lock().frozen = true;
        self.freezer.freeze().inspect_err(|_| self.lock().frozen = false)
    }

    pub(super) fn frozen(&self) -> bool {
        self.lock().frozen
    }

    /// Ends everything, for good: the machine is to be switched off.
    pub(super) fn end_all(&self) {
        self.lock().frozen = true;
        self.freezer.kill();
    }

    /// Lets what was stopped go on, and programs be started again.
    pub(super) fn thaw(&self) -> Result<(), String> {
        // What is started into a frozen group never becomes the program.
        self.freezer.thaw()?;
        self.lock().frozen = false;
        Ok(())
    }

    /// Collects what ends, for ever.
    pub(super) fn collect(&self) -> ! {
        loop {
            let count = self.lock().count;
            // Only looks: who collects holds the lock.
            match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Ok(_) => self.collect_ended(),
                // No children, and so no orphans either until one is started.
                Err(Errno::CHILD) => {
                    let mut table = self.lock();
                    while table.count == count {
                        table = self.started.wait(table).unwrap_or_else(PoisonError::into_inner);
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn collect_ended(&self) {
        let mut table = self.lock();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let (Some(ending), Some(code)) =
                (table.running.remove(&pid.as_raw_nonzero().get()), code(status))
            else {
                continue;
            };
            let _ = ending.code.set(code);
            let _ = rustix::io::write(ending.wake.fd(), &1u64.to_ne_bytes());
        }
    }
}

fn code(status: WaitStatus) -> Option<u8> {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))?;
    Some(code as u8)
}
