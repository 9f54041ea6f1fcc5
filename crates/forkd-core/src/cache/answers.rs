//! What servers answered before, and which copy that was: asked again, they need not send it again.

use crate::error::{Error, Kind, Result};
use crate::hub::remote::{Answer, Location, Request, Validator, read_small};
use crate::pull::context::Pulling;
use forkd_format::Digest;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::PathBuf;

/// An answer in the cache: `answers/<sha256 of the URL>.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) validator: Validator,
    /// The registry's text, or the digest that names the pack.
    pub(crate) body: String,
    /// SHA-256 of the body: a note that was damaged since is none.
    digest: Digest,
}

impl Known {
    fn path(pulling: &Pulling<'_>, location: &Location) -> Option<PathBuf> {
        let answers = pulling.options.unpack.cache.as_ref()?.answers();
        let name = Digest::of(location.url().as_str().as_bytes());
        Some(answers.join(format!("{name}.json")))
    }

    /// What is known of a URL. A note that cannot be read counts as none.
    pub(crate) fn load(pulling: &Pulling<'_>, location: &Location) -> Option<Self> {
        let path = Self::path(pulling, location)?;
        let bytes = std::fs::read(&path).ok()?;
        // What is asked for again is not swept.
        let _ = std::fs::File::open(&path).and_then(|file| file.set_modified(std::time::SystemTime::now()));
        serde_json::from_slice(&bytes).ok().filter(|known: &Self| {
            !known.validator.is_empty() && known.digest == Digest::of(known.body.as_bytes())
        })
    }

    /// Notes an answer. That it cannot be noted costs only a transfer.
    pub(crate) fn save(pulling: &Pulling<'_>, location: &Location, validator: &Validator, body: &str) {
        let Some(path) = Self::path(pulling, location).filter(|_| !validator.is_empty()) else { return };
        let known =
            Self { validator: validator.clone(), body: body.to_owned(), digest: Digest::of(body.as_bytes()) };
        let save = || -> Option<()> {
            let dir = path.parent()?;
            std::fs::create_dir_all(dir).ok()?;
            let mut temp = tempfile::Builder::new().prefix(".answer-").tempfile_in(dir).ok()?;
            temp.write_all(&serde_json::to_vec(&known).ok()?).ok()?;
            temp.persist(&path).ok()?;
            Some(())
        };
        save();
    }
}

/// Reads a small text, or takes the copy that is known where the server still has that.
pub(crate) fn get_text(pulling: &Pulling<'_>, location: &Location, limit: u64) -> Result<String> {
    let known = Known::load(pulling, location);
    let request =
        Request { unless: known.as_ref().map(|known| known.validator.clone()), ..Request::default() };
    let download = match pulling.remote.request(location, &request, pulling.env.cancel)? {
        Answer::NotModified => {
            let lost = || Error::new(Kind::General, format!("{location}: an answer to another question"));
            return known.map(|known| known.body).ok_or_else(lost);
        }
        Answer::Part(download) | Answer::Whole(download) => download,
    };
    let (name, validator) = (location.to_string(), download.validator.clone());
    let text = read_small(download, &name, limit)?;
    let text = String::from_utf8(text)
        .map_err(|_| Error::new(Kind::Integrity, format!("{name}: expected a registry; it is not UTF-8")))?;
    Known::save(pulling, location, &validator, &text);
    Ok(text)
}
