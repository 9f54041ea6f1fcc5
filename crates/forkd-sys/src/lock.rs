use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;

/// Whether others may hold the same lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Readers: many at a time.
    Shared,
    /// A writer: alone.
    Exclusive,
}

/// The flag with which opening a link fails (`O_NOFOLLOW`); its value differs between processors.
pub const NO_FOLLOW: i32 = libc::O_NOFOLLOW;

/// Takes a `flock(2)` on an open file or folder without waiting; false where another holds it. The kernel lets go when
/// the last descriptor closes, so a killed holder frees at once.
///
/// # Errors
/// Where the filesystem has no locks.
pub fn try_lock(file: &File, kind: LockKind) -> io::Result<bool> {
    let operation = match kind {
        LockKind::Shared => FlockOperation::NonBlockingLockShared,
        LockKind::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
