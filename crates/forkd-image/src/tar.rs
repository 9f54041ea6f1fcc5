//! Reading the tar stream of a layer: POSIX.1-2001 (pax), ustar and GNU's long names. What it says of sizes is never trusted with memory.

use crate::sparse_map::{MAX_EXTENTS, PaxSparse, SparseMap, Stretch, add_entries};
use crate::tar_numbers::{header_number, time};
use forkd_core::{Error, Kind, Result};
use forkd_format::tar_rules::{PaxRecords, checksum_holds, number};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};

const RECORD: usize = 512;
/// What the extended headers of one entry may take, in bytes.
const MAX_EXTENDED: u64 = 1 << 20;
/// What may follow the end of the archive: tape blocks are filled up with zeros.
const MAX_TAIL: u64 = 16 << 20;
/// What headers, names and padding of all layers of an image may take, in bytes: it compresses to next to nothing.
pub(crate) const MAX_OVERHEAD: u64 = 2 << 30;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    File,
    HardLink,
    Link,
    Folder,
    Fifo,
    /// With its major and minor number.
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    /// Whatever else, by its letter.
    Other(u8),
}

/// The header of an entry.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Type,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries one after another.
pub(crate) struct Tar<'a> {
    input: &'a mut dyn Read,
    /// Of the present entry, padding included.
    left: u64,
    /// Of the present entry's bytes as they are stored.
    body: u64,
    /// Of a sparse entry: where its bytes belong.
    map: SparseMap,
    name: String,
    /// Bytes that are no file's and may still come.
    pub(crate) overhead: u64,
}

/// What extended headers say of the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    sparse: PaxSparse,
}

impl<'a> Tar<'a> {
    /// `name` is the layer's, for messages.
    pub(crate) fn new(input: &'a mut dyn Read, name: &str, overhead: u64) -> Self {
        Self { input, left: 0, body: 0, map: SparseMap::default(), name: name.to_owned(), overhead }
    }

    fn spend(&mut self, bytes: u64) -> Result<()> {
        let wrong = || self.wrong(&format!("more than {MAX_OVERHEAD} bytes of headers and names"));
        self.overhead = self.overhead.checked_sub(bytes).ok_or_else(wrong)?;
        Ok(())
    }

    pub(crate) fn wrong(&self, why: &str) -> Error {
        Error::new(Kind::Integrity, format!("layer {}: {why}", self.name))
    }

