use crate::error::{Error, Kind, Result};
use crate::hub::remote::Location;
use forkd_format::Digest;
use forkd_format::manifest::Base;

/// A pack that may be taken.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) location: Location,
    /// Of version 3, the digest of its manifest; else that of the pack.
    pub(crate) sha256: Option<Digest>,
    pub(crate) size: Option<u64>,
    /// 3 where that is known; 0 where it may be any.
    pub(crate) format: u32,
    pub(crate) head_bytes: Option<u64>,
    pub(crate) choice: Option<String>,
    pub(crate) bases: Vec<Base>,
}

/// Holds the digest of a version 3 pack's manifest against the one that it must have.
pub(crate) fn check_pin(chosen: &Candidate, digest: Digest) -> Result<()> {
    match chosen.sha256.filter(|pinned| *pinned != digest) {
        None => Ok(()),
        Some(pinned) => {
            let message = format!(
                "{}: the manifest has sha256 {digest}; expected {pinned}. (A pack of version 3 is named by its manifest: `forkd \
inspect` shows it.)",
                chosen.location
            );
            Err(Error::new(Kind::Integrity, message))
        }
    }
}
