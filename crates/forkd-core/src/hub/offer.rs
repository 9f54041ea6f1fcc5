//! What a hub offers: packs that may be taken, and what it says of them.

use crate::error::{Error, Kind, Result};
use crate::hub::remote::Location;
use crate::pack::computed_id::ComputedId;
use forkd_format::manifest::Base;
use forkd_format::release::ReleaseManifest;
use forkd_format::{Digest, PackFormat, PackId, Snapshot};
use std::sync::Arc;

/// What is said of a pack's name before a byte of it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    Nothing,
    /// A digest in a URL. Of what it is, the whole file or the manifest, shows the format of the pack that comes.
    Pin(Digest),
    /// The name, and with it the kind of pack.
    Id(PackId),
}

/// A pack that may be taken.
#[derive(Debug, Clone)]
pub struct Offer {
    pub location: Location,
    /// What names it.
    pub claim: Claim,
    /// Its size in bytes, where that is declared.
    pub size: Option<u64>,
    /// Bytes before the first frame of a paged pack, where that is declared.
    pub header_bytes: Option<u64>,
    /// Files that it refers to and does not hold.
    pub bases: Vec<Base>,
    /// Where it is no pack but a release.
    pub release: Option<Arc<ReleaseOffer>>,
    /// Where there are variants: which engine and processor it is for.
    pub variant: Option<String>,
    /// What its snapshot runs under, where that is told.
    pub needs: Option<Arc<Snapshot>>,
    /// Why it was chosen, where that was before its cost is known.
    pub choice: Option<String>,
}

/// A release whose manifest was read.
#[derive(Debug)]
pub struct ReleaseOffer {
    /// What names it.
    pub id: ComputedId,
    /// The repository that it is in.
    pub repository: String,
    pub manifest: ReleaseManifest,
    /// Where its configuration lies.
    pub config: Location,
    /// Where its index lies.
    pub index: Location,
    /// Where its blobs lie, by their digests, ascending.
    pub blobs: Vec<(Digest, Location)>,
}

impl Offer {
    /// A pack of which only its URL is known, and what that pins.
    ///
    /// # Errors
    /// [`Kind::Usage`] where the URL's fragment is no digest.
    pub fn at(location: &Location) -> Result<Self> {
        let claim = location.pinned_digest()?.map_or(Claim::Nothing, Claim::Pin);
        Ok(Self {
            location: location.clone(),
            claim,
            size: None,
            header_bytes: None,
            bases: Vec::new(),
            release: None,
            variant: None,
            needs: None,
            choice: None,
        })
    }

    /// Holds what was computed of the pack that came against what was claimed; gives it back where something was.
    ///
    /// # Errors
    /// [`Kind::Integrity`] where another pack came than the one that was offered.
    pub(crate) fn check(&self, found: ComputedId) -> Result<Option<ComputedId>> {
        let held = match self.claim {
            Claim::Nothing => return Ok(None),
            Claim::Pin(digest) => digest == found.id().digest(),
            Claim::Id(id) => id == found.id(),
        };
        if held {
            return Ok(Some(found));
        }
        let (location, expected) = (&self.location, self.claim.digest().unwrap_or(found.id().digest()));
        let message = match found.id() {
            PackId::File(digest) => {
                format!("{location}: sha256 is {digest}; expected {expected}. Nothing was unpacked")
            }
            PackId::Release(digest) => {
                format!("{location}: the release's manifest has sha256 {digest}; expected {expected}")
            }
            PackId::Manifest(digest) => format!(
                "{location}: the manifest has sha256 {digest}; expected {expected}. (A pack of version 3 is named by its manifest: \
`forkd inspect` shows it.)"
            ),
        };
        Err(Error::new(Kind::Integrity, message))
    }

    /// Holds the size that a server offers against the one that is declared.
    ///
    /// # Errors
    /// [`Kind::Integrity`] where they differ.
    pub(crate) fn check_size(&self, offered: Option<u64>) -> Result<()> {
        match (self.size, offered) {
            (Some(declared), Some(offered)) if declared != offered => {
                let message = format!(
                    "{}: the server offers {offered} bytes; the registry declares {declared}",
                    self.location
                );
                Err(Error::new(Kind::Integrity, message))
            }
            _ => Ok(()),
        }
    }

    /// Holds the format of the pack that came against the one that was offered, before anything else of it is looked at.
    ///
    /// # Errors
    /// [`Kind::Integrity`] where a stream came for a paged pack: what names that says nothing about a stream.
    pub(crate) fn check_format(&self, found: PackFormat) -> Result<()> {
        match self.claim {
            Claim::Id(PackId::Manifest(digest)) if !found.is_paged() => {
                let message = format!(
                    "{}: a pack of format {found} came; the hub offers format 3, whose manifest has sha256 {digest}. Nothing was \
unpacked",
                    self.location
                );
                Err(Error::new(Kind::Integrity, message))
            }
            _ => Ok(()),
        }
    }
}

impl Claim {
    /// The digest that is claimed, whatever it is of.
    #[must_use]
    pub fn digest(self) -> Option<Digest> {
        match self {
            Self::Nothing => None,
            Self::Pin(digest) => Some(digest),
            Self::Id(id) => Some(id.digest()),
        }
    }

    /// What the SHA-256 of the whole file must be, where the pack turns out to be a stream.
    pub(crate) fn file(self) -> Option<Digest> {
        match self {
            Self::Pin(digest) | Self::Id(PackId::File(digest)) => Some(digest),
            Self::Nothing | Self::Id(PackId::Manifest(_) | PackId::Release(_)) => None,
        }
    }

    /// The names that the pack may have.
    pub(crate) fn ids(self) -> Vec<PackId> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Pin(digest) => vec![PackId::File(digest), PackId::Manifest(digest)],
            Self::Id(id) => vec![id],
        }
    }

    /// Whether a stream or a paged pack is offered, where that is known.
    pub(crate) fn is_paged(self) -> Option<bool> {
        match self {
            Self::Id(id) => Some(!matches!(id, PackId::File(_))),
            Self::Nothing | Self::Pin(_) => None,
        }
    }
}