    fn broken(&self, error: &std::io::Error) -> Error {
        if let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            return match inner.kind() {
                Kind::Interrupted => Error::Interrupted,
                kind => Error::new(kind, inner.to_string()),
            };
        }
        match error.kind() {
            ErrorKind::UnexpectedEof => self.wrong("it ends in the middle"),
            _ => self.wrong(&format!("it cannot be read: {error}")),
        }
    }

    /// Fills a buffer; false at the end of the stream.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.wrong("it ends in the middle")),
                Ok(len) => filled += len,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.broken(&e)),
            }
        }
        Ok(true)
    }

    /// Reads of the present entry's bytes as many as there are and fit; holes are zeros.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match self.map.next(buffer.len()) {
            Stretch::Data(len) => {
                let read = self.read_stored(&mut buffer[..len])?;
                self.map.pass(read as u64);
                Ok(read)
            }
            Stretch::Hole(len) => {
                buffer[..len].fill(0);
                self.map.pass(len as u64);
                Ok(len)
            }
        }
    }

    /// Passes over as much of a hole as is here, in whole units; says how many bytes.
    pub(crate) fn skip_hole(&mut self, unit: u64) -> u64 {
        let hole = self.map.hole() / unit * unit;
        self.map.pass(hole);
        hole
    }

    fn read_stored(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let len = self.body.min(buffer.len() as u64) as usize;
        if len > 0 && !self.fill(&mut buffer[..len])? {
            return Err(self.wrong("it ends in the middle"));
        }
        self.body -= len as u64;
        self.left -= len as u64;
        Ok(len)
    }

    fn skip(&mut self) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        while self.left > 0 {
            let len = self.left.min(buffer.len() as u64) as usize;
            if !self.fill(&mut buffer[..len])? {
                return Err(self.wrong("it ends in the middle"));
            }
            self.left -= len as u64;
        }
        self.body = 0;
        Ok(())
    }

    /// The next entry; `None` at the end. All after that is read, so that whoever hashes the stream has seen it.
    pub(crate) fn next(&mut self) -> Result<Option<Header>> {
        let (mut extended, mut room) = (Extended::default(), MAX_EXTENDED);
        loop {
            self.skip()?;
            let mut record = [0; RECORD];
            if !self.fill(&mut record)? {
                return Ok(None);
            }
            if record.iter().all(|byte| *byte == 0) {
                return self.tail().map(|()| None);
            }
            self.spend(RECORD as u64)?;
            let header = tar::Header::from_byte_slice(&record);
            if !checksum_holds(header) {
                return Err(self.wrong("it is no tar stream: a header's checksum is wrong"));
            }
            let odd = || self.wrong("a tar header holds something that is no number");
            let field = |bytes: &[u8]| header_number(bytes).ok_or_else(odd);
            let old = header.as_old();
            let declared = u64::try_from(field(&old.size)?).map_err(|_| odd())?;
            let letter = header.entry_type().as_byte();
            match letter {
                b'x' | b'L' | b'K' | b'g' => {
                    let bytes = self.extended(declared, room)?;
                    room -= declared;
                    match letter {
                        b'x' => self.pax(&bytes, &mut extended)?,
                        b'L' => extended.path = Some(until_zero(&bytes)),
                        b'K' => extended.link = Some(until_zero(&bytes)),
                        _ => {}
                    }
                    continue;
                }
                _ => {}
            }
            let device = || -> Result<(u32, u32)> {
                let number = |bytes: &[u8]| u32::try_from(field(bytes)?).map_err(|_| odd());
                Ok((number(&record[329..337])?, number(&record[337..345])?))
            };
            let kind = match letter {
                0 | b'0' | b'7' | b'S' => Type::File,
                b'3' => device().map(|(major, minor)| Type::CharDevice(major, minor))?,
                b'4' => device().map(|(major, minor)| Type::BlockDevice(major, minor))?,
                b'1' => Type::HardLink,
                b'2' => Type::Link,
                b'5' => Type::Folder,
                b'6' => Type::Fifo,
                other => Type::Other(other),
            };
            // Only files have bytes, whatever a header says.
            let stored = if kind == Type::File { extended.size.unwrap_or(declared) } else { 0 };
            let owner = |long: Option<u64>, short: &[u8]| {
                let number = long.map_or_else(|| field(short), |long| Ok(i128::from(long)))?;
                u32::try_from(number).map_err(|_| self.wrong("an owner's number has more than 32 bits"))
            };
            let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
            let path = extended.sparse.name.take().unwrap_or(path);
            let link = extended.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
            let found = Header {
                path,
                link: link.unwrap_or_default(),
                kind,
                size: stored,
                mode: (field(&old.mode)? & 0o7777) as u32,
                uid: owner(extended.uid, &old.uid)?,
                gid: owner(extended.gid, &old.gid)?,
                mtime: match extended.mtime {
                    Some(mtime) => mtime,
                    None => (field(&old.mtime)?.clamp(i64::MIN.into(), i64::MAX.into()) as i64, 0),
                },
                xattrs: extended.xattrs.into_iter().collect(),
            };
            self.body = stored;
            self.left = stored
                .checked_next_multiple_of(RECORD as u64)
                .ok_or_else(|| self.wrong("a size is too large"))?;
            let gnu = (letter == b'S').then_some(&record);
            let size = self.open_map(stored, gnu, extended.sparse)?;
            return Ok(Some(Header { size, ..found }));
        }
    }

    /// Where the bytes of the entry that was just read belong; gives the size of the file.
    fn open_map(&mut self, stored: u64, gnu: Option<&[u8; RECORD]>, pax: PaxSparse) -> Result<u64> {
        let mut entries = Vec::new();
        let size = if let Some(record) = gnu {
            let gnu = tar::Header::from_byte_slice(record).as_gnu();
            let gnu = gnu.ok_or_else(|| self.wrong("a sparse file, but not in GNU's form"))?;
            let odd = || self.wrong("a sparse map holds something that is no number");
            add_entries(&gnu.sparse, &mut entries).ok_or_else(odd)?;
            let mut more = gnu.is_extended();
            while more {
                let mut block = tar::GnuExtSparseHeader::new();
                if !self.fill(block.as_mut_bytes())? {
                    return Err(self.wrong("it ends in the middle"));
                }
                self.spend(RECORD as u64)?;
                let odd = || self.wrong("a sparse map holds something that is no number");
                let known = entries.len();
                add_entries(block.sparse(), &mut entries).ok_or_else(odd)?;
                more = block.is_extended() && entries.len() > known && entries.len() <= MAX_EXTENTS;
            }
            gnu.real_size().map_err(|_| self.wrong("a sparse file's size is no number"))?
        } else if pax.is_sparse {
            let size = pax.size.ok_or_else(|| self.wrong("a sparse file that does not say its size"))?;
            entries = if pax.in_body { self.body_map()? } else { pax.entries };
            size
        } else {
            self.map = SparseMap::whole(stored);
            return Ok(stored);
        };
        let wrong = || self.wrong("a sparse map that does not fit its file, or is too long");
        self.map = SparseMap::new(&entries, size, self.body).ok_or_else(wrong)?;
        Ok(size)
    }

    /// The map that stands before the bytes (GNU's form 1.0): lines with a number each, filled up to a record.
    fn body_map(&mut self) -> Result<Vec<(u64, u64)>> {
        let wrong = |tar: &Self| tar.wrong("a sparse map holds something that is no number");
        let (mut text, mut at) = (Vec::new(), 0);
        let mut next = |tar: &mut Self| -> Result<u64> {
            loop {
                if let Some(len) = text[at..].iter().position(|byte: &u8| *byte == b'\n') {
                    let found = number(&text[at..at + len]).ok_or_else(|| wrong(tar))?;
                    at += len + 1;
                    return Ok(found);
                }
                let mut record = [0; RECORD];
                tar.spend(RECORD as u64)?;
                if text.len() - at > RECORD || tar.read_stored(&mut record)? < RECORD {
                    return Err(wrong(tar));
                }
                text.extend_from_slice(&record);
            }
        };
        let count = next(self)?;
        if count > MAX_EXTENTS as u64 {
            return Err(self.wrong("a sparse map that is too long"));
        }
        (0..count).map(|_| Ok((next(self)?, next(self)?))).collect()
    }

    /// What follows the end of the archive.
    fn tail(&mut self) -> Result<()> {
        let (mut rest, mut read) = (vec![0; 64 << 10], 0);
        while read <= MAX_TAIL {
            match self.input.read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(len) => read += len as u64,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.broken(&e)),
            }
        }
        Err(self.wrong(&format!("more than {MAX_TAIL} bytes follow the archive's end")))
    }

    fn extended(&mut self, size: u64, room: u64) -> Result<Vec<u8>> {
        if size > room {
            let message = format!("extended headers of one entry take more than {MAX_EXTENDED} bytes");
            return Err(self.wrong(&message));
        }
        self.spend(size)?;
        let mut bytes = vec![0; size as usize];
        (self.body, self.left) = (size, size.next_multiple_of(RECORD as u64));
        let read = self.read_stored(&mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    fn pax(&self, bytes: &[u8], into: &mut Extended) -> Result<()> {
        let wrong = || self.wrong("an extended header is malformed");
        for record in PaxRecords::of(bytes) {
            let (key, value) = record.map_err(|_| wrong())?;
            match key {
                b"path" => into.path = Some(value.to_vec()),
                b"linkpath" => into.link = Some(value.to_vec()),
                b"size" => into.size = Some(number(value).ok_or_else(wrong)?),
                b"uid" => into.uid = Some(number(value).ok_or_else(wrong)?),
                b"gid" => into.gid = Some(number(value).ok_or_else(wrong)?),
                b"mtime" => into.mtime = Some(time(value).ok_or_else(wrong)?),
                _ if key.starts_with(b"GNU.sparse.") => {
                    into.sparse.set(&key[b"GNU.sparse.".len()..], value).ok_or_else(wrong)?;
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        into.xattrs.insert(name.to_vec(), value.to_vec());
                    }
                }
            }
        }
        Ok(())
    }
}

fn until_zero(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}
