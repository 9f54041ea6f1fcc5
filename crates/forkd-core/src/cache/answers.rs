//! What servers answered before, and which copy that was: asked again, they need not send it again.

use crate::cache::folder::Cache;
use crate::hub::remote::{Location, Validator};
use forkd_format::Digest;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The answers in a cache; without one nothing is known and nothing is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnswerCache<'a>(pub(crate) Option<&'a Cache>);

/// An answer: `answers/<sha256 of the URL>.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CachedAnswer {
    pub(crate) validator: Validator,
    /// What names the pack.
    pub(crate) body: String,
    /// SHA-256 of the body: a note that was damaged since is none.
    digest: Digest,
}

impl AnswerCache<'_> {
    fn path(&self, location: &Location) -> Option<PathBuf> {
        Some(self.0?.answers().join(format!("{}.json", location.digest())))
    }

    /// What is known of a URL. A note that cannot be read counts as none.
    pub(crate) fn load(&self, location: &Location) -> Option<CachedAnswer> {
        let path = self.path(location)?;
        let bytes = std::fs::read(&path).ok()?;
        // What is asked for again is not swept.
        let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        serde_json::from_slice(&bytes).ok().filter(|answer: &CachedAnswer| {
            !answer.validator.is_empty() && answer.digest == Digest::of(answer.body.as_bytes())
        })
    }

    /// Notes an answer. That it cannot be noted costs only a transfer.
    pub(crate) fn save(&self, location: &Location, validator: &Validator, body: &str) {
        let Some(path) = self.path(location).filter(|_| !validator.is_empty()) else { return };
        let digest = Digest::of(body.as_bytes());
        let answer = CachedAnswer { validator: validator.clone(), body: body.to_owned(), digest };
        let _ = serde_json::to_vec(&answer).ok().and_then(|bytes| put(&path, &bytes));
    }
}

/// Writes a file that only its owner reads, whole or not at all.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> Option<()> {
    let dir = path.parent()?;
    forkd_sys::create_private_dirs(dir).ok()?;
    let mut temp = tempfile::Builder::new().prefix(".answer-").tempfile_in(dir).ok()?;
    temp.write_all(bytes).ok()?;
    temp.persist(path).ok().map(drop)
}
