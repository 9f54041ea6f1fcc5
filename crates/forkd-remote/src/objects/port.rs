//! The port to objects under keys.

use forkd_core::hub::Location;
use forkd_core::{Cancel, Progress, Result};
use std::path::Path;
use std::time::SystemTime;

/// An object that is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// When it was last written, by the store's clock.
    pub modified: SystemTime,
}

/// A place of objects. Writes are whole or not at all; what was written is read and listed by everybody from then on.
pub trait Objects: Send + Sync {
    /// How messages name it; never with a secret.
    fn name(&self) -> String;

    /// Where an object can be read, by ranges too.
    ///
    /// # Errors
    /// Where that cannot be said.
    fn location(&self, key: &str) -> Result<Location>;

    /// A small object; `None` where there is none.
    ///
    /// # Errors
    /// [`forkd_core::Kind::Integrity`] where it is longer than `limit`.
    fn read(&self, key: &str, limit: u64, cancel: &Cancel) -> Result<Option<Vec<u8>>>;

    /// What is there under a key.
    ///
    /// # Errors
    /// Where that cannot be asked.
    fn head(&self, key: &str, cancel: &Cancel) -> Result<Option<ObjectInfo>>;

    /// Puts a small object, in the place of another one.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn put(&self, key: &str, bytes: &[u8], cancel: &Cancel) -> Result<()>;

    /// Puts a file.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn put_file(&self, key: &str, path: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<()>;

    /// All objects whose keys begin so, sorted by key.
    ///
    /// # Errors
    /// Where they cannot be listed.
    fn list(&self, prefix: &str, cancel: &Cancel) -> Result<Vec<ObjectInfo>>;

    /// Keeps others from changing the registry until it is dropped; `None` where the store knows no such thing.
    ///
    /// # Errors
    /// Where it is held for too long.
    fn lock(&self, cancel: &Cancel) -> Result<Option<std::fs::File>> {
        let _ = cancel;
        Ok(None)
    }

    /// Deletes an object, if it is there.
    ///
    /// # Errors
    /// Where it cannot be deleted.
    fn delete(&self, key: &str, cancel: &Cancel) -> Result<()>;
}
