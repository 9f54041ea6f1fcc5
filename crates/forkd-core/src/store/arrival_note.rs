//! What lies in a download's folder as long as its snapshot is arriving.

use crate::error::{Error, Result};
use crate::store::root::Store;
use crate::store::small_file::read_small;
use forkd_format::Tag;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const NOTE: &str = "arriving.json";

/// A snapshot that is arriving.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ArrivalNote {
    pub(crate) tag: Tag,
    /// What was asked for, without secrets.
    pub(crate) name: String,
    /// Bytes of the pack.
    pub(crate) total: u64,
    /// Frames of the pack.
    pub(crate) frames: u64,
    /// Why whoever fetched it gave up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stopped: Option<String>,
}

impl ArrivalNote {
    /// Leaves it in a download's folder.
    pub(crate) fn write(&self, store: &Store, work: &Path) -> Result<()> {
        let (new, path) = (work.join("arriving.new"), work.join(NOTE));
        let text = serde_json::to_vec(self).unwrap_or_default();
        std::fs::write(&new, text).map_err(Error::io("write", &new))?;
        store.disk().replace(&new, &path).map_err(Error::io("create", &path))
    }
}

/// Notes why nothing more comes.
pub(crate) fn note_stopped(store: &Store, work: &Path, why: String) -> Result<()> {
    read_note(work).map_or(Ok(()), |note| ArrivalNote { stopped: Some(why), ..note }.write(store, work))
}

fn read_note(work: &Path) -> Option<ArrivalNote> {
    serde_json::from_slice(&read_small(&work.join(NOTE), 64 << 10).ok()?).ok()
}

impl Store {
    /// What is arriving, each with the folder of its download.
    pub(crate) fn arrival_notes(&self) -> Vec<(PathBuf, ArrivalNote)> {
        let entries = std::fs::read_dir(self.partial_dir()).into_iter().flatten().flatten();
        let works = entries.map(|entry| entry.path());
        works.filter_map(|work| read_note(&work).map(|note| (work, note))).collect()
    }
}
