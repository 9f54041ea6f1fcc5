//! Where the frames of a pack or of a release lie.

use crate::hub::remote::{Location, Validator};
use std::ops::Range;

/// What is asked for frames.
#[derive(Debug, Clone)]
pub(crate) enum FramePlace {
    /// One file, and the copy of it whose header was read.
    Pack { location: Location, validator: Validator },
    /// The blobs of a release, ascending. They are named by what they hold: there are no two copies.
    Release(Vec<BlobPlace>),
}

/// A blob of a release.
#[derive(Debug, Clone)]
pub(crate) struct BlobPlace {
    /// Where its frames lie by the header's offsets.
    pub(crate) range: Range<u64>,
    pub(crate) location: Location,
}

/// So far blobs lie apart in a header's offsets: no stretch of frames is of two.
pub(crate) const BLOB_GAP: u64 = 1 << 20;

/// A stretch of one object.
pub(crate) struct PlacedRange<'a> {
    pub(crate) location: &'a Location,
    pub(crate) bytes: Range<u64>,
    /// Nothing where the object cannot change.
    pub(crate) validator: Option<&'a Validator>,
}

impl FramePlace {
    /// Where a stretch of frames lies; `None` where nothing does.
    pub(crate) fn find(&self, bytes: &Range<u64>) -> Option<PlacedRange<'_>> {
        match self {
            Self::Pack { location, validator } => {
                let validator = Some(validator).filter(|validator| !validator.is_empty());
                Some(PlacedRange { location, bytes: bytes.clone(), validator })
            }
            Self::Release(blobs) => {
                let behind = blobs.partition_point(|blob| blob.range.start <= bytes.start);
                let blob = blobs[..behind].last().filter(|blob| bytes.end <= blob.range.end)?;
                let begin = blob.range.start;
                let bytes = bytes.start - begin..bytes.end - begin;
                Some(PlacedRange { location: &blob.location, bytes, validator: None })
            }
        }
    }

    /// Which copy of a pack it is.
    pub(crate) fn validator(&self) -> Option<&Validator> {
        match self {
            Self::Pack { validator, .. } => Some(validator),
            Self::Release(_) => None,
        }
    }
}
