//! Where the pages of a working set stand in a pack's files.

use forkd_format::paged::FRAME_PAGES;

/// Pages of files, each of them once, in the order of the set.
#[derive(Debug, Default)]
pub(crate) struct SetPlaces {
    /// File and page in it.
    pages: Vec<(usize, u64)>,
    /// File, page in it, page in the set; sorted.
    sorted: Vec<(usize, u64, u64)>,
}

impl SetPlaces {
    pub(crate) fn new(pages: Vec<(usize, u64)>) -> Self {
        let mut sorted: Vec<(usize, u64, u64)> =
            (0..).zip(&pages).map(|(number, (file, page))| (*file, *page, number)).collect();
        sorted.sort_unstable();
        Self { pages, sorted }
    }

    /// File and page of each of the set's pages.
    pub(crate) fn pages(&self) -> &[(usize, u64)] {
        &self.pages
    }

    /// The page of the set that a page of a file is.
    pub(crate) fn find(&self, file: usize, page: u64) -> Option<u64> {
        let found = self.sorted.binary_search_by_key(&(file, page), |(file, page, _)| (*file, *page));
        found.ok().map(|at| self.sorted[at].2)
    }

    /// The pages of one frame of a file: page in the file, page in the set.
    pub(crate) fn in_frame(&self, file: usize, number: usize) -> impl Iterator<Item = (u64, u64)> + '_ {
        let first = (number * FRAME_PAGES) as u64;
        let from = self.sorted.partition_point(|(f, page, _)| (*f, *page) < (file, first));
        let rest = self.sorted[from..].iter();
        let inside = rest.take_while(move |(f, page, _)| *f == file && *page < first + FRAME_PAGES as u64);
        inside.map(|(_, page, number)| (*page, *number))
    }
}
