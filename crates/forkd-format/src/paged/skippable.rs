//! The skippable zstd frames (RFC 8878, 3.1.2) around the index and the frames of a paged pack: readers of other formats pass over them.

use crate::error::FormatError;
use crate::little_endian::le32;

/// The skippable frame that holds the index.
const INDEX_MAGIC: u32 = 0x184D_2A5B;
/// The skippable frame around each frame.
const FRAME_MAGIC: u32 = 0x184D_2A5C;
/// Bytes of a skippable frame's own header.
pub const SKIPPABLE_HEADER: usize = 8;

/// The header of the skippable frame that holds an index of so many bytes, padding included.
#[must_use]
pub fn index_frame_header(len: u32) -> [u8; SKIPPABLE_HEADER] {
    header(INDEX_MAGIC, len)
}

/// The header of the skippable frame around a frame of so many bytes.
#[must_use]
pub fn data_frame_header(len: u32) -> [u8; SKIPPABLE_HEADER] {
    header(FRAME_MAGIC, len)
}

/// Reads the header of the index; gives the length of what follows.
///
/// # Errors
/// [`FormatError::Index`] where it is none.
pub fn parse_index_frame_header(bytes: &[u8]) -> Result<u32, FormatError> {
    match (le32(bytes, 0), le32(bytes, 4)) {
        (Some(INDEX_MAGIC), Some(len)) => Ok(len),
        _ => Err(FormatError::Index("it does not follow the manifest".into())),
    }
}

/// The frame itself, in the bytes that the index gives it.
///
/// # Errors
/// [`FormatError::Frame`] where its header says something else.
pub fn parse_data_frame(bytes: &[u8]) -> Result<&[u8], FormatError> {
    match (le32(bytes, 0), le32(bytes, 4)) {
        (Some(FRAME_MAGIC), Some(len)) if len as usize + SKIPPABLE_HEADER == bytes.len() => {
            Ok(&bytes[SKIPPABLE_HEADER..])
        }
        _ => Err(FormatError::Frame("it does not begin as the index says".into())),
    }
}

fn header(magic: u32, len: u32) -> [u8; SKIPPABLE_HEADER] {
    let mut bytes = [0; SKIPPABLE_HEADER];
    bytes[..4].copy_from_slice(&magic.to_le_bytes());
    bytes[4..].copy_from_slice(&len.to_le_bytes());
    bytes
}
