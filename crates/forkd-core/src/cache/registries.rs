//! Registries that servers sent before: of one that has not changed, only what is asked for is read.
//! `answers/<sha256 of the URL>.registry` is the text, `….parts.json` says which copy it is and where in it the packages stand.

use crate::cache::answers::put;
use crate::cache::folder::Cache;
use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::hub::remote::{Answer, Location, Remote, Request, Validator, read_small};
use forkd_format::registry::{MAX_REGISTRY, RegistryParts};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::SystemTime;
use xxhash_rust::xxh3::xxh3_64;

/// The registries in a cache; without one nothing is known and nothing is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RegistryCache<'a>(pub(crate) Option<&'a Cache>);

/// Which copy is here, and where its packages stand.
#[derive(Serialize, Deserialize)]
struct Note {
    validator: Validator,
    /// Bytes of the text.
    len: u64,
    /// XXH3-64 of each of the packages' and releases' texts, in their order: a text that was damaged since, or is of another copy, is none.
    sums: Vec<u64>,
    /// XXH3-64 of the whole text.
    sum: u64,
    parts: RegistryParts,
}

/// Which packages are wanted, of their names and descriptions.
pub(crate) type Wanted<'w> = dyn Fn(&str, Option<&str>) -> bool + 'w;

/// A registry that is here.
struct KnownRegistry {
    note: Note,
    file: File,
}

impl RegistryCache<'_> {
    /// Where the text of a URL lies, and what is noted of it.
    fn paths(&self, location: &Location) -> Option<(PathBuf, PathBuf)> {
        let (dir, name) = (self.0?.answers(), location.digest());
        Some((dir.join(format!("{name}.registry")), dir.join(format!("{name}.parts.json"))))
    }

    fn load(&self, location: &Location) -> Option<KnownRegistry> {
        let (text, note_path) = self.paths(location)?;
        let note: Note = serde_json::from_slice(&std::fs::read(&note_path).ok()?).ok()?;
        let file = File::open(&text).ok()?;
        let whole = !note.validator.is_empty()
            && file.metadata().is_ok_and(|found| found.len() == note.len)
            && note.sums.len() == note.parts.packages.len() + note.parts.releases.len();
        // What is asked for again is not swept.
        for path in [&text, &note_path] {
            let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
        }
        whole.then_some(KnownRegistry { note, file })
    }

    /// Keeps a registry. That it cannot be kept costs only a transfer.
    fn save(&self, location: &Location, validator: &Validator, text: &str) {
        let Some((text_path, note_path)) = self.paths(location).filter(|_| !validator.is_empty()) else {
            return;
        };
        let save = || -> Option<()> {
            let parts = RegistryParts::of(text).ok()?;
            let of = |bytes: &Range<u64>| xxh3_64(&text.as_bytes()[bytes.start as usize..bytes.end as usize]);
            let sums = parts.packages.iter().chain(&parts.releases).map(|part| of(&part.bytes)).collect();
            let (len, sum) = (text.len() as u64, xxh3_64(text.as_bytes()));
            let note = Note { validator: validator.clone(), len, sums, sum, parts };
            put(&text_path, text.as_bytes())?;
            put(&note_path, &serde_json::to_vec(&note).ok()?)
        };
        save();
    }

    /// A registry of the packages that are wanted, of all where none are named; or more than these, where the server has another copy than
    /// is known.
    pub(crate) fn get(
        &self,
        remote: &dyn Remote,
        location: &Location,
        wanted: Option<&Wanted<'_>>,
        cancel: &Cancel,
    ) -> Result<String> {
        let known = self.load(location);
        if let Some(known) =
            known.as_ref().filter(|_| remote.is_offline() && location.url().scheme() != "file")
            && let Some(text) = known.read(wanted)
        {
            return Ok(text);
        }
        let unless = known.as_ref().map(|known| known.note.validator.clone());
        let request = Request { unless, is_small: true, ..Request::default() };
        let mut answer = remote.request(location, &request, cancel)?;
        if let (Answer::NotModified, Some(known)) = (&answer, &known) {
            if let Some(text) = known.read(wanted) {
                return Ok(text);
            }
            answer = remote.request(location, &Request { unless: None, ..request }, cancel)?;
        }
        let download = match answer {
            Answer::NotModified => {
                return Err(Error::new(Kind::General, format!("{location}: an answer to another question")));
            }
            Answer::Part(download) | Answer::Whole(download) => download,
        };
        let (name, validator) = (location.to_string(), download.validator.clone());
        let text = String::from_utf8(read_small(download, &name, MAX_REGISTRY)?).map_err(|_| {
            Error::new(Kind::Integrity, format!("{name}: expected a registry; it is not UTF-8"))
        })?;
        self.save(location, &validator, &text);
        Ok(text)
    }
}

impl KnownRegistry {
    /// What is wanted of it; `None` where its bytes are not what they were.
    fn read(&self, wanted: Option<&Wanted<'_>>) -> Option<String> {
        let Note { len, sums, sum, parts, .. } = &self.note;
        let Some(wanted) = wanted else {
            let text = self.bytes(&(0..*len))?;
            return (xxh3_64(text.as_bytes()) == *sum).then_some(text);
        };
        let read = |number: usize, bytes: &Range<u64>| {
            let text = self.bytes(bytes).ok_or(())?;
            if sums.get(number) == Some(&xxh3_64(text.as_bytes())) { Ok(text) } else { Err(()) }
        };
        parts.registry(wanted, read).ok()
    }

    fn bytes(&self, range: &Range<u64>) -> Option<String> {
        let len = range.end.checked_sub(range.start).filter(|_| range.end <= self.note.len)?;
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        self.file.read_exact_at(&mut bytes, range.start).ok()?;
        String::from_utf8(bytes).ok()
    }
}
