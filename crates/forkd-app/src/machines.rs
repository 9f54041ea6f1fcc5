//! The engine of this host, its machines, and conversations with those that run.

use forkd_core::machine::{self, DetachedChild, Guest, Runtime};
use forkd_core::{Env, Error, Kind, Result};
use forkd_engine::Qemu;
use forkd_mount::FuseMounter;
use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The engine of this host, and where its machines have their folders.
#[derive(Debug)]
pub struct Machines {
    /// What boots and restores them.
    pub engine: Qemu,
    /// Where they have their folders.
    pub runtime: Runtime,
}

impl Machines {
    /// For machines that are started; QEMU is looked for as a shell would.
    ///
    /// # Errors
    /// [`Kind::Incompatible`] where it is not there.
    pub fn open(search_path: Option<&OsStr>, runtime_dir: &Path) -> Result<Self> {
        let runtime = Runtime::new(runtime_dir.to_owned());
        Ok(Self { engine: Qemu::find(search_path)?, runtime: runtime.with_mounter(Box::new(FuseMounter)) })
    }

    /// For those that run already: QEMU itself need not be found.
    #[must_use]
    pub fn running(runtime_dir: &Path) -> Self {
        Self { engine: Qemu::unfound(), runtime: Runtime::new(runtime_dir.to_owned()) }
    }

    /// A child that runs detached, by its name or the beginning of it.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Usage`] where several begin so.
    pub fn child(&self, id: &str) -> Result<DetachedChild> {
        self.runtime.child(&self.engine, id)
    }

    /// A conversation with a child.
    ///
    /// # Errors
    /// As [`Machines::explain`] says.
    pub fn talk(&self, child: &DetachedChild, env: Env<'_>) -> Result<Guest> {
        machine::talk(child, Duration::from_secs(30), env).map_err(|e| Self::explain(child, e))
    }

    /// Says what became of a child with which a conversation failed.
    #[must_use]
    pub fn explain(child: &DetachedChild, error: Error) -> Error {
        if error.kind() == Kind::Interrupted {
            return Error::new(Kind::Interrupted, "interrupted; what ran in the child was ended");
        }
        // A machine that is just ending closes its sockets first.
        std::thread::sleep(Duration::from_millis(100));
        if machine::is_held(&child.run.join(machine::ALIVE)) {
            return error.within(format!("child {}", child.id));
        }
        if let Some(why) = machine::why_stopped(&child.run) {
            return why.within(format!("child {}", child.id));
        }
        let console = machine::console(&child.run).unwrap_or_else(|| "nothing".into());
        let message = format!("child {} has ended; its console ends with:\n  {console}", child.id);
        Error::new(Kind::General, message)
    }
}

/// A file that has no name, so that nothing of it is left however this process ends.
#[derive(Debug)]
pub(crate) struct UnnamedFile {
    /// By which others may open it as long as it is held here.
    pub(crate) path: PathBuf,
    _file: std::fs::File,
}

impl UnnamedFile {
    pub(crate) fn create(bytes: &[u8], dir: &Path) -> Result<Self> {
        let failed = || Error::io("create a file in", dir);
        let mut file = tempfile::tempfile_in(dir).map_err(failed())?;
        file.write_all(bytes).map_err(failed())?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        Ok(Self { path: path.into(), _file: file })
    }
}
