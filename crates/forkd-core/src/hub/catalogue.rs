//! The port to a hub's list of packs, and to the packs behind it, for those who publish.

use crate::env::{Cancel, Progress};
use crate::error::Result;
use forkd_format::registry::VersionNote;
use forkd_format::registry_text::RegistryText;
use std::path::Path;

/// What becomes of a version.
#[derive(Debug, Clone)]
pub struct VersionChange {
    /// `owner/name`.
    pub package: String,
    pub version: String,
    pub note: VersionNote,
}

/// A hub of packs that can be written. All errors are those of its transport.
pub trait Catalogue: Send + Sync {
    /// How messages name it; never with a secret.
    fn name(&self) -> String;

    /// The registry as it is now; an empty one where there is none.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] where it is malformed.
    fn registry(&self, cancel: &Cancel) -> Result<RegistryText>;

    /// What the registry says of where a file lies.
    fn url(&self, file_name: &str) -> String;

    /// Says that somebody publishes, so that nothing is collected from now on until the versions are changed.
    ///
    /// # Errors
    /// [`crate::Kind::Locked`] where somebody collects, and does not end.
    fn announce(&self, cancel: &Cancel) -> Result<()>;

    /// Whether a file of that size is there.
    ///
    /// # Errors
    /// Where that cannot be asked.
    fn has_file(&self, file_name: &str, size: u64, cancel: &Cancel) -> Result<bool>;

    /// Puts a file; it is there whole, or not at all.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn put_file(&self, file_name: &str, file: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<()>;

    /// Announces itself, and changes versions as `decide` says, which is shown the registry as it is then. Other people's changes at the same time are kept; what the
    /// versions name is there before. Where the hub has locks nobody changes the registry between the look and the change.
    ///
    /// # Errors
    /// Those of `decide`, and of the transport.
    fn change(&self, decide: &Decision<'_>, cancel: &Cancel) -> Result<()>;
}

/// What becomes of versions, by the registry as it is.
pub type Decision<'d> = dyn Fn(&RegistryText) -> Result<Vec<VersionChange>> + 'd;
