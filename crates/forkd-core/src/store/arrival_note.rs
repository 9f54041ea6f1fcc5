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

impl Store {
    /// What is arriving, each with the folder of its download.
    pub(crate) fn arrival_notes(&self) -> Vec<(PathBuf, ArrivalNote)> {
        let entries = std::fs::read_dir(self.partial_dir()).into_iter().flatten().flatten();
        let read = |work: PathBuf| {
            let text = read_small(&work.join(NOTE), 64 << 10).ok()?;
            Some((work, serde_json::from_slice(&text).ok()?))
        };
        entries.filter_map(|entry| read(entry.path())).collect()
    }
}
