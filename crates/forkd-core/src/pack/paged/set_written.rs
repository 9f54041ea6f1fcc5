//! The working set of a pack that is written: which pages of its files it has.

use crate::error::{Error, Result};
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
    /// The first source that has a number among the files.
    first: usize,
    pub(crate) runs: Vec<SetRun>,
    pub(crate) source: PageSource,
    places: SetPlaces,
}

/// Says which source the file of a link is.
pub(crate) type PlaceFile<'a> = &'a dyn Fn(usize, &str) -> Option<usize>;

impl PackSet {
    /// The set of a chain's head. Files are counted from source `first` on.
    pub(crate) fn of(
        chain: &[StoredSnapshot],
        first: usize,
        place: PlaceFile<'_>,
        search: &Search<'_>,
    ) -> Result<Self> {
        let sources = search.sources();
        let mut pages: Vec<(usize, u64)> = Vec::new();
        for found in wanted(chain, place, sources)? {
            // What is not in the pack is zero, and known to be.
            if search.is_stored(found.source, (found.page / FRAME_PAGES as u64) as usize) {
                pages.push((found.source - first, found.page));
            }
        }
        let mut runs: Vec<SetRun> = Vec::new();
        for (file, page) in &pages {
            match runs.last_mut() {
                Some(run) if run.file == *file && run.page + run.count == *page => run.count += 1,
                _ => runs.push(SetRun { file: *file, page: *page, count: 1 }),
            }
        }
        let source = PageSource::set(&sources[first..], pages.clone())?;
        let places = SetPlaces::new(pages);
        Ok(Self { number: sources.len(), first, runs, source, places })
    }

    /// The page of the set that a page of a source is.
    pub(crate) fn find(&self, page: PageRef) -> Option<u64> {
        self.places.find(page.source.checked_sub(self.first)?, page.page)
    }
}

/// The pages that the head's description names, each once.
fn wanted(chain: &[StoredSnapshot], place: PlaceFile<'_>, sources: &[PageSource]) -> Result<Vec<PageRef>> {
    let Some(head) = chain.last() else { return Ok(Vec::new()) };
    let malformed = || Error::malformed(head.dir.display().to_string());
    let runs = head.snapshot.working_set().map_err(malformed())?;
    let rootfs = place(chain.len() - 1, ROOTFS);
    let mut memories = Vec::new();
    for (link, stored) in chain.iter().enumerate().rev() {
        let zeros = stored.snapshot.zero_pages().map_err(malformed())?;
        memories.extend(place(link, MEMORY).map(|source| (source, zeros)));
    }
    let mut seen = std::collections::HashSet::new();
    let mut pages = Vec::new();
    for run in runs {
        for page in run.first..run.first + run.count {
            let source = match run.file {
                NeededFile::Rootfs => rootfs.filter(|source| page < sources[*source].pages()),
                NeededFile::Memory => layer(&memories, sources, page)?,
            };
            let Some(source) = source else { break };
            if seen.insert((source, page)) {
                pages.push(PageRef { source, page });
            }
        }
    }
    Ok(pages)
}

/// The source, of the links' memories from the head down, that holds a page; `None` where it is zero or there is none.
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
