//! The port to places of releases: repositories of a registry, or what a bucket or a folder holds under one name.

use crate::env::{Cancel, Progress};
use crate::error::{Error, Kind, Result};
use crate::hub::remote::Location;
use forkd_format::Digest;
use forkd_format::release::Descriptor;
use std::fmt;
use std::path::Path;

/// What names a manifest in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestName {
    Tag(String),
    /// SHA-256 of its bytes.
    Digest(Digest),
}

impl fmt::Display for ManifestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "sha256:{digest}"),
        }
    }
}

/// A file that becomes a blob.
#[derive(Debug, Clone, Copy)]
pub struct BlobFile<'a> {
    pub blob: &'a Descriptor,
    pub path: &'a Path,
}

/// Releases of one package. All errors are those of its transport: [`Kind::NotFound`], [`Kind::Unauthorised`], [`Kind::Transient`],
/// [`Kind::NoSpace`] or [`Kind::General`].
pub trait Repository: Send + Sync {
    /// How messages name it; never with a secret.
    fn name(&self) -> String;

    /// Where a blob can be read, by ranges too.
    ///
    /// # Errors
    /// [`Kind::Usage`] where it cannot be written as a URL.
    fn blob_location(&self, digest: &Digest) -> Result<Location>;

    /// The manifest under a name. One that is asked for by its digest has that.
    ///
    /// # Errors
    /// [`Kind::NotFound`] with what is there instead, where that is known.
    fn manifest(&self, name: &ManifestName, cancel: &Cancel) -> Result<Vec<u8>>;

    /// All tags, sorted.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where there is no such repository.
    fn tags(&self, cancel: &Cancel) -> Result<Vec<String>>;

    /// Whether a blob is there.
    ///
    /// # Errors
    /// Where that cannot be asked.
    fn has_blob(&self, blob: &Descriptor, cancel: &Cancel) -> Result<bool>;

    /// Has a blob taken over from another place, by that one's name, where that can be done without sending it.
    ///
    /// # Errors
    /// Where that cannot be asked; a refusal is none.
    fn mount_blob(&self, blob: &Descriptor, from: &str, cancel: &Cancel) -> Result<bool> {
        let _ = (blob, from, cancel);
        Ok(false)
    }

    /// Sends a blob. It is there whole, or not at all.
    ///
    /// # Errors
    /// [`Kind::Integrity`] where the file is not what the digest says.
    fn put_blob(&self, file: BlobFile<'_>, progress: &dyn Progress, cancel: &Cancel) -> Result<()>;

    /// Puts a manifest, under a tag in the place of another one, or by its digest only; all that it names is there.
    ///
    /// # Errors
    /// Where a blob is missing.
    fn put_manifest(&self, name: &ManifestName, manifest: &[u8], cancel: &Cancel) -> Result<()>;

    /// Takes a tag away. Blobs stay until the repository is collected.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::General`] where it does not allow that.
    fn delete(&self, tag: &str, cancel: &Cancel) -> Result<()>;
}

/// Holds the bytes of a manifest against the digest that they were asked for by.
///
/// # Errors
/// [`Kind::Integrity`].
pub fn check_manifest(bytes: &[u8], name: &ManifestName, of: &str) -> Result<()> {
    let found = Digest::of(bytes);
    match name {
        ManifestName::Digest(digest) if *digest != found => {
            let message = format!("{of}: the manifest that came has sha256 {found}; expected {digest}");
            Err(Error::new(Kind::Integrity, message))
        }
        _ => Ok(()),
    }
}
