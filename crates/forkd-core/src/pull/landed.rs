//! Which frames of a pack are in their files.

use crate::pack::paged::header::PagedHeader;
use crate::pipeline::mutex::lock;
use crate::unpack::files::StagedPack;
use crate::unpack::paged::PagedFiles;
use crate::unpack::plan::{Outcome, UnpackPlan};
use std::sync::Mutex;

/// The frames that need not come, by their place in the pack.
pub(crate) struct Landed(Mutex<Vec<bool>>);

impl Landed {
    /// Those of links and bases that are here with the same bytes.
    pub(crate) fn new(
        header: &PagedHeader,
        plan: &UnpackPlan,
        staged: &StagedPack<'_>,
        files: &PagedFiles<'_>,
    ) -> Self {
        let kept = |id| {
            let (file, _) = header.place(id);
            if let Some(base) = header.base_of(file) {
                return files.base_is_here(base);
            }
            staged.link_of(file).is_some_and(|link| plan.outcomes[link] == Outcome::Kept)
        };
        Self(Mutex::new((0..header.frames()).map(kept).collect()))
    }

    pub(crate) fn has(&self, id: usize) -> bool {
        lock(&self.0)[id]
    }

    pub(crate) fn set(&self, id: usize) {
        lock(&self.0)[id] = true;
    }

    /// All of them, once nobody adds any more.
    pub(crate) fn into_inner(self) -> Vec<bool> {
        self.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
