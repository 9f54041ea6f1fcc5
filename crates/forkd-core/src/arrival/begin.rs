//! From a pull to an arriving snapshot: once what stands in front has landed.

use crate::arrival::arriving::{ArrivalReader, ArrivingState};
use crate::arrival::shown::{PackFiles, ShownBody};
use crate::error::{Error, Kind, Result};
use crate::mount::ShownFile;
use crate::pack::description::parse_description;
use crate::pack::paged::header::PagedHeader;
use crate::pipeline::mutex::lock;
use crate::pull::demands::Demands;
use crate::unpack::files::StagedPack;
use crate::unpack::plan::{Outcome, UnpackPlan};
use forkd_format::Snapshot;
use forkd_format::manifest::{MEMORY, ROOTFS, SNAPSHOT_JSON, VMSTATE};
use forkd_format::reader::FileId;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

/// Told of a snapshot that can be forked from now on.
pub trait Arrivals: Sync {
    /// Its first pages are here; `work` is the folder of the download.
    ///
    /// # Errors
    /// Where it cannot be shown; then the pull fails.
    fn begun(&self, arriving: Arc<ArrivalReader>, work: &Path) -> Result<()>;

    /// Nothing more of it comes.
    fn stopped(&self, work: &Path, error: &Error);
}

/// Whose arrival is watched.
pub(crate) struct WatchedPull<'a> {
    pub(crate) arrivals: &'a dyn Arrivals,
    pub(crate) header: Arc<PagedHeader>,
    pub(crate) staged: &'a StagedPack<'a>,
    pub(crate) plan: &'a UnpackPlan,
    pub(crate) work: &'a Path,
    pub(crate) demands: Arc<Demands>,
}

/// Watches a pull until the snapshot can be forked, and hands on what lands after that.
pub(crate) struct ArrivalWatch<'a> {
    pull: WatchedPull<'a>,
    /// What has landed, until someone else keeps that.
    landed: Mutex<Vec<bool>>,
    /// Frames that a fork needs in any case and that did not land yet.
    front: Mutex<BTreeSet<usize>>,
    arriving: OnceLock<Arc<ArrivalReader>>,
}

impl<'a> ArrivalWatch<'a> {
    pub(crate) fn new(pull: WatchedPull<'a>) -> Self {
        let front = front(&pull.header);
        pull.demands.push(pull.header.closure(&front, |_| false));
        pull.demands.come_alone();
        let landed = Mutex::new(vec![false; pull.header.frames()]);
        Self { pull, landed, front: Mutex::new(front), arriving: OnceLock::new() }
    }

    /// A frame is in its place.
    pub(crate) fn landed(&self, id: usize) -> Result<()> {
        if let Some(arriving) = self.arriving.get() {
            arriving.landed(id);
            return Ok(());
        }
        {
            // Whoever begins takes over what has landed under this lock.
            let mut landed = lock(&self.landed);
            landed[id] = true;
            if let Some(arriving) = self.arriving.get() {
                drop(landed);
                arriving.landed(id);
                return Ok(());
            }
        }
        let mut front = lock(&self.front);
        if front.remove(&id) && front.is_empty() { self.begin() } else { Ok(()) }
    }

    /// These frames are here from the beginning.
    pub(crate) fn here(&self, frames: &[bool]) -> Result<()> {
        let mut front = lock(&self.front);
        for id in (0..frames.len()).filter(|id| frames[*id]) {
            lock(&self.landed)[id] = true;
            front.remove(&id);
        }
        if front.is_empty() && self.arriving.get().is_none() { self.begin() } else { Ok(()) }
    }

    /// Nothing more comes.
    pub(crate) fn fail(&self, error: &Error) {
        if let Some(arriving) = self.arriving.get() {
            // For who is stopped by it this is no Ctrl-C of theirs.
            let ended = Error::new(Kind::Transient, "its arrival was ended");
            let error = if error.kind() == Kind::Interrupted { &ended } else { error };
            self.pull.arrivals.stopped(self.pull.work, error);
            arriving.fail(error);
        }
    }

