use forkd_format::FormatError;
use std::io;
use std::path::{Path, PathBuf};

/// The result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure it is; stable, and what exit codes are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anything else.
    General,
    /// The request makes no sense.
    Usage,
    /// The tag, file or reference is not there.
    NotFound,
    /// The server wants other credentials.
    Unauthorised,
    /// Trying again may help.
    Transient,
    /// Bytes are not what they were declared to be.
    Integrity,
    /// The disk is full.
    NoSpace,
    /// This host cannot run the snapshot.
    Incompatible,
    /// Another process holds the lock.
    Locked,
    /// The user stopped it.
    Interrupted,
}

/// Why an operation failed: what, where, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filesystem said no.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes break a format.
    #[error("{file}: {source}")]
    Malformed {
        /// The file or URL.
        file: String,
        /// The rule that it breaks.
        source: FormatError,
    },
    /// Any other failure of a kind, in words.
    #[error("{message}")]
    Other {
        /// Its kind.
        kind: Kind,
        /// What happened, and what to do next.
        message: String,
    },
    /// A lock stayed taken.
    #[error("{resource} is in use by {holder}; try again when that has ended")]
    Locked {
        /// What the lock is for.
        resource: String,
        /// The process that holds it.
        holder: String,
    },
    /// A server has another copy of an object than the one that was being read.
    #[error("{location}: the server's copy changed while it was read; try again")]
    Changed {
        /// The redacted URL.
        location: String,
    },
    /// The user stopped it.
    #[error("interrupted; nothing was changed")]
    Interrupted,
}

impl Error {
    /// A failure in words.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self::Other { kind, message: message.into() }
    }

    /// A `map_err` argument for a failed call on a path.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// A `map_err` argument for malformed bytes of a file.
    pub fn malformed(file: impl Into<String>) -> impl FnOnce(FormatError) -> Self {
        let file = file.into();
        move |source| Self::Malformed { file, source }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::NoSpace,
                io::ErrorKind::NotFound => Kind::NotFound,
                _ => Kind::General,
            },
            Self::Malformed { .. } => Kind::Integrity,
            Self::Other { kind, .. } => *kind,
            Self::Changed { .. } => Kind::Transient,
            Self::Locked { .. } => Kind::Locked,
            Self::Interrupted => Kind::Interrupted,
        }
    }
}
