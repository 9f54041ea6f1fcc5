//! Cuts a zstd stream into frames for parallel decoding, and decodes what cannot be cut as it goes.

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::pipeline::buffers::{Buffer, Buffers};
use forkd_format::manifest::MAX_MANIFEST;
use forkd_format::zstd_frame::{FrameHeader, FrameScanner, MAGIC, MAX_WINDOW_LOG};
use forkd_format::{FormatError, PIECE_SIZE};
use std::io::Read;
use std::sync::Arc;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

/// A piece of a file and the padding after it.
pub(crate) const RAW_LEN: usize = PIECE_SIZE + 512;

/// Room for a frame of [`RAW_LEN`] bytes as any encoder would write it.
pub(crate) const COMPRESSED_LEN: usize = RAW_LEN + RAW_LEN / 128 + (64 << 10);

/// Bytes that skippable frames of one stream may take.
const MAX_SKIPPED: u64 = 256 << 20;

/// Compressed bytes that a stream may have beyond those of its content: a sixteenth of that, for frames and blocks that are small, and this,
/// for what holds no content at all.
const MAX_OVERHEAD: u64 = 4 << 20;

/// The most compressed bytes that content of so many bytes may take. No encoder writes more; what has no end does.
pub(crate) fn most_compressed(content: u64) -> u64 {
    content.saturating_add(content / 16).saturating_add(MAX_OVERHEAD)
}

/// Decoded pieces in memory beside a stream's own window.
const SPARING: usize = 6;

/// The memory of one piece on its way: its frame and what that decodes to.
pub(crate) struct Piece {
    pub(crate) compressed: Buffer,
    pub(crate) raw: Buffer,
}

/// The pools that pieces come from.
pub(crate) struct Pieces {
    compressed: Arc<Buffers>,
    raw: Arc<Buffers>,
}

impl Pieces {
    pub(crate) fn new(compressed: usize, raw: usize) -> Self {
        Self { compressed: Buffers::new(compressed, COMPRESSED_LEN), raw: Buffers::new(raw, RAW_LEN) }
    }

    /// Waits for memory for one piece. `sparing` keeps most of it free, for a stream whose window may take as much again.
    pub(crate) fn take(&self, sparing: bool, cancel: &Cancel, stop: impl Fn() -> bool) -> Result<Piece> {
        let raw = self.raw.take(if sparing { SPARING } else { usize::MAX }, cancel, &stop)?;
        Ok(Piece { compressed: self.compressed.take(usize::MAX, cancel, &stop)?, raw })
    }
}

/// What the source gives.
pub(crate) enum Chunk {
    /// A whole frame, not decoded: its length, and that of its content.
    Frame { piece: Piece, len: usize, content: usize },
    /// Decoded bytes, and whether a frame begins with them.
    Decoded { piece: Piece, content: usize, starts_frame: bool },
}

/// The unused part of a stream.
pub(crate) type Rest<R> = std::io::Chain<std::io::Cursor<Vec<u8>>, R>;

/// A zstd stream, cut.
pub(crate) struct FrameSource<R> {
    input: R,
    name: String,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    streaming: Option<Decoder<'static>>,
    skipped: u64,
    /// Bytes that were read from the input.
    taken: u64,
    /// How many there may be.
    most: u64,
}

impl<R: Read> FrameSource<R> {
    pub(crate) fn new(input: R, name: &str) -> Self {
        let buffer = vec![0; 256 << 10].into_boxed_slice();
        let most = most_compressed(MAX_MANIFEST);
        let name = name.to_owned();
        Self { input, name, buffer, start: 0, end: 0, streaming: None, skipped: 0, taken: 0, most }
    }

    /// Lets as many bytes come as content of so many bytes may take; before, it is those of a manifest.
    pub(crate) fn expect(&mut self, content: u64) {
        self.most = most_compressed(content.saturating_add(MAX_MANIFEST));
    }

    /// Whether the next chunk goes on with a frame that is decoded as a stream.
    pub(crate) fn is_streaming(&self) -> bool {
        self.streaming.is_some()
    }

    /// The input, read to its end.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// What was not used yet, and where in the input it begins.
    pub(crate) fn into_rest(self) -> (u64, Rest<R>) {
        let unread = self.buffer[self.start..self.end].to_vec();
        (self.taken - unread.len() as u64, std::io::Cursor::new(unread).chain(self.input))
    }

