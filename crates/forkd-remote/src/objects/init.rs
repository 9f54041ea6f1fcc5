//! A hub that is new.

use super::entry::REGISTRY;
use super::port::Objects;
use super::registry::read_registry;
use forkd_core::{Cancel, Result};
use forkd_format::registry_text::RegistryText;

/// Puts an empty registry where there is none; false where there is one.
///
/// # Errors
/// Where it cannot be written; [`forkd_core::Kind::Integrity`] where what is there is no registry.
pub fn init(objects: &dyn Objects, cancel: &Cancel) -> Result<bool> {
    let _lock = objects.lock(cancel)?;
    let (_, written) = read_registry(objects, cancel)?;
    if written.is_none() {
        objects.put(REGISTRY, RegistryText::default().to_string().as_bytes(), cancel)?;
    }
    Ok(written.is_none())
}
