//! Where zstd frames begin and end (RFC 8878), without decoding them: what parallel decoding needs.

use crate::error::FormatError;

/// The largest window that a pack may ask for, as a power of two: 128 MiB.
pub const MAX_WINDOW_LOG: u32 = 27;

/// Begins every frame that holds data, little-endian (RFC 8878, 3.1.1).
pub const MAGIC: u32 = 0xFD2F_B528;
const SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184D_2A50..=0x184D_2A5F;
const MAX_BLOCK: usize = 128 << 10;

/// The first bytes of a frame, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameHeader {
    /// A frame that decoders pass over: its whole length in bytes.
    Skippable(u64),
    /// A frame that decodes to something.
    Data {
        /// Bytes that it decodes to, where the header says so.
        content_size: Option<u64>,
        /// Bytes of the header, from the magic number to the first block.
        len: usize,
        /// Whether four bytes of checksum end the frame.
        checksum: bool,
    },
}

impl FrameHeader {
    /// Bytes that are always enough to read any header.
    pub const MAX_LEN: usize = 18;

    /// The window that a frame of data asks for, in bytes; `None` where the header is cut off or is of another kind.
    #[must_use]
    pub fn window(bytes: &[u8]) -> Option<u64> {
        let descriptor = le(bytes, 4, 1).filter(|_| le(bytes, 0, 4) == Some(u64::from(MAGIC)))?;
        if descriptor & 0x20 == 0 {
            let byte = le(bytes, 5, 1)?;
            let base = 1u64 << (10 + (byte >> 3));
            return Some(base + base / 8 * (byte & 7));
        }
        match Self::parse(bytes) {
            Ok(Some(Self::Data { content_size, .. })) => content_size,
            _ => None,
        }
    }

    /// Reads a header; `None` where more bytes are needed.
    ///
    /// # Errors
    /// [`FormatError::Frame`] for other magic numbers, dictionaries, and windows beyond [`MAX_WINDOW_LOG`].
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, FormatError> {
        let wrong = |message: String| Err(FormatError::Frame(message));
        let Some(magic) = le(bytes, 0, 4) else { return Ok(None) };
        if SKIPPABLE.contains(&(magic as u32)) {
            return Ok(le(bytes, 4, 4).map(|size| Self::Skippable(8 + size)));
        }
        if magic as u32 != MAGIC {
            return wrong(format!("magic number {magic:#010x}; expected {MAGIC:#010x}"));
        }
        let Some(descriptor) = le(bytes, 4, 1) else { return Ok(None) };
        let (single, checksum, dictionary) = (descriptor & 0x20 != 0, descriptor & 4 != 0, descriptor & 3);
        if descriptor & 8 != 0 {
            return wrong("a reserved bit is set".into());
        }
        let mut at = 5;
        let mut window = None;
        if !single {
            let Some(byte) = le(bytes, at, 1) else { return Ok(None) };
            let base = 1u64 << (10 + (byte >> 3));
            window = Some(base + base / 8 * (byte & 7));
            at += 1;
        }
        if dictionary != 0 {
            return wrong("it needs a dictionary".into());
        }
        let width = [usize::from(single), 2, 4, 8][(descriptor >> 6) as usize];
        let Some(size) = le(bytes, at, width) else { return Ok(None) };
        let content_size = match width {
            0 => None,
            2 => Some(size + 256),
            _ => Some(size),
        };
        // A single-segment frame has no window of its own: its whole content is the window.
        let window = window.or(content_size).unwrap_or(u64::MAX);
        if window > 1 << MAX_WINDOW_LOG {
            return wrong(format!(
                "it needs a window of {window} bytes; at most {} are allowed",
                1 << MAX_WINDOW_LOG
            ));
        }
        Ok(Some(Self::Data { content_size, len: at + width, checksum }))
    }
}

/// `width` bytes from `at`, little-endian.
fn le(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let slice = bytes.get(at..at + width)?;
    Some(slice.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// Finds the end of a data frame as its bytes arrive.
#[derive(Debug)]
pub struct FrameScanner {
    next_block: usize,
    checksum: bool,
    end: Option<usize>,
}

impl FrameScanner {
    /// A scanner for a frame whose header has this length.
    #[must_use]
    pub fn new(header_len: usize, checksum: bool) -> Self {
        Self { next_block: header_len, checksum, end: None }
    }

    /// Given all bytes of the frame so far (and perhaps more), its length, or `None` where more are needed to know it.
    ///
    /// # Errors
    /// [`FormatError::Frame`] for a block that no frame may hold.
    pub fn scan(&mut self, frame: &[u8]) -> Result<Option<usize>, FormatError> {
        while self.end.is_none() {
            let Some(header) = le(frame, self.next_block, 3) else { return Ok(None) };
            let size = (header >> 3) as usize;
            let stored = match (header >> 1) & 3 {
                0 | 2 if size <= MAX_BLOCK => size,
                1 => 1,
                _ => return Err(FormatError::Frame("a block is of no known kind or too large".into())),
            };
            self.next_block += 3 + stored;
            if header & 1 == 1 {
                self.end = Some(self.next_block + if self.checksum { 4 } else { 0 });
            }
        }
        Ok(self.end)
    }

    /// Bytes of the frame that are known to exist.
    #[must_use]
    pub fn known_len(&self) -> usize {
        self.end.unwrap_or(self.next_block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_end_of_real_frames() {
        for len in [0usize, 1, 255, 256, 70_000, 1 << 20] {
            let data: Vec<u8> = (0..len).map(|i| ((i * i) >> 7) as u8).collect();
            let mut frame = zstd::bulk::compress(&data, 3).unwrap();
            let whole = frame.len();
            frame.extend_from_slice(b"next frame");
            let Some(FrameHeader::Data { content_size, len: header, checksum }) =
                FrameHeader::parse(&frame).unwrap()
            else {
                panic!("not a data frame");
            };
            assert_eq!(content_size, Some(len as u64));
            let mut scanner = FrameScanner::new(header, checksum);
            let found = (0..=frame.len()).find_map(|n| scanner.scan(&frame[..n]).unwrap());
            assert_eq!(found, Some(whole));
        }
    }

    #[test]
    fn refuses_large_windows_and_dictionaries() {
        let header = |bytes: &[u8]| FrameHeader::parse(&[&MAGIC.to_le_bytes(), bytes, &[0; 16][..]].concat());
        assert!(header(&[0, 21 << 3]).is_err(), "2 GiB window");
        assert!(header(&[0, 17 << 3]).is_ok(), "128 MiB window");
        assert!(header(&[0, 17 << 3 | 1]).is_err(), "144 MiB window");
        assert!(header(&[1, 10 << 3, 7]).is_err(), "dictionary");
        assert!(header(&[8, 10 << 3]).is_err(), "reserved bit");
        assert!(FrameHeader::parse(b"PK\x03\x04rest").is_err());
        assert_eq!(FrameHeader::parse(&MAGIC.to_le_bytes()), Ok(None));
        let skippable = [&0x184D_2A53u32.to_le_bytes()[..], &9u32.to_le_bytes()].concat();
        assert_eq!(FrameHeader::parse(&skippable), Ok(Some(FrameHeader::Skippable(17))));
    }
}
