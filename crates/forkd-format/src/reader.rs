//! A pack's uncompressed stream, held against its own manifest.

use crate::digest::Digest;
use crate::error::FormatError;
use crate::manifest::Manifest;
use crate::manifest::{MANIFEST, MAX_MANIFEST};
use crate::tar::{TarEvent, TarParser};
use std::collections::HashMap;
use std::ops::Range;

/// A file of a pack: index of the link, index of the file in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Index into [`Manifest::links`].
    pub link: usize,
    /// Index into [`crate::manifest::Link::files`].
    pub file: usize,
}

/// What [`PackReader::step`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum PackEvent {
    /// The manifest was read and holds; [`PackReader::manifest`] has it.
    Manifest,
    /// A declared file begins, with the declared size.
    Start(FileId),
    /// Bytes of the file: where in it, and which part of the slice just given.
    Data {
        /// Whose bytes they are.
        file: FileId,
        /// Offset in the file, in bytes.
        offset: u64,
        /// Where they stand in the slice that was given.
        range: Range<usize>,
    },
    /// A stretch of the file that is zero and stands nowhere in the pack.
    Hole {
        /// Whose bytes are zero.
        file: FileId,
        /// Offset in the file, in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
}

#[derive(Debug)]
enum Current {
    Nothing,
    Manifest(Vec<u8>, u64),
    File(FileId),
}

/// Reads a pack that is pushed to it in slices of any size. Entries that are undeclared, declared otherwise, repeated
/// or missing are refused where they appear, before their bytes are handed out.
#[derive(Debug)]
pub struct PackReader {
    tar: TarParser,
    current: Current,
    manifest: Option<Manifest>,
    /// Digest and length of the manifest's bytes.
    manifest_digest: Option<(Digest, u64)>,
    expected: HashMap<String, FileId>,
}

impl Default for PackReader {
    fn default() -> Self {
        Self {
            tar: TarParser::default(),
            current: Current::Nothing,
            manifest: None,
            manifest_digest: None,
            expected: HashMap::new(),
        }
    }
}

impl PackReader {
    /// The manifest, once [`PackEvent::Manifest`] was seen.
    #[must_use]
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// SHA-256 and length of the manifest's bytes, once it was read: the first names a version 3 pack.
    #[must_use]
    pub fn manifest_digest(&self) -> Option<(Digest, u64)> {
        self.manifest_digest
    }

    /// Whether the archive's end marker was read.
    #[must_use]
    pub fn at_end(&self) -> bool {
        self.tar.at_end()
    }

    /// The file whose bytes come next, and their offset in it.
    #[must_use]
    pub fn position(&self) -> Option<(FileId, u64)> {
        match (&self.current, self.tar.body_offset()) {
            (Current::File(file), Some(offset)) => Some((*file, offset)),
            _ => None,
        }
    }

    /// Takes bytes from the front of the slice; says how many, and what they meant. Call again with the rest until
    /// the slice is empty.
    ///
    /// # Errors
    /// [`FormatError`] where the pack breaks a rule.
    pub fn step(&mut self, bytes: &[u8]) -> Result<(usize, Option<PackEvent>), FormatError> {
        let (taken, event) = self.tar.step(bytes)?;
        let event = match event {
            Some(TarEvent::Entry { name, size }) => self.entry(&name, size)?,
            Some(TarEvent::Data { offset, range }) => self.data(offset, range, bytes)?,
            Some(TarEvent::Hole { offset, len }) => match self.current {
                Current::File(file) => Some(PackEvent::Hole { file, offset, len }),
                _ => return Err(self.tar.wrong(format!("{MANIFEST} has holes"))),
            },
            None => None,
        };
        Ok((taken, event))
    }

    /// To be called at the end of the stream.
    ///
    /// # Errors
    /// [`FormatError`] where the stream was cut off or declared files are missing.
    pub fn finish(&self) -> Result<(), FormatError> {
        if !self.tar.at_end() {
            let offset = self.tar.offset();
            return Err(self.tar.wrong(format!("the pack ends early, after {offset} uncompressed bytes")));
        }
        match (&self.manifest, self.expected.keys().min()) {
            (None, _) => Err(self.tar.wrong("an empty archive: expected manifest.toml")),
            (_, Some(name)) => Err(self.tar.wrong(format!("declared file '{name}' is missing"))),
            _ => Ok(()),
        }
    }

    fn entry(&mut self, name: &str, size: u64) -> Result<Option<PackEvent>, FormatError> {
        let shown = crate::error::shorten(name);
        let Some(manifest) = &self.manifest else {
            if name != MANIFEST {
                return Err(self.tar.wrong(format!("the first entry is '{shown}'; expected {MANIFEST}")));
            }
            if size == 0 || size > MAX_MANIFEST {
                return Err(FormatError::Manifest(format!("{size} bytes; expected 1 to {MAX_MANIFEST}")));
            }
            self.current = Current::Manifest(Vec::new(), size);
            return Ok(None);
        };
        let Some(id) = self.expected.remove(name) else {
            return Err(self
                .tar
                .wrong(format!("entry '{shown}' is not declared in the manifest, or comes twice")));
        };
        let declared = manifest.links[id.link].files[id.file].size;
        if declared != size {
            return Err(self
                .tar
                .wrong(format!("entry '{shown}' has {size} bytes; the manifest declares {declared}")));
        }
        self.current = Current::File(id);
        Ok(Some(PackEvent::Start(id)))
    }

    fn data(
        &mut self,
        offset: u64,
        range: Range<usize>,
        bytes: &[u8],
    ) -> Result<Option<PackEvent>, FormatError> {
        match &mut self.current {
            Current::Nothing => Err(self.tar.wrong("bytes outside of any entry")),
            Current::File(file) => Ok(Some(PackEvent::Data { file: *file, offset, range })),
            Current::Manifest(collected, size) => {
                collected.extend_from_slice(&bytes[range]);
                if (collected.len() as u64) < *size {
                    return Ok(None);
                }
                let manifest = Manifest::parse(collected)?;
                for (l, link) in manifest.links.iter().enumerate() {
                    for (f, file) in link.files.iter().enumerate() {
                        self.expected.insert(manifest.entry_name(link, file), FileId { link: l, file: f });
                    }
                }
                self.manifest_digest = Some((Digest::of(collected), *size));
                self.manifest = Some(manifest);
                self.current = Current::Nothing;
                Ok(Some(PackEvent::Manifest))
            }
        }
    }
}
