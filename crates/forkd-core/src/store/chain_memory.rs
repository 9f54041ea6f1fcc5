//! The memories of chains, put together: `assembled/<sha256>.bin`, made once for each head and used by every fork of it.

use crate::chain::assemble::Layers;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::store::lock::LockKind;
use crate::store::record::modified_ns;
use crate::store::root::{Store, is_taken_away};
use crate::store::small_file::read_small;
use crate::store::stored::{StoredSnapshot, describe, parent_of};
use forkd_format::manifest::MEMORY;
use forkd_format::{Digest, Snapshot, Tag};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What was noted of an assembled file when it was made: where it is otherwise now, the file is not believed.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Note {
    size: u64,
    mtime_ns: i64,
}

impl Store {
    fn assembled_dir(&self) -> PathBuf {
        self.root().join("assembled")
    }

    fn assembled_path(&self, digest: &Digest) -> PathBuf {
        self.assembled_dir().join(format!("{digest}.bin"))
    }

    /// The whole memory of a chain's head, in a file that a machine can be started from: that of a flat snapshot itself, or what the
    /// links make of their root's, put together the first time. The caller holds the locks of all links, shared at least.
    ///
    /// # Errors
    /// [`Kind::Incompatible`] for a link that does not say what its memory must be, [`Kind::Integrity`] where a link was altered.
    pub fn memory(&self, chain: &[StoredSnapshot], env: Env<'_>) -> Result<PathBuf> {
        let Some(head) = chain.last() else {
            return Err(Error::new(Kind::General, "internal error: a chain without links"));
        };
        if chain.len() == 1 && parent_of(Some(head))?.is_none() {
            return Ok(head.dir.join(MEMORY));
        }
        let Some((size, digest)) = head.snapshot.frozen("memory") else {
            let message = format!(
                "'{}' was not made by this forkd: it can be moved and verified, not forked",
                head.tag
            );
            return Err(Error::new(Kind::Incompatible, message));
        };
        if let Some(path) = self.cached(&digest, size) {
            return Ok(path);
        }
        let what = format!("the assembled memory of '{}'", head.tag);
        let _lock = self.lock_name(&lock_name(&digest), &what, LockKind::Exclusive, env)?;
        if let Some(path) = self.cached(&digest, size) {
            return Ok(path);
        }
        let layers = Layers::open(chain, size, env)?;
        let staging = self.stage(env)?;
        let staged = staging.path().join(MEMORY);
        let file = self.disk().create(&staged, 0o644).map_err(Error::io("create", &staged))?;
        let found = layers.assemble(self.disk(), &file, &staged, env)?;
        if found != digest {
            let message = format!(
                "the memory of '{0}', assembled from {1} links, has sha256 {found}; snapshot.json says {digest}. Nothing was \
kept",
                head.tag,
                chain.len()
            );
            return Err(Error::new(Kind::Integrity, message)
                .hint(format!("`forkd verify {}` shows whether a link is damaged", head.tag)));
        }
        self.keep_assembled(&staged, &file, &digest)
    }

    /// Where an assembled memory lies, if it is there as it was made.
    pub(crate) fn cached(&self, digest: &Digest, size: u64) -> Option<PathBuf> {
        let path = self.assembled_path(digest);
        let note: Note = serde_json::from_slice(&read_small(&note_path(&path), 4096).ok()?).ok()?;
        let metadata = path.symlink_metadata().ok().filter(Metadata::is_file)?;
        let found = Note { size: metadata.len(), mtime_ns: modified_ns(&metadata) };
        (found == note && note.size == size).then_some(path)
    }

    /// Makes an assembled memory count as missing, so that it is made again.
    pub(crate) fn forget_assembled(&self, digest: &Digest) -> Result<()> {
        let note = note_path(&self.assembled_path(digest));
        self.disk().remove_file(&note).map_err(Error::io("remove", &note))
    }

