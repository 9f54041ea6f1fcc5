//! A stream that is hashed and counted as it is read, and cut off one byte past what it may have.

use crate::env::{Cancel, Progress};
use crate::error::{Error, Kind, Result};
use crate::pack::computed_id::ComputedId;
use forkd_format::{Digest, Hasher};
use std::io::Read;

/// What a stream is expected to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    pub(crate) sha256: Option<Digest>,
    pub(crate) size: Option<u64>,
}

pub(crate) struct CheckedBody<'a> {
    inner: Box<dyn Read + Send + 'a>,
    name: String,
    expected: Expected,
    hasher: Hasher,
    pub(crate) count: u64,
    progress: &'a dyn Progress,
    cancel: Cancel,
}

impl<'a> CheckedBody<'a> {
    pub(crate) fn new(
        inner: Box<dyn Read + Send + 'a>,
        name: &str,
        expected: Expected,
        progress: &'a dyn Progress,
        cancel: &Cancel,
    ) -> Self {
        let hasher = Hasher::default();
        Self { inner, name: name.into(), expected, hasher, count: 0, progress, cancel: cancel.clone() }
    }

    /// To be called at the end of the stream; gives what names the pack.
    pub(crate) fn verify(self) -> Result<ComputedId> {
        let Self { name, expected, hasher, count, .. } = self;
        if let Some(size) = expected.size.filter(|size| *size != count) {
            let message =
                format!("{name}: {count} bytes came; the registry declares {size}. Nothing was unpacked");
            return Err(Error::new(Kind::Integrity, message));
        }
        let id = ComputedId::of_file(hasher);
        let found = id.id().digest();
        match expected.sha256.filter(|wanted| *wanted != found) {
            Some(wanted) => {
                let message = format!("{name}: sha256 is {found}; expected {wanted}. Nothing was unpacked");
                Err(Error::new(Kind::Integrity, message))
            }
            None => Ok(id),
        }
    }
}

impl Read for CheckedBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.cancel.check().map_err(std::io::Error::other)?;
        let read = self.inner.read(buffer)?;
        self.count += read as u64;
        if let Some(size) = self.expected.size.filter(|size| self.count > *size) {
            let message =
                format!("{}: more bytes come than the {size} that the registry declares", self.name);
            return Err(std::io::Error::other(Error::new(Kind::Integrity, message)));
        }
        self.hasher.update(&buffer[..read]);
        self.progress.advance(read as u64);
        Ok(read)
    }
}
