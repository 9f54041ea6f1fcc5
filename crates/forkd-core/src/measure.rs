//! For benches: parts of forkd by themselves.

use crate::env::Env;
use crate::error::{Error, Result};
use crate::pack::paged::page_source::PageSource;
use crate::pack::paged::search::Search;
use forkd_format::PAGE_SIZE;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a search for references found, and what it took on one thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct SearchFigures {
    /// Pages of the target that are not zero.
    pub pages: u64,
    /// Of these, those for which a page was found.
    pub found: u64,
    /// For reading and indexing the references.
    pub build: Duration,
    /// For looking up every page of the target.
    pub search: Duration,
}

/// Looks every page of a file up among those of others, as packing does.
///
/// # Errors
/// What the disk says.
pub fn search(target: &Path, references: &[&Path], env: Env<'_>) -> Result<SearchFigures> {
    let open = |path: &&Path| {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let size = file.metadata().map_err(Error::io("open", path))?.len();
        Ok(PageSource::file(file, path.to_path_buf(), size))
    };
    let sources = references.iter().map(open).collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    let search = Search::build(&sources, env)?;
    let mut figures = SearchFigures { build: begun.elapsed(), ..SearchFigures::default() };
    let bytes = std::fs::read(target).map_err(Error::io("read", target))?;
    let begun = Instant::now();
    for page in bytes.chunks_exact(PAGE_SIZE).filter(|page| !forkd_sys::is_zero(page)) {
        figures.pages += 1;
        let found = search.candidates(page, Some);
        figures.found += u64::from(!found.found.is_empty());
    }
    figures.search = begun.elapsed();
    Ok(figures)
}
