//! Filesystems of the kernel's own.

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::ffi::CStr;
use std::path::Path;

/// Makes a folder, where it is missing, and mounts a filesystem of the kernel's own on it.
pub(super) fn mount_at(
    kind: &str,
    at: &Path,
    flags: MountFlags,
    options: Option<&CStr>,
) -> Result<(), Errno> {
    match rustix::fs::mkdir(at, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    mount(kind, at, kind, flags, options)
}
