//! What the frames of a stream pack decode to, on its way into files.

use crate::error::Result;
use crate::pack::stream::zstd_frames::{Piece, RAW_LEN};
use forkd_format::reader::FileId;
use std::ops::Range;
use std::sync::Arc;

static ZEROS: [u8; RAW_LEN] = [0; RAW_LEN];

/// Takes the files of a pack.
pub(crate) trait Sink: Sync {
    /// A declared file begins.
    fn start(&self, file: FileId) -> Result<()>;
    /// Its bytes, in file order. Stretches that are known to be zero are left out.
    fn write(&self, file: FileId, offset: u64, bytes: &[u8]) -> Result<()>;
    /// All its bytes were written; the sums are those of [`crate::digest::block_sums`].
    fn written(&self, file: FileId, blocks: String);
    /// So many bytes of content were checked.
    fn advance(&self, bytes: u64);
}

/// What a frame decodes to.
pub(crate) enum FrameContent {
    Zeros,
    Bytes(Piece),
}

impl FrameContent {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Zeros => &ZEROS,
            Self::Bytes(piece) => &piece.raw,
        }
    }
}

/// A stretch of a file.
pub(crate) struct FilePart {
    pub(crate) file: FileId,
    pub(crate) offset: u64,
    pub(crate) bytes: PartBytes,
}

/// Bytes of a file, in its order.
pub(crate) enum PartBytes {
    Zeros(u64),
    Of(Arc<FrameContent>, Range<usize>),
}

impl PartBytes {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Zeros(len) => *len,
            Self::Of(_, range) => range.len() as u64,
        }
    }
}

/// A part of a decoded chunk that is not placed yet.
pub(crate) struct Placement {
    pub(crate) content: Arc<FrameContent>,
    pub(crate) range: Range<usize>,
    pub(crate) starts_frame: bool,
}
