//! The port to hubs.

use crate::env::Cancel;
use crate::error::Result;
use crate::hub::offer::Offer;
use forkd_format::Reference;
use forkd_format::registry::PackageSummary;

/// A place where snapshots are published under names. All errors are those of its transport, and [`crate::Kind::Integrity`] where what it says
/// is malformed.
pub trait Hub: Send + Sync {
    /// How messages name it; never with a secret.
    fn name(&self) -> String;

    /// The packs that a name stands for, the one that every host reads first. Never empty.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] with what is there instead; [`crate::Kind::Integrity`] where none has the digest that the reference pins.
    fn offers(&self, reference: &Reference, cancel: &Cancel) -> Result<Vec<Offer>>;

    /// All packages, sorted by name.
    ///
    /// # Errors
    /// Where the hub cannot be read.
    fn list(&self, cancel: &Cancel) -> Result<Vec<PackageSummary>>;
}
