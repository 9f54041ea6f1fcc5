//! Files that frames refer to.

use crate::error::{Error, Result};
use forkd_format::PAGE_SIZE;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A file whose pages frames may refer to: a base, or a file of the pack itself.
#[derive(Debug)]
pub(crate) struct PageSource {
    /// None where nothing can be referred to.
    pub(crate) file: Option<File>,
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
}

impl PageSource {
    /// Whole pages; a short one at the end cannot be referred to.
    pub(crate) fn pages(&self) -> u64 {
        self.size / PAGE_SIZE as u64
    }

    /// Reads whole pages.
    pub(crate) fn read(&self, page: u64, buffer: &mut [u8]) -> Result<()> {
        match &self.file {
            Some(file) => file.read_exact_at(buffer, page * PAGE_SIZE as u64),
            None => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
        .map_err(Error::io("read", &self.path))
    }
}
