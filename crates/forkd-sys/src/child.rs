use rustix::io::{FdFlags, fcntl_setfd};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Lets the kernel kill the child when the thread that spawns it ends, however it ends.
pub fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are made (prctl, getppid).
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            // The parent may have ended before the call above.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        });
    }
}

/// Makes the child the leader of a session of its own: no terminal's signals reach it.
pub fn new_session(command: &mut Command) {
    // SAFETY: between fork and exec only setsid is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from));
    }
}

/// Gives the child no huge pages: of many children each would take whole ones where it needs a part.
pub fn small_pages(command: &mut Command) {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| rustix::thread::disable_transparent_huge_pages(true).map_err(io::Error::from));
    }
}

/// Puts the child into the control group whose list of processes this open file is.
pub fn join_cgroup(command: &mut Command, procs: File) {
    // SAFETY: between fork and exec only write is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || rustix::io::write(&procs, b"0").map(drop).map_err(io::Error::from));
    }
}

/// Keeps a descriptor open, under the same number, in the child. The closure owns it until the command is dropped.
pub fn inherit(command: &mut Command, fd: OwnedFd) {
    // SAFETY: between fork and exec only fcntl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || Ok(fcntl_setfd(fd.as_fd(), FdFlags::empty())?));
    }
}

/// The process of a thread; `None` where it has ended.
#[must_use]
pub fn process_of(thread: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

/// The user that this process runs as.
#[must_use]
pub fn user_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Ends a process at once (SIGKILL).
///
/// # Errors
/// As `kill(2)`; a process that has ended already is no error.
pub fn kill(pid: u32) -> io::Result<()> {
    send(pid, rustix::process::Signal::KILL)
}

/// Asks a process to end (SIGTERM).
///
/// # Errors
/// As `kill(2)`; a process that has ended already is no error.
pub fn terminate(pid: u32) -> io::Result<()> {
    send(pid, rustix::process::Signal::TERM)
}

fn send(pid: u32, signal: rustix::process::Signal) -> io::Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return Ok(()) };
    match rustix::process::kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
