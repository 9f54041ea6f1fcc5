//! A layer's bytes, wherever they lie, checked while they are read.

use forkd_core::cache::CacheEntry;
use forkd_core::{Error, Kind, Result};
use forkd_format::{Digest, Hasher};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A stretch of a file.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// For messages.
    pub(crate) name: String,
}

impl Part {
    pub(crate) fn whole(file: File, len: u64, name: String) -> Self {
        Self { file: Arc::new(file), offset: 0, len, name }
    }

    /// All of it, where it is no more than `limit`.
    pub(crate) fn read(&self, limit: u64) -> Result<Vec<u8>> {
        let wrong = |why: String| Error::new(Kind::Integrity, format!("{}: {why}", self.name));
        if self.len > limit {
            return Err(wrong(format!("{} bytes; {limit} are the most", self.len)));
        }
        let mut bytes = vec![0; self.len as usize];
        self.file
            .read_exact_at(&mut bytes, self.offset)
            .map_err(|e| wrong(format!("cannot be read: {e}")))?;
        Ok(bytes)
    }
}

#[derive(Debug, Clone)]
enum Stored {
    /// Held, so that it is not trimmed away.
    Cached(Arc<CacheEntry>),
    Part(Part),
}

/// One layer of an image: a tar, mostly compressed.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The digest of its bytes as they are stored.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    stored: Stored,
}

impl Layer {
    pub(crate) fn cached(digest: Digest, entry: Arc<CacheEntry>) -> Self {
        Self { digest, size: entry.len(), stored: Stored::Cached(entry) }
    }

    pub(crate) fn part(digest: Digest, part: Part) -> Self {
        Self { digest, size: part.len, stored: Stored::Part(part) }
    }

    /// Its bytes as they are stored. Reading to the end fails with [`Kind::Integrity`], as an [`io::Error`] around an [`Error`],
    /// where they are not those of the digest; a damaged file of the cache is taken away then.
    ///
    /// # Errors
    /// None today; a layer is held open.
    pub fn open(&self) -> Result<Box<dyn Read + Send>> {
        let hasher = Hasher::default();
        Ok(Box::new(LayerReader { layer: self.clone(), at: 0, hasher: Some(hasher) }))
    }

    /// Where its bytes begin.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let room = usize::try_from(self.size - at).unwrap_or(usize::MAX).min(buffer.len());
        match &self.stored {
            Stored::Cached(entry) => entry.file().read_at(&mut buffer[..room], at),
            Stored::Part(part) => part.file.read_at(&mut buffer[..room], part.offset + at),
        }
    }

    fn name(&self) -> String {
        match &self.stored {
            Stored::Cached(entry) => entry.path().display().to_string(),
            Stored::Part(part) => part.name.clone(),
        }
    }
}

struct LayerReader {
    layer: Layer,
    at: u64,
    /// None once the digest has been found right.
    hasher: Option<Hasher>,
}

impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.at < self.layer.size {
            let read = self.layer.read_at(buffer, self.at)?;
            if read > 0 {
                self.at += read as u64;
                if let Some(hasher) = &mut self.hasher {
                    hasher.update(&buffer[..read]);
                }
                return Ok(read);
            }
        }
        let Some(hasher) = self.hasher.clone() else { return Ok(0) };
        let found = hasher.finish();
        if self.at != self.layer.size || found != self.layer.digest {
            let mut message = format!(
                "{}: {} bytes with sha256 {found}; the image says {} bytes with {}",
                self.layer.name(),
                self.at,
                self.layer.size,
                self.layer.digest
            );
            if let Stored::Cached(entry) = &self.layer.stored {
                let _ = entry.discard();
                message.push_str("; the damaged file was removed from the cache, try again");
            }
            return Err(io::Error::other(Error::new(Kind::Integrity, message)));
        }
        self.hasher = None;
        Ok(0)
    }
}

/// Opens the bytes of a layer, as they are kept: perhaps compressed.
pub type Open = Box<dyn Fn() -> Result<Box<dyn Read + Send>> + Send + Sync>;

/// A layer to be applied.
pub struct LayerSource {
    pub open: Open,
    /// SHA-256 of its tar stream, where it is known.
    pub diff_id: Option<Digest>,
    /// For messages.
    pub name: String,
}

impl std::fmt::Debug for LayerSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "layer {}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn bytes_are_checked_at_their_end() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"..abc..").unwrap();
        let part = Part { file: Arc::new(file), offset: 2, len: 3, name: "x".into() };
        assert_eq!(part.read(3).unwrap(), b"abc");
        assert_eq!(part.read(2).unwrap_err().kind(), Kind::Integrity);
        let mut text = String::new();
        Layer::part(Digest::of(b"abc"), part.clone()).open().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        for (digest, len) in [(Digest::of(b"abd"), 3), (Digest::of(b"abc"), 99)] {
            let layer = Layer::part(digest, Part { len, ..part.clone() });
            let error = layer.open().unwrap().read_to_end(&mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("the image says"), "{error}");
        }
    }
}
