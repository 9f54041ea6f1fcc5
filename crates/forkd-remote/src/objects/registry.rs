//! `registry.json` of a hub of objects: made from what publishers said, each under a key of its own, so that nobody's word is lost on
//! stores that know no conditional writes (`docs/format/registry.md`, hubs of objects).

use super::entry::{PACKAGES, REGISTRY, RELEASES, parse, parse_note_key, parse_tag_key};
use super::port::Objects;
use forkd_core::hub::{Location, RegistrySource};
use forkd_core::{Cancel, Error, Kind, Result};
use forkd_format::registry::{MAX_REGISTRY, ReleaseEntry, VersionNote};
use forkd_format::registry_text::RegistryText;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Entries are no longer.
pub(crate) const MAX_ENTRY: u64 = 64 << 10;
/// What is said of a version is no longer.
const MAX_NOTE: u64 = 1 << 20;
/// How often the registry is made again where others publish at the same time.
const ROUNDS: usize = 20;
/// Between what somebody read of a registry and what they write there is no more time than this.
const OVERLAP: Duration = Duration::from_secs(60 * 60);

/// The registry as it is, and when it was written; an empty one where there is none.
pub(crate) fn read_registry(
    objects: &dyn Objects,
    cancel: &Cancel,
) -> Result<(RegistryText, Option<SystemTime>)> {
    let written = objects.head(REGISTRY, cancel)?.map(|found| found.modified);
    let text = match objects.read(REGISTRY, MAX_REGISTRY, cancel)? {
        Some(bytes) => {
            RegistryText::parse(&bytes).map_err(Error::malformed(format!("{}/{REGISTRY}", objects.name())))?
        }
        None => return Ok((RegistryText::default(), None)),
    };
    Ok((text, written))
}

/// The registry of a hub of objects, for those who pull.
pub struct ObjectRegistry {
    objects: Arc<dyn Objects>,
}

impl ObjectRegistry {
    /// A hub's; nothing is asked yet.
    #[must_use]
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }
}

impl RegistrySource for ObjectRegistry {
    fn name(&self) -> String {
        format!("{}/{REGISTRY}", self.objects.name())
    }

    fn text(&self, cancel: &Cancel) -> Result<String> {
        let bytes = self.objects.read(REGISTRY, MAX_REGISTRY, cancel)?;
        let missing = || Error::new(Kind::NotFound, format!("there is no {}", self.name()));
        String::from_utf8(bytes.ok_or_else(missing)?)
            .map_err(|_| Error::new(Kind::Integrity, format!("{}: it is not UTF-8", self.name())))
    }

    fn locate(&self, url: &str) -> Result<Location> {
        // What is not beside the registry stands for itself.
        if url.contains("://") || url.starts_with("file:") || url.split('/').any(|part| part == "..") {
            return Location::parse(url);
        }
        let path = url.split('#').next().unwrap_or_default();
        self.objects.location(path.trim_start_matches("./"))
    }

    fn is_local(&self) -> bool {
        false
    }
}

/// Makes the registry say what was said. Whoever writes it looks again afterwards, so that of several who do it at the same time the last
/// one puts right what it has overwritten; no condition on writing is relied on, which some stores pass over. Where the store has
/// locks nothing is overwritten.
pub(crate) fn update_registry(objects: &dyn Objects, cancel: &Cancel) -> Result<()> {
    let _lock = objects.lock(cancel)?;
    update_locked(objects, cancel)
}

/// The same for whoever has the lock.
pub(crate) fn update_locked(objects: &dyn Objects, cancel: &Cancel) -> Result<()> {
    for _ in 0..ROUNDS {
        let (before, written) = read_registry(objects, cancel)?;
        let mut text = before.clone();
        // Of both kinds: what somebody who said the other one has written may be overwritten too.
        apply_fresh(&mut text, objects, written, cancel)?;
        text.set_releases(&all_entries(objects, cancel)?);
        if written.is_some() && text == before {
            return Ok(());
        }
        objects.put(REGISTRY, text.to_string().as_bytes(), cancel)?;
    }
    let message = format!("{}: others have been changing the registry all the time", objects.name());
    Err(Error::new(Kind::Transient, message).hint("run it again: what was said is kept"))
}

/// All tags of a hub, by package and name, and what they stand for. What cannot be read is passed over.
pub(crate) fn all_entries(
    objects: &dyn Objects,
    cancel: &Cancel,
) -> Result<Vec<(String, String, ReleaseEntry)>> {
    let mut entries = Vec::new();
    for object in objects.list(RELEASES, cancel)? {
        let Some((package, tag)) = parse_tag_key(&object.key) else { continue };
        let Some(bytes) = objects.read(&object.key, MAX_ENTRY, cancel)? else { continue };
        entries.extend(parse(&bytes).map(|entry| (package, tag, entry)));
    }
    Ok(entries)
}

/// Makes a registry say what was said of versions that it may not know, the oldest first. What is older than the registry is in it, or was
/// changed by hand since.
pub(crate) fn apply_fresh(
    text: &mut RegistryText,
    objects: &dyn Objects,
    written: Option<SystemTime>,
    cancel: &Cancel,
) -> Result<()> {
    let is_fresh = |modified: SystemTime| {
        written.is_none_or(|written| {
            modified > written || written.duration_since(modified).is_ok_and(|age| age < OVERLAP)
        })
    };
    let mut listed = objects.list(PACKAGES, cancel)?;
    listed.retain(|object| is_fresh(object.modified));
    listed.sort_by_key(|object| object.modified);
    for object in listed {
        let Some((package, version)) = parse_note_key(&object.key) else { continue };
        let Some(bytes) = objects.read(&object.key, MAX_NOTE, cancel)? else { continue };
        if let Ok(note) = serde_json::from_slice::<VersionNote>(&bytes) {
            text.apply(&package, &version, &note);
        }
    }
    Ok(())
}
