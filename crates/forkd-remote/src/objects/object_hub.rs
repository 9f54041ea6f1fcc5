//! All packages of an object hub.

use super::entry::{RELEASES, parse_tag_key};
use super::port::Objects;
use forkd_core::{Cancel, Result};
use std::collections::BTreeSet;

/// The packages of a hub, sorted.
///
/// # Errors
/// Where it cannot be listed.
pub fn packages(objects: &dyn Objects, cancel: &Cancel) -> Result<Vec<String>> {
    let listed = objects.list(RELEASES, cancel)?;
    let names: BTreeSet<String> =
        listed.iter().filter_map(|object| parse_tag_key(&object.key)).map(|(package, _)| package).collect();
    Ok(names.into_iter().collect())
}
