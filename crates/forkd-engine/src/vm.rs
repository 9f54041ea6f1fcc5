//! A machine that QEMU runs.

use crate::process::Process;
use crate::qmp::Qmp;
use forkd_core::machine::Vm;
use forkd_core::{Env, Error, Kind, Result};
use serde_json::json;
use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const STATE_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct QemuVm {
    pub(crate) process: Process,
    pub(crate) run: PathBuf,
    /// The descriptor in QEMU of the state that it is to load.
    pub(crate) state: Option<i32>,
    /// Whether it is in a control group of its own.
    pub(crate) limited: bool,
}

impl QemuVm {
    /// The monitor. A process that ends instead says why in its log.
    fn monitor(&mut self, env: Env<'_>) -> Result<Qmp> {
        let stream = self.process.connect(&self.run.join("qmp"), env.cancel)?;
        let failed = |e: Error| Error::new(e.kind(), format!("{e}; {}", self.process.last_words()));
        Qmp::new(stream).map_err(failed)
    }
}

impl Vm for QemuVm {
    fn resume(&mut self, env: Env<'_>) -> Result<()> {
        let mut qmp = self.monitor(env).map_err(no_room)?;
        let Some(state) = self.state else {
            return Err(Error::new(Kind::General, "the machine runs already"));
        };
        let mut load = || {
            qmp.ignore_shared()?;
            qmp.execute("migrate-incoming", &json!({ "uri": format!("fd:{state}") }))?;
            qmp.wait_migrated(STATE_LIMIT, env.cancel)?;
            qmp.execute("cont", &json!({})).map(drop)
        };
        load().map_err(no_room).map_err(|e| match e.kind() {
            Kind::Interrupted => e,
            kind => Error::new(kind, format!("{e}; {}", self.process.last_words())),
        })
    }

    fn freeze(&mut self, vmstate: &Path, env: Env<'_>) -> Result<()> {
        let mut qmp = self.monitor(env)?;
        qmp.execute("stop", &json!({}))?;
        qmp.ignore_shared()?;
        save_state(&mut qmp, &self.run.join("state"), vmstate)?;
        qmp.wait_migrated(STATE_LIMIT, env.cancel)?;
        // An answer may not come any more.
        let _ = qmp.execute("quit", &json!({}));
        self.process.end(Duration::from_secs(10));
        Ok(())
    }

    fn check_alive(&mut self) -> Result<()> {
        self.process.check_alive()
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn release(self: Box<Self>) {
        let mut this = *self;
        this.limited = false;
        let QemuVm { process, .. } = &mut this;
        let process = std::mem::replace(process, Process::none());
        process.release();
    }
}

impl Drop for QemuVm {
    fn drop(&mut self) {
        if self.limited {
            self.process.end(Duration::ZERO);
            crate::cgroup::clear();
        }
    }
}

/// A machine that did not start may have had no room for its overlay; QEMU itself does not say so.
fn no_room(error: Error) -> Error {
    if error.kind() == Kind::Interrupted {
        return error;
    }
    let dir = overlays();
    match forkd_sys::free_space(&dir) {
        Err(e) => Error::io("make a disk overlay in", &dir)(e),
        Ok(free) if free < 1 << 20 => Error::new(
            Kind::NoSpace,
            format!("{} is full: there is no room for a child's disk overlay", dir.display()),
        ),
        Ok(_) => error,
    }
}

/// Where QEMU has the overlays of children's disks, as its own rule is.
fn overlays() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

/// Lets QEMU write the device state to a socket, and that to a file: it may open no files of its own any more.
fn save_state(qmp: &mut Qmp, socket: &Path, vmstate: &Path) -> Result<()> {
    let failed = || Error::io("write", vmstate);
    let mut file = File::create_new(vmstate).map_err(failed())?;
    let listener = UnixListener::bind(socket).map_err(Error::io("create", socket))?;
    listener.set_nonblocking(true).map_err(Error::io("create", socket))?;
    qmp.execute("migrate", &json!({ "uri": format!("unix:{}", socket.display()) }))?;
    let begun = Instant::now();
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(_) if begun.elapsed() < Duration::from_secs(10) => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(e) => return Err(Error::io("receive the machine's state at", socket)(e)),
        }
    };
    stream.set_nonblocking(false).map_err(failed())?;
    stream.set_read_timeout(Some(STATE_LIMIT)).map_err(failed())?;
    std::io::copy(&mut stream, &mut file).map_err(failed())?;
    Ok(())
}
