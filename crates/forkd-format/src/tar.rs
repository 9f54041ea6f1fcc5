//! A tar reader that is pushed bytes and takes only what a pack may hold: regular files, whole or in GNU's old sparse form
//! (which existing hosts write). Header fields are read by the `tar` crate; the rules are those of `docs/format/pack.md`.

use crate::error::FormatError;
use crate::tar_rules::{PaxRecords, checksum_holds};
use std::ops::Range;

const BLOCK: usize = 512;
/// Zero bytes allowed after the end marker: one record of GNU tar's largest common blocking factor.
const MAX_TRAILING: u64 = 1 << 20;
const MAX_PAX: u64 = 64 << 10;
/// Data stretches that one sparse file may list.
const MAX_EXTENTS: usize = 1 << 19;

/// What a step of the parser found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TarEvent {
    /// A regular file begins.
    Entry { name: String, size: u64 },
    /// Bytes of the current file: a range of the slice just given, and where in the file they belong.
    Data { offset: u64, range: Range<usize> },
    /// A stretch of the current file that is zero and stands nowhere in the stream.
    Hole { offset: u64, len: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TarState {
    Header,
    SparseMap,
    Body,
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
    seen: bool,
}

/// The file that is being read: which stretches of it stand in the stream.
#[derive(Debug, Default)]
struct TarBody {
    name: String,
    /// Bytes of the file, holes included.
    size: u64,
    /// Bytes of it that stand in the stream.
    stored: u64,
    /// Offset and length of each stretch, in order.
    extents: Vec<(u64, u64)>,
    /// The stretch that is being read.
    current: usize,
    /// The next offset in the file.
    at: u64,
}

impl TarBody {
    /// Checks that the stretches are in order, within the file, and as long together as what is stored.
    fn is_coherent(&self) -> bool {
        let mut end = 0;
        let mut stored = 0u64;
        for (offset, len) in &self.extents {
            let Some(next) = offset.checked_add(*len) else { return false };
            if *offset < end || next > self.size {
                return false;
            }
            end = next;
            stored += len;
        }
        stored == self.stored
    }
}

#[derive(Debug)]
pub(crate) struct TarParser {
    state: TarState,
    body: TarBody,
    offset: u64,
    partial: Vec<u8>,
    pax: Vec<u8>,
    next: Override,
}

impl Default for TarParser {
    fn default() -> Self {
        Self {
            state: TarState::Header,
            body: TarBody::default(),
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
        matches!(self.state, TarState::Trailer { .. })
    }

    /// Bytes of the stream that were taken: where the next one stands.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Offset of the next byte in the current file's body.
    pub(crate) fn body_offset(&self) -> Option<u64> {
        (self.state == TarState::Body).then_some(self.body.at)
    }

    /// Takes bytes from the front of `bytes`; says how many, and what they meant. Of a non-empty slice it takes
    /// at least one, or gives a [`TarEvent::Hole`].
    pub(crate) fn step(&mut self, bytes: &[u8]) -> Result<(usize, Option<TarEvent>), FormatError> {
        let (taken, event) = match self.state {
            TarState::Header | TarState::SecondZeroBlock | TarState::SparseMap => self.block(bytes)?,
            TarState::Body => self.step_body(bytes.len()),
            TarState::Pax { left, pad } => {
                let step = clamp(left, bytes.len());
                self.pax.extend_from_slice(&bytes[..step]);
                self.state = TarState::Pax { left: left - step as u64, pad };
                if left == step as u64 {
                    self.read_pax()?;
                    self.state = TarState::Padding { left: pad };
                }
                (step, None)
            }
            TarState::Padding { left } => {
                let step = clamp(left, bytes.len());
                self.expect_zeros(&bytes[..step], "padding")?;
                self.state = TarState::Padding { left: left - step as u64 };
                (step, None)
            }
            TarState::Trailer { seen } => {
                let seen = seen + bytes.len() as u64;
                self.expect_zeros(bytes, "the bytes after the end marker")?;
                if seen > MAX_TRAILING {
                    return Err(self.wrong(format!("more than {MAX_TRAILING} bytes after the end marker")));
                }
                self.state = TarState::Trailer { seen };
                (bytes.len(), None)
            }
        };
        self.offset += taken as u64;
        if matches!(self.state, TarState::Padding { left: 0 }) {
            self.state = TarState::Header;
        }
        Ok((taken, event))
    }

    fn step_body(&mut self, available: usize) -> (usize, Option<TarEvent>) {
        let body = &mut self.body;
        let offset = body.at;
        let (start, len) = body.extents.get(body.current).copied().unwrap_or((body.size, 0));
        let (taken, event) = if offset < start {
            body.at = start;
            (0, TarEvent::Hole { offset, len: start - offset })
        } else {
            let taken = clamp(start + len - offset, available);
            body.at += taken as u64;
            (taken, TarEvent::Data { offset, range: 0..taken })
        };
        while body.extents.get(body.current).is_some_and(|(start, len)| body.at >= start + len) {
            body.current += 1;
        }
        if body.at == body.size {
            self.state = TarState::Padding { left: padding(body.stored) };
        }
        (taken, Some(event))
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
            (TarState::SparseMap, _) => self.more_extents(&block)?,
            (TarState::SecondZeroBlock, true) => {
                self.state = TarState::Trailer { seen: 0 };
                None
            }
            (TarState::SecondZeroBlock, false) => {
                return Err(self.wrong("one zero block where the archive's end has two"));
            }
            (_, true) if self.next.seen => return Err(self.wrong("an extended header without its entry")),
            (_, true) => {
                self.state = TarState::SecondZeroBlock;
                None
            }
            (_, false) => self.header(&block)?,
        };
        self.partial = block;
        self.partial.clear();
        Ok((step, event))
    }

    fn header(&mut self, block: &[u8]) -> Result<Option<TarEvent>, FormatError> {
        // What other readers would take for another name or size is nobody's honest header.
        let name_end = block[..100].iter().position(|byte| *byte == 0).unwrap_or(100);
        self.expect_zeros(&block[name_end..100], "what follows an entry's name")?;
        if block[124] & 0x80 != 0 && block[124..128] != [0x80, 0, 0, 0] {
            return Err(self.wrong("an entry's size is not a number of 64 bits"));
        }
        let header = tar::Header::from_byte_slice(block);
        if !checksum_holds(header) {
            return Err(self.wrong("header checksum does not match"));
        }
        let name_bytes = header.path_bytes();
        let name =
            std::str::from_utf8(&name_bytes).map_err(|_| self.wrong("an entry's name is not UTF-8"))?;
        let size = header.entry_size().map_err(|_| self.wrong("an entry's size is not a number"))?;
        let shown = crate::error::shorten(name);
        match header.entry_type() {
            tar::EntryType::Regular => {
                let over = std::mem::take(&mut self.next);
                let (name, size) = (over.name.unwrap_or_else(|| name.to_owned()), over.size.unwrap_or(size));
                self.body =
                    TarBody { name, size, stored: size, extents: vec![(0, size)], ..TarBody::default() };
                self.begin_body().map(Some)
            }
            tar::EntryType::GNUSparse => {
                let over = std::mem::take(&mut self.next);
                let name = over.name.unwrap_or_else(|| name.to_owned());
                let gnu = header.as_gnu().filter(|_| over.size.is_none());
                let gnu = gnu
                    .ok_or_else(|| self.wrong(format!("entry '{shown}' is sparse but not in GNU's form")))?;
                let real =
                    gnu.real_size().map_err(|_| self.wrong("a sparse entry's size is not a number"))?;
                self.body = TarBody { name, size: real, stored: size, ..TarBody::default() };
                self.add_extents(&gnu.sparse)?;
                if gnu.is_extended() {
                    self.state = TarState::SparseMap;
                    return Ok(None);
                }
                self.begin_body().map(Some)
            }
            tar::EntryType::XHeader if self.next.seen => {
                Err(self.wrong("two extended headers before one entry"))
            }
            tar::EntryType::XHeader if size > 0 && size <= MAX_PAX => {
                self.pax.clear();
                self.state = TarState::Pax { left: size, pad: padding(size) };
                Ok(None)
            }
            tar::EntryType::XHeader => Err(self.wrong(format!("an extended header of {size} bytes"))),
            other => {
                Err(self.wrong(format!("entry '{shown}' is a {other:?}; a pack holds regular files only")))
            }
        }
    }

    fn more_extents(&mut self, block: &[u8]) -> Result<Option<TarEvent>, FormatError> {
        let mut map = tar::GnuExtSparseHeader::new();
        map.as_mut_bytes().copy_from_slice(block);
        let known = self.body.extents.len();
        self.add_extents(map.sparse())?;
        if map.is_extended() && self.body.extents.len() == known {
            return Err(self.wrong("a sparse map goes on without listing anything"));
        }
        if map.is_extended() { Ok(None) } else { self.begin_body().map(Some) }
    }

    fn add_extents(&mut self, entries: &[tar::GnuSparseHeader]) -> Result<(), FormatError> {
        for entry in entries.iter().filter(|entry| !entry.is_empty()) {
            let (Ok(offset), Ok(len)) = (entry.offset(), entry.length()) else {
                return Err(self.wrong("a sparse map holds what is not a number"));
            };
            if self.body.extents.len() == MAX_EXTENTS {
                return Err(self.wrong(format!("a sparse map of more than {MAX_EXTENTS} stretches")));
            }
            // A stretch of no bytes only marks the end of the file.
            if len > 0 {
                self.body.extents.push((offset, len));
            }
        }
        Ok(())
    }

    fn begin_body(&mut self) -> Result<TarEvent, FormatError> {
        if self.body.stored == self.body.size && self.body.size == 0 {
            self.body.extents.clear();
        }
        if !self.body.is_coherent() {
            let name = crate::error::shorten(&self.body.name);
            return Err(self.wrong(format!("entry '{name}' has a sparse map that does not fit its size")));
        }
        self.state = if self.body.size == 0 { TarState::Header } else { TarState::Body };
        Ok(TarEvent::Entry { name: self.body.name.clone(), size: self.body.size })
    }

    fn read_pax(&mut self) -> Result<(), FormatError> {
        let pax = std::mem::take(&mut self.pax);
        self.next.seen = true;
        for record in PaxRecords::of(&pax) {
            let (key, value) = record.map_err(|_| self.wrong("malformed extended header"))?;
            let (Ok(key), Ok(value)) = (std::str::from_utf8(key), std::str::from_utf8(value)) else {
                return Err(self.wrong("an extended header is not UTF-8"));
            };
            match key {
                "path" => self.next.name = Some(value.to_owned()),
                "size" => {
                    let size =
                        value.parse().map_err(|_| self.wrong("an extended header's size is not a number"))?;
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
