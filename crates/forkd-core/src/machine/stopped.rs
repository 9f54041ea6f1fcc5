//! Why a machine was ended from outside, told in its folder.

use crate::error::{Error, Kind};
use serde::{Deserialize, Serialize};
use std::path::Path;

const STOPPED: &str = "stopped";

#[derive(Serialize, Deserialize)]
struct Stopped {
    transient: bool,
    message: String,
}

/// Says why.
pub(crate) fn note(run: &Path, kind: Kind, message: &str) {
    let stopped = Stopped { transient: kind != Kind::Integrity, message: message.to_owned() };
    let _ = std::fs::write(run.join(STOPPED), serde_json::to_vec(&stopped).unwrap_or_default());
}

/// Why a machine was ended, where that was told.
#[must_use]
pub fn why_stopped(run: &Path) -> Option<Error> {
    let bytes = crate::store::small_file::read_small(&run.join(STOPPED), 64 << 10).ok()?;
    let Stopped { transient, message } = serde_json::from_slice(&bytes).ok()?;
    Some(Error::new(
        if transient { Kind::Transient } else { Kind::Integrity },
        format!("it was stopped: {message}"),
    ))
}
