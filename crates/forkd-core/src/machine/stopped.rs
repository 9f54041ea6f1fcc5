//! Why a machine was ended from outside, told in its folder.

use crate::error::{Error, Kind};
use serde::{Deserialize, Serialize};
use std::path::Path;

const STOPPED: &str = "stopped";

#[derive(Serialize, Deserialize)]
struct StopReason {
    kind: Kind,
    message: String,
}

/// Says why.
pub(crate) fn note(run: &Path, kind: Kind, message: &str) {
    let reason = StopReason { kind, message: message.to_owned() };
    let _ = std::fs::write(run.join(STOPPED), serde_json::to_vec(&reason).unwrap_or_default());
}

/// Why a machine was ended, where that was told.
#[must_use]
pub fn why_stopped(run: &Path) -> Option<Error> {
    let bytes = crate::store::small_file::read_small(&run.join(STOPPED), 64 << 10).ok()?;
    let StopReason { kind, message } = serde_json::from_slice(&bytes).ok()?;
    Some(Error::new(kind, format!("it was stopped: {message}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn a_reason_keeps_its_kind() {
        let run = tempfile::tempdir().unwrap();
        assert!(why_stopped(run.path()).is_none());
        for kind in [Kind::NoSpace, Kind::Transient, Kind::Integrity, Kind::Unauthorised] {
            note(run.path(), kind, "the source ended");
            let told = why_stopped(run.path()).unwrap();
            assert_eq!((told.kind(), told.to_string().as_str()), (kind, "it was stopped: the source ended"));
        }
    }
}