    /// Moves a finished file into its place, note first: without the right one a file counts as missing.
    fn keep_assembled(&self, staged: &Path, file: &File, digest: &Digest) -> Result<PathBuf> {
        let metadata = file.metadata().map_err(Error::io("read", staged))?;
        // As the memory of a flat snapshot: QEMU opens it for writing although all its writes are private.
        self.disk().set_mode(file, staged, metadata.mode() & 0o644).map_err(Error::io("seal", staged))?;
        self.disk().sync_file(file, staged).map_err(Error::io("sync", staged))?;
        let metadata = file.metadata().map_err(Error::io("read", staged))?;
        let note = Note { size: metadata.len(), mtime_ns: modified_ns(&metadata) };
        let text = serde_json::to_vec(&note).map_err(|e| Error::new(Kind::General, e.to_string()))?;
        let staged_note = staged.with_extension("note");
        crate::store::staged::write_sealed(self.disk(), &staged_note, &text)?;
        let (target, root) = (self.assembled_path(digest), self.assembled_dir());
        let mut tries = 0;
        while let Err(source) = self.put_note(&staged_note, &note_path(&target), &root) {
            if !is_taken_away(&source) || tries == 100 {
                return Err(Error::Io { action: "create", path: note_path(&target), source });
            }
            tries += 1;
        }
        self.disk().replace(staged, &target).map_err(Error::io("create", &target))?;
        self.disk().sync_dir(&root).map_err(Error::io("sync", &root))?;
        Ok(target)
    }

    fn put_note(&self, staged: &Path, note: &Path, root: &Path) -> std::io::Result<()> {
        if !root.is_dir() {
            self.disk().make_dirs(root)?;
            self.disk().sync_dir(self.root())?;
        }
        self.disk().replace(staged, note)
    }

    /// The assembled memory that forks of a tag use, where it is the head of a chain. Its record does not matter here.
    pub(crate) fn assembled_digest(&self, tag: &Tag) -> Option<Digest> {
        let is_link = |snapshot: &Snapshot| snapshot.parent().is_ok_and(|parent| parent.is_some());
        let snapshot = describe(&self.dir(tag)).ok().filter(is_link)?;
        snapshot.frozen("memory").map(|(_, digest)| digest)
    }

    /// Deletes assembled memories that no chain in the store has, and notes without one. Gives what was deleted.
    pub(crate) fn sweep_assembled(&self) -> Result<Vec<(Digest, Metadata)>> {
        let root = self.assembled_dir();
        if !root.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Ok(Vec::new());
        }
        // Listed before the tags are: what a new tag adds in between is not in the list.
        let entries = fs::read_dir(&root).map_err(Error::io("read", &root))?;
        let files: Vec<(Digest, PathBuf, Metadata)> =
            entries.flatten().filter_map(|entry| ours(&entry.path())).collect();
        let used: HashSet<Digest> =
            self.tags()?.iter().filter_map(|tag| self.assembled_digest(tag)).collect();
        let whole: HashSet<Digest> =
            files.iter().filter(|(_, path, _)| is_memory(path)).map(|(digest, ..)| *digest).collect();
        let mut removed = Vec::new();
        for (digest, path, metadata) in files.into_iter().filter(|(digest, ..)| !used.contains(digest)) {
            match self.disk().remove_file(&path) {
                // Another sweep was faster.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                done => done.map_err(Error::io("remove", &path))?,
            }
            // A note goes with its file and does not count on its own.
            if is_memory(&path) || !whole.contains(&digest) {
                removed.push((digest, metadata));
            }
        }
        self.remove_empty(&[root]);
        Ok(removed)
    }
}

/// Puts the whole memory of a new head into the store's assembled ones: a file in staging whose digest is known. It may go into its place
/// before its tag does. Where one is there already, the file stays where it is.
///
/// # Errors
/// What the disk says.
pub(crate) fn adopt_assembled(store: &Store, path: &Path, digest: &Digest, env: Env<'_>) -> Result<PathBuf> {
    let _lock = store.lock_name(&lock_name(digest), "an assembled memory", LockKind::Exclusive, env)?;
    let file = File::open(path).map_err(Error::io("open", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    match store.cached(digest, size) {
        Some(cached) => Ok(cached),
        None => store.keep_assembled(path, &file, digest),
    }
}

fn lock_name(digest: &Digest) -> String {
    format!("assembled-{}", &digest.to_string()[..16])
}

fn note_path(path: &Path) -> PathBuf {
    path.with_extension("json")
}

/// A file that is named as those that we make.
fn ours(path: &Path) -> Option<(Digest, PathBuf, Metadata)> {
    let digest = path.file_stem()?.to_str()?.parse().ok()?;
    let metadata = path.symlink_metadata().ok().filter(Metadata::is_file)?;
    (is_memory(path) || path.extension().is_some_and(|end| end == "json"))
        .then(|| (digest, path.to_owned(), metadata))
}

fn is_memory(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "bin")
}