    /// The next chunk; `None` at the end of the stream.
    pub(crate) fn next(&mut self, piece: Piece) -> Result<Option<Chunk>> {
        if self.streaming.is_some() {
            return self.stream(piece, false).map(Some);
        }
        loop {
            self.fill(FrameHeader::MAX_LEN)?;
            if self.start == self.end {
                return Ok(None);
            }
            let header = FrameHeader::parse(self.unread());
            let is_first = self.taken == self.end as u64 && self.start == 0;
            if header.is_err() && is_first && !self.unread().starts_with(&MAGIC.to_le_bytes()) {
                // Nothing was read of it yet: it is something else.
                return Err(no_pack(&self.name, self.unread()));
            }
            match header.map_err(|e| self.malformed(e))? {
                None => return Err(self.cut_off()),
                Some(FrameHeader::Skippable(len)) => self.skip(len)?,
                Some(FrameHeader::Data { content_size: Some(content), len, checksum })
                    if content <= RAW_LEN as u64 =>
                {
                    return self.gather(piece, content as usize, FrameScanner::new(len, checksum)).map(Some);
                }
                Some(FrameHeader::Data { .. }) => {
                    let mut decoder = Decoder::new().map_err(|e| self.undecodable(&e))?;
                    decoder
                        .set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))
                        .map_err(|e| self.undecodable(&e))?;
                    self.streaming = Some(decoder);
                    return self.stream(piece, true).map(Some);
                }
            }
        }
    }

    /// Collects a whole frame.
    fn gather(&mut self, mut piece: Piece, content: usize, mut scanner: FrameScanner) -> Result<Chunk> {
        let mut len = 0;
        loop {
            let found = scanner.scan(&piece.compressed[..len]).map_err(|e| self.malformed(e))?;
            if found == Some(len) {
                return Ok(Chunk::Frame { piece, len, content });
            }
            // While the end is unknown, the three bytes of the next block's header are enough to go on.
            let wanted = found.unwrap_or(scanner.known_len() + 3);
            if wanted > COMPRESSED_LEN {
                let message =
                    format!("{wanted} bytes or more for {content} of content; no encoder writes that");
                return Err(self.malformed(FormatError::Frame(message)));
            }
            self.fill(1)?;
            if self.start == self.end {
                return Err(self.cut_off());
            }
            let step = (wanted - len).min(self.end - self.start);
            piece.compressed[len..len + step].copy_from_slice(&self.buffer[self.start..self.start + step]);
            self.start += step;
            len += step;
        }
    }

    /// Decodes until the buffer is full or the frame ends.
    fn stream(&mut self, mut piece: Piece, starts_frame: bool) -> Result<Chunk> {
        let mut content = 0;
        let mut ended = false;
        while content < PIECE_SIZE && !ended {
            self.fill(1)?;
            let at_end = self.start == self.end;
            let Some(decoder) = &mut self.streaming else { break };
            let mut input = InBuffer::around(&self.buffer[self.start..self.end]);
            let mut output = OutBuffer::around(&mut piece.raw[content..PIECE_SIZE]);
            let hint = decoder.run(&mut input, &mut output);
            let (taken, made) = (input.pos(), output.pos());
            ended = hint.map_err(|e| self.undecodable(&e))? == 0;
            if at_end && made == 0 && !ended {
                return Err(self.cut_off());
            }
            self.start += taken;
            content += made;
        }
        if ended {
            self.streaming = None;
        }
        Ok(Chunk::Decoded { piece, content, starts_frame })
    }

    fn skip(&mut self, mut len: u64) -> Result<()> {
        self.skipped += len;
        if self.skipped > MAX_SKIPPED {
            let message = format!("more than {MAX_SKIPPED} bytes of skippable frames");
            return Err(self.malformed(FormatError::Frame(message)));
        }
        while len > 0 {
            self.fill(1)?;
            if self.start == self.end {
                return Err(self.cut_off());
            }
            let step = len.min((self.end - self.start) as u64);
            self.start += step as usize;
            len -= step;
        }
        Ok(())
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Reads until this many bytes are there or the input ends.
    fn fill(&mut self, wanted: usize) -> Result<()> {
        if self.end - self.start >= wanted {
            return Ok(());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while self.end < wanted {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(n) => {
                    self.end += n;
                    self.taken += n as u64;
                    if self.taken > self.most {
                        let message =
                            format!("more than {} compressed bytes for what is declared", self.most);
                        return Err(self.malformed(FormatError::Frame(message)));
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(read_error(&self.name, e)),
            }
        }
        Ok(())
    }

    fn malformed(&self, source: FormatError) -> Error {
        Error::Malformed { file: self.name.clone(), source }
    }

    fn undecodable(&self, error: &std::io::Error) -> Error {
        self.malformed(FormatError::Frame(error.to_string()))
    }

    fn cut_off(&self) -> Error {
        self.malformed(FormatError::Frame("the file ends inside a frame: it was cut off".into()))
    }
}

/// What a file is that is no pack, and which command takes it.
fn no_pack(name: &str, bytes: &[u8]) -> Error {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]).trim_start().to_ascii_lowercase();
    let is_tar = bytes.len() > 262 && bytes[257..].starts_with(b"ustar");
    let (what, hint) = match bytes {
        [0x1f, 0x8b, ..] => (
            "compressed by gzip",
            "an image that `docker save` made is for `forkd from-image docker-archive:FILE`",
        ),
        [b'P', b'K', 3 | 5, ..] => ("a zip archive", "unzip it, and name the pack that is in it"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => ("compressed by xz", "a pack is compressed by zstd"),
        _ if is_tar => (
            "a tar archive that is not compressed",
            "an image that `docker save` made is for `forkd from-image docker-archive:FILE`",
        ),
        _ if text.starts_with("version https://git-lfs") => {
            ("a Git LFS pointer, not the file that it stands for", "`git lfs pull` it")
        }
        _ if text.starts_with("<!doctype html") || text.starts_with("<html") => {
            ("a web page", "check the URL: a server may answer with a page where a file is missing")
        }
        _ if text.starts_with('{') => ("JSON", "a registry is for --hub, with the name of a package"),
        _ => ("something else", "expected what `forkd pack` writes"),
    };
    Error::new(Kind::Integrity, format!("{name}: no pack (zstd): it is {what}")).hint(hint)
}

/// An error of a stream whose reader may have wrapped one of ours.
pub(crate) fn read_error(name: &str, error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(source) => Error::Io { action: "read", path: name.into(), source },
    }
}
