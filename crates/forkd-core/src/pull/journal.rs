//! Which frames of an unfinished pull are in their places, across runs.

use crate::error::{Error, Result};
use crate::pull::context::JOURNAL;
use crate::store::workdir::WorkDir;
use forkd_sys::DiskIo;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;

/// The frames that have landed: their places in the pack, four bytes each, as they came.
pub(crate) struct FrameJournal {
    path: PathBuf,
    file: File,
    end: Mutex<u64>,
    frames: usize,
    disk: DiskIo,
}

impl FrameJournal {
    pub(crate) fn open(download: &WorkDir, frames: usize, disk: &DiskIo) -> Result<Self> {
        let (path, file) = download.file(JOURNAL)?;
        let len = file.metadata().map_err(Error::io("read", &path))?.len();
        Ok(Self { path, file, end: Mutex::new(len - len % 4), frames, disk: disk.clone() })
    }

    /// What earlier runs noted, each frame once.
    pub(crate) fn noted(&self) -> Result<Vec<usize>> {
        let end = self.end.lock().map_or(0, |end| *end).min(4 * 4 * self.frames as u64);
        let mut bytes = vec![0; end as usize];
        self.file.read_exact_at(&mut bytes, 0).map_err(Error::io("read", &self.path))?;
        let ids = bytes.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]) as usize);
        let mut ids: Vec<usize> = ids.filter(|id| *id < self.frames).collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// What lies here now is of no use to anyone.
    pub(crate) fn end(&self) -> Result<()> {
        self.disk.set_len(&self.file, &self.path, 0).map_err(Error::io("write", &self.path))
    }

    pub(crate) fn note(&self, id: usize) -> Result<()> {
        let Ok(mut end) = self.end.lock() else { return Ok(()) };
        self.disk
            .write_at(&self.file, &self.path, &(id as u32).to_le_bytes(), *end)
            .map_err(Error::io("write", &self.path))?;
        *end += 4;
        Ok(())
    }
}
