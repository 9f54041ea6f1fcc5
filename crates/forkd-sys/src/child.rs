use rustix::io::{FdFlags, fcntl_setfd};
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

/// Keeps a descriptor open, under the same number, in the child. The closure owns it until the command is dropped.
pub fn inherit(command: &mut Command, fd: OwnedFd) {
    // SAFETY: between fork and exec only fcntl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || Ok(fcntl_setfd(fd.as_fd(), FdFlags::empty())?));
    }
}
