//! Hubs by the names that users give them.

use forkd_app::HubPlace;
use forkd_core::{Error, Kind, Result};
use std::path::Path;

/// The registry that short names are looked up in where nothing else is said.
pub(crate) const DEFAULT_HUB: &str = "https://raw.githubusercontent.com/deeplethe/forkd/main/registry.json";

/// A hub that is named somewhere. What is no URL is a path, of something that is there.
pub(crate) fn hub_place(name: &str, from: &str) -> Result<HubPlace> {
    let within = |error: Error| error.within(format!("{from} ('{}')", shown_hub(name)));
    let is_path = !name.contains("://") && !name.starts_with("file:") && !name.starts_with("oci-layout:");
    if is_path && !Path::new(name).is_absolute() && !Path::new(name).exists() {
        let message = "it is neither a URL nor the path of a folder or a registry.json that is there";
        return Err(within(Error::new(Kind::Usage, message)));
    }
    HubPlace::parse(name).map_err(within)
}

/// A hub's name without what may be a secret.
fn shown_hub(name: &str) -> String {
    let name = name.split(['?', '#']).next().unwrap_or_default();
    match (name.find("://"), name.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}…{}", &name[..scheme + 3], &name[at..]),
        _ => name.to_owned(),
    }
}

/// Hubs with blanks between, or commas where another hub begins behind.
pub(crate) fn hub_names(text: &str) -> Vec<String> {
    // A path may have blanks in it.
    if Path::new(text).exists() {
        return vec![text.to_owned()];
    }
    let mut names: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let mut begins = true;
        for piece in word.split(',') {
            let is_hub = piece.contains("://") || piece.starts_with(['/', '.']) || piece.starts_with("file:");
            match names.last_mut() {
                Some(last) if !begins && !is_hub => *last += &format!(",{piece}"),
                _ => names.push(piece.to_owned()),
            }
            begins = false;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}
