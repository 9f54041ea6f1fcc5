//! The working set of a pack that is written: which pages of its files it has.

use crate::error::{Error, Result};
use crate::pack::input::PackInput;
use crate::pack::paged::page_ref::PageRef;
use crate::pack::paged::page_source::PageSource;
use crate::pack::paged::search::Search;
use crate::pack::paged::set_places::SetPlaces;
use crate::store::stored::StoredSnapshot;
use forkd_format::manifest::{MEMORY, ROOTFS};
use forkd_format::paged::{FRAME_PAGES, SetRun};
use forkd_format::{NeededFile, PAGE_SIZE};

/// The pages of a working set, and where each is found.
pub(crate) struct PackSet {
    /// Its number as a source.
    pub(crate) number: usize,
    pub(crate) runs: Vec<SetRun>,
    pub(crate) source: PageSource,
    pub(crate) places: SetPlaces,
}

impl PackSet {
    /// The set of a chain's head. `sources` are the bases, then the inputs.
    pub(crate) fn of(
        chain: &[StoredSnapshot],
        inputs: &[PackInput],
        sources: &[PageSource],
        search: &Search<'_>,
    ) -> Result<Self> {
        let own = sources.len() - inputs.len();
        let mut pages: Vec<(usize, u64)> = Vec::new();
        for (file, page) in wanted(chain, inputs, &sources[own..])? {
            // What is not in the pack is zero, and known to be.
            if search.is_stored(own + file, (page / FRAME_PAGES as u64) as usize) {
                pages.push((file, page));
            }
        }
        let mut runs: Vec<SetRun> = Vec::new();
        for (file, page) in &pages {
            match runs.last_mut() {
                Some(run) if run.file == *file && run.page + run.count == *page => run.count += 1,
                _ => runs.push(SetRun { file: *file, page: *page, count: 1 }),
            }
        }
        let source = PageSource::set(&sources[own..], pages.clone())?;
        let places = SetPlaces::new(pages);
        Ok(Self { number: sources.len(), runs, source, places })
    }

    /// Where a page that was found is referred to by a frame that comes later than the set.
    pub(crate) fn replace(&self, found: PageRef, own: usize) -> Option<PageRef> {
        let page = self.places.find(found.source.checked_sub(own)?, found.page)?;
        Some(PageRef { source: self.number, page })
    }
}

/// The pages that the head's description names, each once, as files of the pack and pages in them.
fn wanted(
    chain: &[StoredSnapshot],
    inputs: &[PackInput],
    sources: &[PageSource],
) -> Result<Vec<(usize, u64)>> {
    let Some(head) = chain.last() else { return Ok(Vec::new()) };
    let malformed = || Error::malformed(head.dir.display().to_string());
    let runs = head.snapshot.working_set().map_err(malformed())?;
    let input = |link: usize, name: &str| {
        let index = chain[link].bodies().iter().position(|(body, _)| *body == name)? + 1;
        inputs.iter().position(|input| input.link == link && input.index == index)
    };
    let rootfs = input(chain.len() - 1, ROOTFS);
    let mut memories = Vec::new();
    for (link, stored) in chain.iter().enumerate().rev() {
        let zeros = stored.snapshot.zero_pages().map_err(malformed())?;
        memories.extend(input(link, MEMORY).map(|input| (input, zeros)));
    }
    let mut seen = std::collections::HashSet::new();
    let mut pages = Vec::new();
    for run in runs {
        for page in run.first..run.first + run.count {
            let file = match run.file {
                NeededFile::Rootfs => rootfs.filter(|file| page < sources[*file].pages()),
                NeededFile::Memory => layer(&memories, sources, page)?,
            };
            let Some(file) = file else { break };
            if seen.insert((file, page)) {
                pages.push((file, page));
            }
        }
    }
    Ok(pages)
}

/// The link, of those from the head down, whose memory holds a page; `None` where it is zero or there is none.
fn layer(memories: &[(usize, Vec<(u64, u64)>)], sources: &[PageSource], page: u64) -> Result<Option<usize>> {
    let mut bytes = [0; PAGE_SIZE];
    for (number, (file, zeros)) in memories.iter().enumerate() {
        if page >= sources[*file].pages() {
            return Ok(None);
        }
        if forkd_format::is_in_runs(zeros, page) {
            return Ok(None);
        }
        if number + 1 == memories.len() {
            return Ok(Some(*file));
        }
        sources[*file].read(page, &mut bytes)?;
        if !forkd_sys::is_zero(&bytes) {
            return Ok(Some(*file));
        }
    }
    Ok(None)
}
