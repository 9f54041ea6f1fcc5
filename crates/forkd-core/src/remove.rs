use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::store::lock::LockKind;
use crate::store::root::Store;
use forkd_format::Tag;
use serde::Serialize;
use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What happens to snapshots that are chained to one that is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dependents {
    /// They keep it from being removed.
    #[default]
    Refuse,
    /// They are removed with it.
    Cascade,
    /// They stay behind and cannot be forked any more.
    Orphan,
}

/// A snapshot that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removal {
    pub tag: Tag,
    /// Bytes on the disk of those of its files that have no other name left.
    #[serde(rename = "freed_bytes")]
    pub freed: u64,
}

/// What was removed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RemoveReport {
    /// Children before their parents.
    pub removed: Vec<Removal>,
    /// Snapshots whose parent is gone now.
    pub orphaned: Vec<Tag>,
}

/// Removes snapshots.
///
/// # Errors
/// [`Kind::NotFound`] where one is not there, [`Kind::General`] where it has dependents; nothing is removed then.
pub fn remove(store: &Store, tags: &[Tag], dependents: Dependents, env: Env<'_>) -> Result<RemoveReport> {
    for tag in tags.iter().filter(|tag| !store.contains(tag)) {
        store.load(tag)?;
    }
    let mut doomed: Vec<Tag> = Vec::new();
    tags.iter().for_each(|tag| {
        if !doomed.contains(tag) {
            doomed.push(tag.clone())
        }
    });
    // Who chains a snapshot to another holds the lock of that one: once all are locked, no dependent can be added.
    let (_locks, orphaned) = loop {
        let orphaned = add_dependents(store, &mut doomed, dependents)?;
        let locks = store.lock_all(&doomed, LockKind::Exclusive, env)?;
        for tag in doomed.iter().filter(|tag| !store.contains(tag)) {
            store.load(tag)?;
        }
        let known = doomed.len();
        if add_dependents(store, &mut doomed, dependents)? == orphaned && doomed.len() == known {
            break (locks, orphaned);
        }
    };
    let staging = store.stage(env)?;
    let mut report = RemoveReport { removed: Vec::new(), orphaned };
    let (mut names, mut assembled) = (HashMap::new(), Vec::new());
    // Children first: at no moment does a chain lack its parent.
    for (i, tag) in children_first(store, doomed).iter().enumerate() {
        let dir = store.dir(tag);
        let freed = freed(&dir, &mut names);
        assembled.push(store.assembled_digest(tag));
        let trash = staging.path().join(format!("rm{i}"));
        store.disk().rename(&dir, &trash).map_err(Error::io("remove", &dir))?;
        report.removed.push(Removal { tag: tag.clone(), freed });
    }
    let snapshots = store.snapshots();
    match store.disk().sync_dir(&snapshots) {
        // Empty by now, and another process has taken it away.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        synced => synced.map_err(Error::io("sync", &snapshots))?,
    }
    // The tags are gone; an assembled memory that stays is found again by the next sweep.
    for (digest, file) in store.sweep_assembled().unwrap_or_default() {
        if let Some(i) = assembled.iter().position(|of| *of == Some(digest)) {
            report.removed[i].freed += given_back(&file, &mut names);
        }
    }
    Ok(report)
}

/// Looks for snapshots chained to the doomed ones: refuses, adds them, or gives those that will be orphans.
fn add_dependents(store: &Store, doomed: &mut Vec<Tag>, dependents: Dependents) -> Result<Vec<Tag>> {
    loop {
        let found = store.dependents(doomed)?;
        match (dependents, found.first()) {
            (_, None) => return Ok(Vec::new()),
            (Dependents::Refuse, Some((parent, _))) => {
                let children: Vec<String> = found
                    .iter()
                    .filter(|(p, _)| p == parent)
                    .map(|(_, child)| format!("'{child}'"))
                    .collect();
                let message = format!(
                    "'{parent}' is the chain parent of {}; remove {} first, or use --cascade to remove all of them",
                    children.join(", "),
                    if children.len() == 1 { "it" } else { "them" },
                );
                return Err(Error::new(Kind::General, message));
            }
            (Dependents::Cascade, _) => doomed.extend(found.into_iter().map(|(_, child)| child)),
            (Dependents::Orphan, _) => return Ok(found.into_iter().map(|(_, child)| child).collect()),
        }
    }
}

fn children_first(store: &Store, mut tags: Vec<Tag>) -> Vec<Tag> {
    let depth = |tag: &Tag| store.chain(tag).map_or(usize::MAX, |chain| chain.len());
    tags.sort_by_cached_key(|tag| std::cmp::Reverse(depth(tag)));
    tags
}

/// Bytes that deleting a folder gives back: those of files that have no name left then. `names` counts names of files that
/// have several and lose them one by one.
fn freed(dir: &Path, names: &mut HashMap<u64, u64>) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut bytes = 0;
    for file in entries.filter_map(|entry| entry.metadata().ok()).filter(Metadata::is_file) {
        bytes += given_back(&file, names);
    }
    bytes
}

/// What a file gives back when it loses one more name.
fn given_back(file: &Metadata, names: &mut HashMap<u64, u64>) -> u64 {
    let gone = names.entry(file.ino()).or_default();
    *gone += 1;
    if *gone == file.nlink() { forkd_sys::allocated(file) } else { 0 }
}
