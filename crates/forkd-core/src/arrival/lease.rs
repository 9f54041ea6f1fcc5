//! The right to read an arriving snapshot: a connection to whoever serves it, held by this process and by the machines that run on it.

use crate::arrival::note::{ArrivingSnapshot, arriving};
use crate::arrival::protocol::{Word, say};
use crate::error::{Error, Kind, Result};
use crate::store::root::Store;
use crate::store::stored::{StoredSnapshot, describe};
use forkd_format::Tag;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The right to read an arriving snapshot, for as long as it or a copy of its connection is open.
#[derive(Debug, Clone)]
pub struct Lease {
    stream: Arc<UnixStream>,
    dir: PathBuf,
    tag: Tag,
    name: String,
    /// The process that serves it.
    pub server: u32,
}

impl Lease {
    /// Asks whoever serves a tag; `None` where it is not arriving.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where nobody serves it.
    pub fn open(store: &Store, tag: &Tag) -> Result<Option<Self>> {
        let found = arriving(store).into_iter().find(|snapshot| snapshot.tag == *tag);
        found.map(|snapshot| Self::of(&snapshot)).transpose()
    }

    /// The same of an arriving snapshot.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where nobody serves it.
    pub fn of(snapshot: &ArrivingSnapshot) -> Result<Self> {
        let (stream, hello) = snapshot.hail().ok_or_else(|| {
            let why = snapshot.stopped.as_ref().map_or(String::new(), |why| format!(": {why}"));
            let message = format!("'{}' is arriving, and nobody is fetching the rest{why}", snapshot.tag);
            Error::new(Kind::NotFound, message)
                .hint(format!("`forkd pull {}` goes on with it", snapshot.name))
        })?;
        let (tag, name) = (snapshot.tag.clone(), snapshot.name.clone());
        Ok(Self { stream: Arc::new(stream), dir: hello.dir, tag, name, server: hello.pid })
    }

    /// The snapshot as it is shown.
    pub(crate) fn stored(&self) -> Result<StoredSnapshot> {
        let snapshot = describe(&self.dir)?;
        Ok(StoredSnapshot { tag: self.tag.clone(), dir: self.dir.clone(), snapshot, record: None })
    }

    pub(crate) fn connection(&self) -> Arc<UnixStream> {
        Arc::clone(&self.stream)
    }

    /// Tells who reads, so that it can be told why it is stopped.
    pub(crate) fn register(&self, pid: u32, run: &Path) -> Result<()> {
        say(&self.stream, &Word::Child { pid, run: run.to_owned() }).map_err(|_| self.gone())
    }

    /// Fails where whoever serves the snapshot has ended.
    pub(crate) fn check(&self) -> Result<()> {
        if forkd_sys::is_hung_up(&self.stream) { Err(self.gone()) } else { Ok(()) }
    }

    fn gone(&self) -> Error {
        let message = format!("the process that fetched the rest of '{}' has ended", self.tag);
        Error::new(Kind::Transient, message).hint(format!("`forkd pull {}` goes on with it", self.name))
    }
}
