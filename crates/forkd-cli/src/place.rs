//! What a command line may name: something on this host, or something on a hub.

use crate::config;
use crate::output::printable;
use forkd_app::{PullSource, ReleasePlace};
use forkd_core::hub::Location;
use forkd_core::{Error, Kind, Result, Store};
use forkd_format::{FormatError, Reference, Tag};
use std::path::Path;

/// Something that lies on this host.
pub(crate) enum LocalPlace<'a> {
    Tag(Tag),
    File(&'a Path),
}

/// A tag in the store, else a file.
pub(crate) fn local<'a>(what: &'a str, store: &Store) -> Option<LocalPlace<'a>> {
    let tag = what.parse::<Tag>().ok().filter(|tag| store.contains(tag));
    tag.map(LocalPlace::Tag).or_else(|| Path::new(what).is_file().then(|| LocalPlace::File(Path::new(what))))
}

/// What to say of a name that is neither.
pub(crate) fn nowhere(what: &str) -> Error {
    if what.contains("://") || what.starts_with("file:") {
        // Not repeated: its query may be a secret.
        return Error::new(Kind::Usage, "a URL is not looked into from here")
            .hint("`forkd pull` it, or download it and name the file");
    }
    let what = printable(what);
    Error::new(Kind::NotFound, format!("'{what}' is neither a snapshot in the store nor a file"))
        .hint("see `forkd images`")
}

/// A URL, a release in a repository, or a name in a registry.
pub(crate) fn source(source: &str, hub: Option<&str>) -> Result<PullSource> {
    if let Some(place) = ReleasePlace::parse(source)? {
        return Ok(PullSource::Release(place));
    }
    if source.contains("://") || source.starts_with("file:") {
        return Location::parse(source).map(PullSource::Url);
    }
    let hint = if std::path::Path::new(source).is_file() {
        "; a file on this host is for `forkd unpack`"
    } else {
        ""
    };
    let wrong = |e: FormatError| Error::new(Kind::Usage, format!("{e}{hint}"));
    let reference: Reference = source.parse().map_err(wrong)?;
    Ok(PullSource::Name(reference, config::hubs(hub)?))
}
