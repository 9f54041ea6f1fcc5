//! A QEMU process that never outlives the value that stands for it, unless it was let go.

use forkd_core::machine::tail;
use forkd_core::{Cancel, Error, Kind, Result};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Process {
    /// `None` once it was let go.
    child: Option<Child>,
    log: PathBuf,
}

impl Process {
    /// Starts a command; what it prints goes to a log in `dir`. Unless it is detached, call from a thread that lives as long as the
    /// process should.
    pub(crate) fn start(mut command: Command, dir: &Path, detached: bool) -> Result<Self> {
        let log = dir.join("qemu.log");
        let failed = || Error::io("create", &log);
        let out = std::fs::File::create(&log).map_err(failed())?;
        let err = out.try_clone().map_err(failed())?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        forkd_sys::new_session(&mut command);
        forkd_sys::small_pages(&mut command);
        if !detached {
            forkd_sys::die_with_parent(&mut command);
        }
        let program = PathBuf::from(command.get_program());
        let child = command.spawn().map_err(Error::io("start", &program))?;
        Ok(Self { child: Some(child), log })
    }

    /// What stands for no process, in the place of one that is let go.
    pub(crate) fn none() -> Self {
        Self { child: None, log: PathBuf::new() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Connects to a socket that the process makes, waiting until it is there.
    pub(crate) fn connect(&mut self, socket: &Path, cancel: &Cancel) -> Result<UnixStream> {
        let begun = Instant::now();
        loop {
            cancel.check()?;
            if let Ok(stream) = forkd_sys::connect(socket) {
                return Ok(stream);
            }
            self.check_alive()?;
            if begun.elapsed() > Duration::from_secs(30) {
                return Err(Error::new(Kind::General, format!("QEMU does not open {}", socket.display())));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Fails with what the process printed where it has ended.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.as_mut().map(Child::try_wait) {
            None | Some(Ok(None)) => Ok(()),
            Some(Ok(Some(status))) => {
                Err(Error::new(Kind::General, format!("QEMU ended ({status}): {}", self.last_words())))
            }
            Some(Err(e)) => Err(Error::new(Kind::General, format!("QEMU cannot be watched: {e}"))),
        }
    }

    /// The end of what it printed.
    pub(crate) fn last_words(&self) -> String {
        let words = tail(&self.log).unwrap_or_default();
        // That the network card is plugged into nothing is as it should be.
        let words: Vec<&str> = words.lines().filter(|line| !line.contains("warning: hub 0")).collect();
        if words.is_empty() { "it printed nothing".to_owned() } else { words.join("\n") }
    }

    /// Waits for its end, which was asked for, and sees to it.
    pub(crate) fn end(&mut self, limit: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < limit
            && self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
        {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.kill();
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Lets it live on.
    pub(crate) fn release(mut self) {
        self.child = None;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
