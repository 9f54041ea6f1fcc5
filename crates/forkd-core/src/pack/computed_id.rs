//! The name of a pack, computed here from its bytes. What others only declare is never of this type.

use crate::store::record::Provenance;
use forkd_format::reader::PackReader;
use forkd_format::{Digest, Hasher, PackId};
use serde::{Serialize, Serializer};

/// A [`PackId`] that was computed, now or when the pack was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComputedId(PackId);

impl ComputedId {
    /// Of a stream pack all bytes of which went through a hasher.
    pub(crate) fn of_file(hasher: Hasher) -> Self {
        Self(PackId::File(hasher.finish()))
    }

    /// Of a pack whose manifest was read, and that manifest's length in bytes.
    pub(crate) fn of_manifest(reader: &PackReader) -> (Self, u64) {
        let (digest, len) = reader.manifest_digest().unwrap_or_else(|| (Digest::of(b""), 0));
        (Self(PackId::Manifest(digest)), len)
    }

    /// Of a release whose manifest was read or made.
    pub(crate) fn of_release(manifest: &[u8]) -> Self {
        Self(PackId::Release(Digest::of(manifest)))
    }

    /// What was noted of a snapshot's pack when it was unpacked, where that was computed.
    pub(crate) fn recorded(provenance: &Provenance) -> Option<Self> {
        provenance.id.map(Self)
    }

    /// The same as [`PackId`] has it.
    #[must_use]
    pub fn id(self) -> PackId {
        self.0
    }
}

impl Serialize for ComputedId {
    /// The digest alone.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.digest().serialize(serializer)
    }
}