    fn begin(&self) -> Result<()> {
        let manifest = &self.pull.header.manifest;
        let (mut files, mut descriptions) = (Vec::new(), Vec::new());
        for (l, link) in manifest.links.iter().enumerate() {
            let kept = self.pull.plan.outcomes[l] == Outcome::Kept;
            let stored =
                if kept { Some(self.pull.staged.job().store.load(&self.pull.plan.tags[l])?) } else { None };
            for (f, file) in link.files.iter().enumerate() {
                files.push(match &stored {
                    _ if file.path == SNAPSHOT_JSON => None,
                    Some(stored) => Some(stored.open(&stored.dir.join(&file.path))?),
                    None => self.pull.staged.open_staged(FileId { link: l, file: f })?,
                });
            }
            descriptions.push(match stored {
                Some(stored) => stored.snapshot,
                None => parse_description(link, &self.pull.staged.description(l))?,
            });
        }
        let shown = self.shown(&files, &descriptions)?;
        let tag = self.pull.plan.tags[self.pull.plan.tags.len() - 1].clone();
        let landed = lock(&self.landed);
        let state = ArrivingState {
            landed: landed.clone(),
            waiting: Vec::new(),
            demanded: BTreeSet::new(),
            failed: None,
        };
        let front = self.pull.header.closure(&front(&self.pull.header), |_| false);
        let front = front.into_iter().map(|id| u64::from(self.pull.header.stored(id).len)).sum::<u64>();
        let needed = AtomicU64::new(self.pull.header.header_len + front);
        let arriving = Arc::new(ArrivalReader {
            tag,
            shown,
            pack: PackFiles { header: Arc::clone(&self.pull.header), files },
            demands: Arc::clone(&self.pull.demands),
            state: Mutex::new(state),
            stop: OnceLock::new(),
            needed,
        });
        let _ = self.arriving.set(Arc::clone(&arriving));
        drop(landed);
        self.pull.demands.share();
        self.pull.arrivals.begun(arriving, self.pull.work)
    }

    /// The head as a snapshot by itself: its memory is that of the chain.
    fn shown(
        &self,
        files: &[Option<File>],
        descriptions: &[Snapshot],
    ) -> Result<Vec<(ShownFile, ShownBody)>> {
        let manifest = &self.pull.header.manifest;
        let head = manifest.links.len() - 1;
        let first = |link: usize| manifest.links[..link].iter().map(|link| link.files.len()).sum::<usize>();
        let place = |link: usize, name: &str| {
            let found = manifest.links[link].files.iter().position(|file| file.path == name)?;
            Some(first(link) + found).filter(|file| files[*file].is_some())
        };
        let size = |file: usize| self.pull.header.files[file].size;
        let text = descriptions[head]
            .with("parent_tag", None)
            .with("parent_content_hash", None)
            .with("zero_pages", None)
            .relocated("", None)
            .to_bytes();
        let named = |name: &str, size: u64| ShownFile { name: name.into(), size, mapped: name == MEMORY };
        let mut shown = vec![(named(SNAPSHOT_JSON, text.len() as u64), ShownBody::Text(text))];
        for name in [VMSTATE, ROOTFS] {
            if let Some(file) = place(head, name) {
                shown.push((named(name, size(file)), ShownBody::File(file)));
            }
        }
        if let Some(memory) = place(head, MEMORY) {
            let mut links = Vec::new();
            for (link, description) in descriptions.iter().enumerate().rev() {
                let zeros = description.zero_pages().map_err(Error::malformed(manifest.tag.to_string()))?;
                links.extend(place(link, MEMORY).map(|file| (file, zeros)));
            }
            let body = if head == 0 { ShownBody::File(memory) } else { ShownBody::Chain(links) };
            shown.push((named(MEMORY, size(memory)), body));
        }
        Ok(shown)
    }
}

/// What a fork needs in any case: the working set, the descriptions, the head's device state.
fn front(header: &PagedHeader) -> BTreeSet<usize> {
    let mut front: BTreeSet<usize> = header.set_ids().collect();
    let head = header.manifest.links.len() - 1;
    let mut file = 0;
    for (l, link) in header.manifest.links.iter().enumerate() {
        for entry in &link.files {
            if entry.path == SNAPSHOT_JSON || (l == head && entry.path == VMSTATE) {
                let frames = header.files[file].frames.len();
                front.extend((0..frames).filter_map(|number| header.id(file, number)));
            }
            file += 1;
        }
    }
    front
}
