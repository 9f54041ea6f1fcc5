//! A QEMU process that never outlives the value that stands for it.

use forkd_core::{Cancel, Error, Kind, Result};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command; what it prints goes to a log in `dir`. Call from a thread that lives as long as the process should.
    pub(crate) fn start(mut command: Command, dir: &Path) -> Result<Self> {
        let log = dir.join("qemu.log");
        let failed = || Error::io("create", &log);
        let out = std::fs::File::create(&log).map_err(failed())?;
        let err = out.try_clone().map_err(failed())?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        forkd_sys::die_with_parent(&mut command);
        let program = PathBuf::from(command.get_program());
        let child = command.spawn().map_err(Error::io("start", &program))?;
        Ok(Self { child, log })
    }

    /// Connects to a socket that the process makes, waiting until it is there.
    pub(crate) fn connect(&mut self, socket: &Path, cancel: &Cancel) -> Result<UnixStream> {
        let begun = Instant::now();
        loop {
            cancel.check()?;
            if let Ok(stream) = UnixStream::connect(socket) {
                return Ok(stream);
            }
            self.check_alive()?;
            if begun.elapsed() > Duration::from_secs(30) {
                return Err(Error::new(Kind::General, format!("QEMU does not open {}", socket.display())));
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Fails with what the process printed where it has ended.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                Err(Error::new(Kind::General, format!("QEMU ended ({status}): {}", self.last_words())))
            }
            Err(e) => Err(Error::new(Kind::General, format!("QEMU cannot be watched: {e}"))),
        }
    }

    /// The end of what it printed.
    pub(crate) fn last_words(&self) -> String {
        tail(&self.log).unwrap_or_else(|| "it printed nothing".to_owned())
    }

    /// Waits for its end, which was asked for.
    pub(crate) fn wait(mut self, limit: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < limit && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a log; `None` where there are none.
pub(crate) fn tail(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    let mut file = std::fs::File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(8 << 10))).ok()?;
    file.take(8 << 10).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(6)..].join("\n  ");
    (!last.is_empty()).then_some(last)
}
