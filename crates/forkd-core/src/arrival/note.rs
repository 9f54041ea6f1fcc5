//! What others see of snapshots that are arriving.

use crate::arrival::protocol::{Hello, Word, ask, say};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::pull::context::JOURNAL;
use crate::store::arrival_note::ArrivalNote;
use crate::store::lock::LockKind;
use crate::store::root::Store;
use forkd_format::Tag;
use serde::{Deserialize, Serialize};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// A snapshot that is arriving.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArrivingSnapshot {
    pub tag: Tag,
    /// What was asked for, without secrets.
    pub name: String,
    /// Bytes of the pack.
    #[serde(rename = "total_bytes")]
    pub total: u64,
    /// Bytes that are here, about.
    #[serde(rename = "here_bytes")]
    pub here: u64,
    /// Bytes that had to come for what its forks have read so far; 0 where nobody is fetching the rest.
    #[serde(rename = "needed_bytes")]
    pub needed: u64,
    /// Whether someone is fetching the rest.
    pub fetched: bool,
    /// Why whoever fetched it gave up.
    pub stopped: Option<String>,
    #[serde(skip)]
    pub(crate) work: PathBuf,
}

impl ArrivingSnapshot {
    pub(crate) fn new(note: ArrivalNote, work: PathBuf) -> Self {
        let ArrivalNote { tag, name, total, frames, stopped } = note;
        let landed = work.join(JOURNAL).metadata().map_or(0, |journal| journal.len() / 4).min(frames);
        let here = (u128::from(total) * u128::from(landed) / u128::from(frames.max(1))) as u64;
        Self { tag, name, total, here, needed: 0, fetched: false, stopped, work }
    }

    /// Connects to whoever is fetching it. Who gave up serves those that read already, and nobody else.
    pub(crate) fn hail(&self) -> Option<(UnixStream, Hello)> {
        self.stopped.is_none().then(|| ask(&self.work).ok()).flatten()
    }
}

/// The snapshots of a store that are arriving, by tag.
#[must_use]
pub fn arriving(store: &Store) -> Vec<ArrivingSnapshot> {
    let mut found: Vec<ArrivingSnapshot> = Vec::new();
    for (work, note) in store.arrival_notes() {
        // What came as a whole in the meantime is that.
        if !store.contains(&note.tag) {
            let snapshot = ArrivingSnapshot::new(note, work);
            let hello = snapshot.hail().map(|(_, hello)| hello);
            let needed = hello.as_ref().map_or(0, |hello| hello.needed);
            found.push(ArrivingSnapshot { fetched: hello.is_some(), needed, ..snapshot });
        }
    }
    // Of several with one tag the one that is being fetched counts.
    found.sort_by(|a, b| (&a.tag, b.fetched).cmp(&(&b.tag, a.fetched)));
    found
}

/// Ends the arrival of a tag, if it is arriving, and deletes what has come. Says whether it was.
///
/// # Errors
/// [`crate::Kind::Locked`] where whoever fetches it does not end.
pub fn stop(store: &Store, tag: &Tag, env: Env<'_>) -> Result<bool> {
    let found: Vec<_> = arriving(store).into_iter().filter(|snapshot| snapshot.tag == *tag).collect();
    for snapshot in &found {
        if let Ok((stream, _)) = ask(&snapshot.work) {
            let _ = say(&stream, &Word::Stop);
        }
        let key = snapshot.work.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let _turn = store.lock_name(&key, &format!("the arrival of '{tag}'"), LockKind::Exclusive, env)?;
        match store.disk().remove_tree(&snapshot.work) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::Io { action: "remove", path: snapshot.work.clone(), source: e });
            }
            _ => store.remove_empty(&[store.partial_dir()]),
        }
    }
    Ok(!found.is_empty())
}
