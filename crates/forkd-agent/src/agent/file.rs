//! Files to and from the guest.

use super::job::{PortJob, PortRequest};
use super::send_queue::SendQueue;
use forkd_agent::message::{self, MessageKind};
use rustix::event::PollFd;
use rustix::fs::{Mode, OFlags};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

struct PutJob {
    id: u32,
    file: File,
    path: PathBuf,
    mode: u32,
    /// Beside the path, until all is there. Deleted when this is dropped before.
    temporary: Option<PathBuf>,
    taken: u32,
}

pub(super) fn put(request: &PortRequest<'_>) -> Result<Option<Box<dyn PortJob>>, String> {
    let put = message::Put::decode(request.payload).map_err(|e| e.to_string())?;
    let path = absolute(&put.path)?;
    if path.is_dir() || put.path.ends_with('/') {
        return Err(format!("cannot write {}: it is a folder", put.path));
    }
    // The port does one thing at a time, so the name is its own.
    let temporary = path.with_file_name(format!(".{}.put", request.port));
    let _ = fs::remove_file(&temporary);
    let file =
        File::options().write(true).create_new(true).open(&temporary).map_err(cannot("write", &path))?;
    let put =
        PutJob { id: request.id, file, path, mode: put.mode & 0o7777, temporary: Some(temporary), taken: 0 };
    Ok(Some(Box::new(put)))
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    if path.starts_with('/') && !path.contains('\0') {
        Ok(path.into())
    } else {
        Err(format!("{path}: not an absolute path"))
    }
}

fn cannot(what: &str, path: &Path) -> impl FnOnce(io::Error) -> String {
    let words = format!("cannot {what} {}", path.display());
    move |error| format!("{words}: {error}")
}

impl PutJob {
    fn finish(&mut self) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(self.mode))?;
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &self.path)?;
            self.temporary = None;
        }
        Ok(())
    }
}

impl Drop for PutJob {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}

impl PortJob for PutJob {
    fn interest<'a>(&'a self, _: bool, _: &mut Vec<PollFd<'a>>) {}

    fn deadline(&self, _: bool) -> Option<Instant> {
        None
    }

    fn step(&mut self, queue: &mut SendQueue, _: &mut [u8]) -> bool {
        if self.taken > 0 {
            queue.push(self.id, MessageKind::Taken, &self.taken.to_le_bytes());
            self.taken = 0;
        }
        false
    }

    fn input(&mut self, bytes: Vec<u8>, queue: &mut SendQueue) -> bool {
        let written = if bytes.is_empty() { self.finish() } else { self.file.write_all(&bytes) };
        match written {
            Ok(()) if bytes.is_empty() => {
                self.step(queue, &mut []);
                queue.push(self.id, MessageKind::Ok, &[]);
                true
            }
            Ok(()) => {
                self.taken += bytes.len() as u32;
                false
            }
            Err(error) => {
                queue.error(self.id, &cannot("write", &self.path)(error));
                true
            }
        }
    }
}

struct GetJob {
    id: u32,
    file: File,
    path: PathBuf,
    mode: u32,
}

pub(super) fn get(request: &PortRequest<'_>) -> Result<Option<Box<dyn PortJob>>, String> {
    let path = absolute(&String::from_utf8_lossy(request.payload))?;
    let not_regular = || format!("cannot read {}: it is not a regular file", path.display());
    let found = fs::metadata(&path).map_err(cannot("read", &path))?;
    // Before it is opened: opening a device may do something.
    if !found.is_file() {
        return Err(not_regular());
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| cannot("read", &path)(e.into()))?;
    let file = File::from(file);
    let found = file.metadata().map_err(cannot("read", &path))?;
    if !found.is_file() {
        return Err(not_regular());
    }
    Ok(Some(Box::new(GetJob { id: request.id, file, path, mode: found.permissions().mode() & 0o7777 })))
}

impl PortJob for GetJob {
    fn interest<'a>(&'a self, _: bool, _: &mut Vec<PollFd<'a>>) {}

    fn deadline(&self, room: bool) -> Option<Instant> {
        room.then(Instant::now)
    }

    fn step(&mut self, queue: &mut SendQueue, scratch: &mut [u8]) -> bool {
        if !queue.has_room() {
            return false;
        }
        match self.file.read(scratch) {
            Ok(0) => queue.push(self.id, MessageKind::Ok, &self.mode.to_le_bytes()),
            Ok(len) => {
                queue.push(self.id, MessageKind::Stdout, scratch.get(..len).unwrap_or_default());
                return false;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return false,
            Err(error) => queue.error(self.id, &cannot("read", &self.path)(error)),
        }
        true
    }
}
