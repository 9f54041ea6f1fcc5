//! The port to files that are made as they are read.

use crate::error::Result;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A file that is shown.
#[derive(Debug, Clone)]
pub struct ShownFile {
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// Whether it is to be mapped: then all who do share the pages that were read. Else it is read as whoever reads it asks.
    pub mapped: bool,
}

/// A read of a shown file.
#[derive(Debug, Clone, Copy)]
pub struct ReadRequest {
    /// Counted as the files were given.
    pub file: usize,
    /// In bytes.
    pub offset: u64,
    /// At least 1, and inside the file.
    pub len: usize,
    /// Who reads; 0 where that is not known.
    pub pid: u32,
}

/// Takes all bytes of a read, or why there are none.
pub type ReadAnswer = Box<dyn FnOnce(io::Result<&[u8]>) + Send>;

/// Makes the bytes of shown files.
pub trait PageReader: Send + Sync {
    /// Answers a read, now or later and from any thread. It must not wait: other reads come by the same one.
    fn read(&self, request: ReadRequest, answer: ReadAnswer);
}

/// Shows files.
pub trait Mounter: Send + Sync + std::fmt::Debug {
    /// Shows files for as long as the result lives and someone has one of them open.
    ///
    /// # Errors
    /// [`crate::Kind::Incompatible`] where this host cannot.
    fn mount(&self, files: Vec<ShownFile>, reader: Arc<dyn PageReader>) -> Result<Box<dyn Mount>>;
}

/// Files that are shown.
pub trait Mount: Send + Sync + std::fmt::Debug {
    /// The folder in which they are, for programs of this user.
    fn dir(&self) -> &Path;
}
