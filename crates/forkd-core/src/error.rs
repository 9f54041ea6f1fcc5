use forkd_format::FormatError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure it is; stable, and what exit codes are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
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
    #[error("{message}{}", joined(hint.as_deref()))]
    Other {
        kind: Kind,
        /// What happened.
        message: String,
        /// What to do next, where that is told apart from what happened.
        hint: Option<String>,
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

impl Kind {
    /// Its stable name (`docs/json.md`).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::General => "general",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Unauthorised => "unauthorised",
            Self::Transient => "transient",
            Self::Integrity => "integrity",
            Self::NoSpace => "no_space",
            Self::Incompatible => "incompatible",
            Self::Locked => "locked",
            Self::Interrupted => "interrupted",
        }
    }
}

/// How a hint follows a message: a clause after a semicolon, a sentence after a full stop.
fn joined(hint: Option<&str>) -> String {
    match hint {
        None => String::new(),
        Some(hint) if hint.starts_with(char::is_uppercase) => format!(". {hint}"),
        Some(hint) => format!("; {hint}"),
    }
}

impl Error {
    /// A failure in words.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self::Other { kind, message: message.into(), hint: None }
    }

    /// The same, with what to do next: a clause that follows the message after a semicolon, or a sentence of its own.
    #[must_use]
    pub fn hint(self, text: impl Into<String>) -> Self {
        match self {
            Self::Other { kind, message, .. } => Self::Other { kind, message, hint: Some(text.into()) },
            other => other,
        }
    }

    /// The same, with a name of what it happened in or to before it.
    #[must_use]
    pub fn within(self, what: impl fmt::Display) -> Self {
        let (kind, hint) = (self.kind(), self.guidance().map(str::to_owned));
        Self::Other { kind, message: format!("{what}: {}", self.message()), hint }
    }

    /// What happened, without what to do next.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Other { message, .. } => message.clone(),
            Self::Locked { resource, holder } => format!("{resource} is in use by {holder}"),
            Self::Changed { location } => format!("{location}: the server's copy changed while it was read"),
            Self::Interrupted => "interrupted".to_owned(),
            other => other.to_string(),
        }
    }

    /// What to do next, where that is known.
    #[must_use]
    pub fn guidance(&self) -> Option<&str> {
        match self {
            Self::Other { hint, .. } => hint.as_deref(),
            Self::Locked { .. } => Some("try again when that has ended"),
            Self::Changed { .. } => Some("try again"),
            Self::Interrupted => Some("nothing was changed"),
            Self::Io { .. } | Self::Malformed { .. } => None,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_told_apart_and_printed_behind() {
        let error = Error::new(Kind::NotFound, "no snapshot 'x'").hint("see `forkd images`");
        assert_eq!(error.to_string(), "no snapshot 'x'; see `forkd images`");
        assert_eq!(
            (error.message().as_str(), error.guidance()),
            ("no snapshot 'x'", Some("see `forkd images`"))
        );
        let within = error.within("child 1");
        assert_eq!(within.message(), "child 1: no snapshot 'x'");
        assert_eq!(within.to_string(), "child 1: no snapshot 'x'; see `forkd images`");
        let error = Error::new(Kind::General, "taken").hint("Use --force to replace it");
        assert_eq!(error.to_string(), "taken. Use --force to replace it");
        let locked = Error::Locked { resource: "a".into(), holder: "b".into() };
        assert_eq!(locked.to_string(), format!("{}; {}", locked.message(), locked.guidance().unwrap()));
    }
}
