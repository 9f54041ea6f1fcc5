//! The store of one user: its folders, its tags, its chains.

use crate::error::{Error, Kind, Result};
use crate::store::record::Record;
use crate::store::stored::{StoredSnapshot, describe, parent_of};
use forkd_format::Tag;
use forkd_format::manifest::SNAPSHOT_JSON;
use forkd_sys::{DiskIo, SHARED_DIR};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The store of one user.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    disk: DiskIo,
    lock_timeout: Duration,
    holder: String,
}

/// How many letters one tag is away from another that it may be misspelt: a part of it, or one letter or two away.
fn likeness(one: &Tag, other: &Tag) -> Option<usize> {
    let (one, other) = (one.as_str(), other.as_str());
    // Levenshtein's distance, a row at a time.
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut before = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.bytes().enumerate() {
            let here = (before + usize::from(a != b)).min(row[j] + 1).min(row[j + 1] + 1);
            before = std::mem::replace(&mut row[j + 1], here);
        }
    }
    let distance = row[other.len()];
    let within = one.len() >= 3 && (other.contains(one) || one.contains(other));
    let near = one.len().max(other.len()) > 3 && distance <= 2;
    (within || near).then_some(distance)
}

impl Store {
    /// The store under a folder, which need not exist yet. `holder` names this process to those who wait for its locks.
    #[must_use]
    pub fn new(root: &Path, holder: &str) -> Self {
        let is_shared = root.metadata().is_ok_and(|found| found.mode() & SHARED_DIR == SHARED_DIR);
        Self {
            root: root.to_owned(),
            disk: if is_shared { DiskIo::default().shared() } else { DiskIo::default() },
            lock_timeout: Duration::from_secs(300),
            holder: holder.to_owned(),
        }
    }

    /// The same store with another wait for locks.
    #[must_use]
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// The same store with its changes passing through a probe (tests).
    #[must_use]
    pub fn with_disk(mut self, disk: DiskIo) -> Self {
        self.disk = disk;
        self
    }

    /// Its folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn disk(&self) -> &DiskIo {
        &self.disk
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// How long others are waited for.
    #[must_use]
    pub fn lock_timeout(&self) -> Duration {
        self.lock_timeout
    }

    pub(crate) fn holder(&self) -> &str {
        &self.holder
    }

    /// One like this in another folder.
    pub(crate) fn moved_to(&self, root: PathBuf) -> Self {
        Self { root, ..self.clone() }
    }

    /// Where a tag that must be free will be.
    ///
    /// # Errors
    /// [`Kind::General`] where it is taken.
    pub(crate) fn require_free(&self, tag: &Tag) -> Result<PathBuf> {
        let target = self.dir(tag);
        if self.contains(tag) {
            let message = format!("'{tag}' is already at {}", target.display());
            return Err(Error::new(Kind::General, message).hint(format!("`forkd rmi {tag}` first")));
        }
        Ok(target)
    }

    /// The folder of a tag, whether or not it exists.
    #[must_use]
    pub fn dir(&self, tag: &Tag) -> PathBuf {
        self.snapshots().join(tag.as_str())
    }

    /// Whether the tag is taken.
    #[must_use]
    pub fn contains(&self, tag: &Tag) -> bool {
        self.dir(tag).symlink_metadata().is_ok()
    }

    /// Reads a snapshot's description.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where the tag is not in the store; [`Kind::Integrity`] where its description is malformed.
    pub fn load(&self, tag: &Tag) -> Result<StoredSnapshot> {
        let dir = self.dir(tag);
        if !self.contains(tag) {
            let message = format!("no snapshot '{tag}' in {}", self.snapshots().display());
            let similar = self.tags().unwrap_or_default().into_iter();
            let similar = similar.filter_map(|other| Some((likeness(tag, &other)?, other))).min();
            if let Some((_, note)) = self.arrival_notes().into_iter().find(|(_, note)| note.tag == *tag) {
                let message = format!("'{tag}' is arriving: it can be forked, but not all of it is here");
                return Err(Error::new(Kind::NotFound, message)
                    .hint(format!("`forkd pull {}` waits for the rest", note.name)));
            }
            let hint = match similar {
                Some((_, similar)) => format!("did you mean '{similar}'? See `forkd images`"),
                None => "see `forkd images`".to_owned(),
            };
            return Err(Error::new(Kind::NotFound, message).hint(hint));
        }
        let snapshot = describe(&dir)?;
        Ok(StoredSnapshot { tag: tag.clone(), record: Record::load(&dir)?, dir, snapshot })
    }

    /// The tags in the store, sorted. Folders that are no snapshot are passed over.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be read; a store that does not exist is empty.
    pub fn tags(&self) -> Result<Vec<Tag>> {
        let mut tags = self.folders()?;
        tags.retain(|tag| self.dir(tag).join(SNAPSHOT_JSON).is_file());
        Ok(tags)
    }

    /// The tags that are taken, sorted, whatever lies there.
    ///
    /// # Errors
    /// As [`Store::tags`].
    pub(crate) fn folders(&self) -> Result<Vec<Tag>> {
        let dir = self.snapshots();
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::io("read", &dir))?,
        };
        let mut tags = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("read", &dir))?;
            let tag = entry.file_name().to_str().and_then(|name| name.parse::<Tag>().ok());
            tags.extend(tag.filter(|tag| self.dir(tag).is_dir()));
        }
        tags.sort();
        Ok(tags)
    }

    /// A snapshot and its ancestors, root first.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where a parent is missing, [`Kind::Integrity`] where the chain has a cycle.
    pub fn chain(&self, head: &Tag) -> Result<Vec<StoredSnapshot>> {
        let mut links = vec![self.load(head)?];
        while let Some(parent) = parent_of(links.last())? {
            if links.iter().any(|link| link.tag == parent) || links.len() >= forkd_format::manifest::MAX_CHAIN
            {
                let message = format!(
                    "the chain of '{head}' never reaches a base: '{parent}' comes twice or it is too long"
                );
                return Err(Error::new(Kind::Integrity, message));
            }
            let child = links.last().map(|link| link.tag.to_string()).unwrap_or_default();
            links.push(self.load(&parent).map_err(|e| match e.kind() {
                Kind::NotFound => {
                    let message = format!("'{parent}', the chain parent of '{child}', is missing");
                    Error::new(Kind::NotFound, message).hint("pull or unpack it first")
                }
                _ => e,
            })?);
        }
        links.reverse();
        Ok(links)
    }

    /// The tags whose parent is one of these and that are not among them, by parent.
    ///
    /// # Errors
    /// [`Error::Io`] where the store cannot be read.
    pub fn dependents(&self, tags: &[Tag]) -> Result<Vec<(Tag, Tag)>> {
        let mut found = Vec::new();
        for tag in self.tags()?.into_iter().filter(|tag| !tags.contains(tag)) {
            // A damaged record makes a snapshot no less a dependent.
            let Ok(snapshot) = describe(&self.dir(&tag)) else { continue };
            if let Ok(Some(parent)) = snapshot.parent()
                && tags.contains(&parent.tag)
            {
                found.push((parent.tag, tag));
            }
        }
        Ok(found)
    }

    /// Takes folders of the store away where nothing is in them, and the store's own: what was refused leaves no trace.
    pub(crate) fn remove_empty(&self, dirs: &[PathBuf]) {
        for dir in dirs.iter().chain([&self.root]) {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Whether another process, which had nothing to keep, may just have taken an empty folder away while we made it or used it.
/// (Making it then fails with either error.)
pub(crate) fn is_taken_away(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::AlreadyExists)
}
