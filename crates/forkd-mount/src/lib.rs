//! The port [`Mounter`] over FUSE: files that are made as they are read, in a folder that stands in no mount table. It is reached
//! through this process, and is gone when this and all who have its files open are.
#![forbid(unsafe_code)]

mod filesystem;

use crate::filesystem::ShownFolder;
use forkd_core::mount::{Mount, Mounter, PageReader, ShownFile};
use forkd_core::{Error, Kind, Result};
use fuser::{BackgroundSession, Config, Session, SessionACL};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Mounts over FUSE, as root or in a user namespace.
#[derive(Debug, Clone, Copy, Default)]
pub struct FuseMounter;

impl FuseMounter {
    /// Says whether this host can show files.
    ///
    /// # Errors
    /// [`Kind::Incompatible`] with what is in the way.
    pub fn probe() -> Result<()> {
        forkd_sys::mount_fuse().map(drop).map_err(|e| not_to_be_had(&e))
    }
}

/// Lets a program run on when the terminal and whoever started it are gone.
pub fn in_background(command: &mut std::process::Command) {
    forkd_sys::new_session(command);
}

fn not_to_be_had(error: &std::io::Error) -> Error {
    let what = "files cannot be shown before they are here: FUSE is not to be had";
    Error::new(Kind::Incompatible, format!("{what} ({error})"))
}

impl Mounter for FuseMounter {
    fn mount(&self, files: Vec<ShownFile>, reader: Arc<dyn PageReader>) -> Result<Box<dyn Mount>> {
        let failed = |e| not_to_be_had(&e);
        let mount = forkd_sys::mount_fuse().map_err(failed)?;
        let mut config = Config::default();
        config.acl = SessionACL::All;
        let folder = ShownFolder::new(files, reader);
        let session = Session::from_fd(folder, mount.device, SessionACL::All, config).map_err(failed)?;
        let session = session.spawn().map_err(failed)?;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), mount.root.as_raw_fd()));
        Ok(Box::new(FuseFolder { path, _root: mount.root, _session: session }))
    }
}

/// A folder that is being served. The kernel ends the session once nobody has the root or a file open.
#[derive(Debug)]
struct FuseFolder {
    path: PathBuf,
    _root: OwnedFd,
    _session: BackgroundSession,
}

impl Mount for FuseFolder {
    fn dir(&self) -> &Path {
        &self.path
    }
}
