//! A tar reader that is pushed bytes and takes only what a pack may hold: regular files. Header fields are read by
//! the `tar` crate; the rules are those of `docs/format/pack.md`.

use crate::FormatError;
use std::ops::Range;

const BLOCK: usize = 512;
/// Zero bytes allowed after the end marker: one record of GNU tar's largest common blocking factor.
const MAX_TRAILING: u64 = 1 << 20;
const MAX_PAX: u64 = 64 << 10;

/// What a step of the parser found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TarEvent {
    /// A regular file begins.
    Entry { name: String, size: u64 },
    /// Bytes of the current file: a range of the slice just given, and where in the file they belong.
    Data { offset: u64, range: Range<usize> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Body { size: u64, left: u64 },
    Pax { left: u64, pad: u64 },
    Padding { left: u64 },
    SecondZeroBlock,
    Trailer { seen: u64 },
}

/// Facts that a pax extended header (POSIX.1-2001) overrides in the entry after it.
#[derive(Debug, Default)]
struct Override {
    name: Option<String>,
    size: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct TarParser {
    state: State,
    offset: u64,
    partial: Vec<u8>,
    pax: Vec<u8>,
    next: Override,
}

impl Default for TarParser {
    fn default() -> Self {
        Self {
            state: State::Header,
            offset: 0,
            partial: Vec::with_capacity(BLOCK),
            pax: Vec::new(),
            next: Override::default(),
        }
    }
}

impl TarParser {
    /// Whether the end marker was read in full.
    pub(crate) fn at_end(&self) -> bool {
        matches!(self.state, State::Trailer { .. })
    }

    /// Bytes taken so far.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Offset of the next byte in the current file's body.
    pub(crate) fn body_offset(&self) -> Option<u64> {
        match self.state {
            State::Body { size, left } => Some(size - left),
            _ => None,
        }
    }

    /// Takes bytes from the front of `bytes`; says how many, and what they meant. Takes at least one of a non-empty slice.
    pub(crate) fn step(&mut self, bytes: &[u8]) -> Result<(usize, Option<TarEvent>), FormatError> {
        let (taken, event) = match self.state {
            State::Header | State::SecondZeroBlock => self.block(bytes)?,
            State::Body { size, left } => {
                let step = clamp(left, bytes.len());
                let data = TarEvent::Data { offset: size - left, range: 0..step };
                self.state = match left - step as u64 {
                    0 => State::Padding { left: padding(size) },
                    left => State::Body { size, left },
                };
                (step, Some(data))
            }
            State::Pax { left, pad } => {
                let step = clamp(left, bytes.len());
                self.pax.extend_from_slice(&bytes[..step]);
                self.state = State::Pax { left: left - step as u64, pad };
                if left == step as u64 {
                    self.read_pax()?;
                    self.state = State::Padding { left: pad };
                }
                (step, None)
            }
            State::Padding { left } => {
                let step = clamp(left, bytes.len());
                self.expect_zeros(&bytes[..step], "padding")?;
                self.state = State::Padding { left: left - step as u64 };
                (step, None)
            }
            State::Trailer { seen } => {
                let seen = seen + bytes.len() as u64;
                self.expect_zeros(bytes, "the bytes after the end marker")?;
                if seen > MAX_TRAILING {
                    return Err(self.wrong(format!("more than {MAX_TRAILING} bytes after the end marker")));
                }
                self.state = State::Trailer { seen };
                (bytes.len(), None)
            }
        };
        self.offset += taken as u64;
        if matches!(self.state, State::Padding { left: 0 }) {
            self.state = State::Header;
        }
        Ok((taken, event))
    }

    fn block(&mut self, bytes: &[u8]) -> Result<(usize, Option<TarEvent>), FormatError> {
        let step = (BLOCK - self.partial.len()).min(bytes.len());
        self.partial.extend_from_slice(&bytes[..step]);
        if self.partial.len() < BLOCK {
            return Ok((step, None));
        }
        let block = std::mem::take(&mut self.partial);
        let zero = block.iter().all(|b| *b == 0);
        let event = match (self.state, zero) {
            (State::SecondZeroBlock, true) => {
                self.state = State::Trailer { seen: 0 };
                None
            }
            (State::SecondZeroBlock, false) => return Err(self.wrong("one zero block where the archive's end has two")),
            (_, true) => {
                self.state = State::SecondZeroBlock;
                None
            }
            (_, false) => self.header(&block)?,
        };
        self.partial = block;
        self.partial.clear();
        Ok((step, event))
    }

    fn header(&mut self, block: &[u8]) -> Result<Option<TarEvent>, FormatError> {
        let header = tar::Header::from_byte_slice(block);
        let sum: u32 = block[..148].iter().chain(&block[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        match header.cksum() {
            Ok(stored) if stored == sum => {}
            _ => return Err(self.wrong("header checksum does not match")),
        }
        let name_bytes = header.path_bytes();
        let name = std::str::from_utf8(&name_bytes).map_err(|_| self.wrong("an entry's name is not UTF-8"))?;
        let size = header.entry_size().map_err(|_| self.wrong("an entry's size is not a number"))?;
        let shown = crate::error::shorten(name);
        match header.entry_type() {
            tar::EntryType::Regular => {
                let over = std::mem::take(&mut self.next);
                let (name, size) = (over.name.unwrap_or_else(|| name.to_owned()), over.size.unwrap_or(size));
                self.state = match size {
                    0 => State::Header,
                    _ => State::Body { size, left: size },
                };
                Ok(Some(TarEvent::Entry { name, size }))
            }
            tar::EntryType::XHeader if size > 0 && size <= MAX_PAX => {
                self.pax.clear();
                self.state = State::Pax { left: size, pad: padding(size) };
                Ok(None)
            }
            tar::EntryType::XHeader => Err(self.wrong(format!("an extended header of {size} bytes"))),
            other => Err(self.wrong(format!("entry '{shown}' is a {other:?}; a pack holds regular files only"))),
        }
    }

    fn read_pax(&mut self) -> Result<(), FormatError> {
        let pax = std::mem::take(&mut self.pax);
        for extension in tar::PaxExtensions::new(&pax) {
            let extension = extension.map_err(|_| self.wrong("malformed extended header"))?;
            let (Ok(key), Ok(value)) = (extension.key(), extension.value()) else {
                return Err(self.wrong("an extended header is not UTF-8"));
            };
            match key {
                "path" => self.next.name = Some(value.to_owned()),
                "size" => {
                    let size = value.parse().map_err(|_| self.wrong("an extended header's size is not a number"))?;
                    self.next.size = Some(size);
                }
                "mtime" | "atime" | "ctime" | "uid" | "gid" | "uname" | "gname" | "comment" => {}
                other => {
                    let key = crate::error::shorten(other);
                    return Err(self.wrong(format!("extended header '{key}' has no place in a pack")));
                }
            }
        }
        Ok(())
    }

    fn expect_zeros(&self, bytes: &[u8], what: &str) -> Result<(), FormatError> {
        if bytes.iter().all(|b| *b == 0) { Ok(()) } else { Err(self.wrong(format!("{what} is not zero"))) }
    }

    pub(crate) fn wrong(&self, message: impl Into<String>) -> FormatError {
        FormatError::Tar { offset: self.offset, message: message.into() }
    }
}

fn clamp(left: u64, len: usize) -> usize {
    usize::try_from(left).map_or(len, |left| left.min(len))
}

/// Zero bytes that follow a file of this size to fill its last block.
pub(crate) fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}
