//! Files that frames refer to, found and opened.

use crate::cache::folder::Cache;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::paged::header::PagedHeader;
use crate::pack::paged::header_parts::{BaseBody, HeaderBase};
use crate::pack::paged::kernel;
use crate::pack::paged::page_source::PageSource;
use crate::pack::sidecar::OpenSidecar;
use crate::store::by_content::{self, LocalFile};
use crate::store::root::Store;
use forkd_format::manifest::{Base, BaseKind};
use std::path::Path;

/// Where the bases of a pack are looked for.
#[derive(Clone, Copy)]
pub(crate) struct BaseSearch<'a> {
    pub(crate) store: &'a Store,
    /// Kernels are kept there; without it they go into the work folder.
    pub(crate) cache: Option<&'a Cache>,
    pub(crate) work: &'a Path,
    /// The pack, for messages.
    pub(crate) name: &'a str,
    pub(crate) env: Env<'a>,
}

impl BaseSearch<'_> {
    /// The base files of a pack, each known by a digest that was checked; a kernel that is not here comes from beside the pack. `None` for
    /// those of a release that are not here: what is needed of them comes with the rest.
    pub(crate) fn open_all(
        &self,
        header: &PagedHeader,
        sidecar: OpenSidecar<'_>,
    ) -> Result<Vec<Option<PageSource>>> {
        let bases = &header.bases;
        let files = if bases.is_empty() { Vec::new() } else { by_content::files(self.store)? };
        let open = |(number, base): (usize, &HeaderBase)| match &base.body {
            BaseBody::Set(_) => Ok(None),
            BaseBody::File(base) if header.ids_of(header.base_file(number)).is_empty() => {
                self.open(base, &files, sidecar).map(Some)
            }
            BaseBody::File(base) => self.find(base, &files),
        };
        bases.iter().enumerate().map(open).collect()
    }

    /// One that need not be here.
    fn find(&self, base: &Base, files: &[LocalFile]) -> Result<Option<PageSource>> {
        match by_content::find_base(files, base).and_then(LocalFile::as_source) {
            None if base.kind == BaseKind::Kernel && kernel::is_here(base, self.cache)? => {
                let mut nowhere = |_: &str| Err(Error::new(Kind::NotFound, "the kernel left the cache"));
                let work = (self.store.disk(), self.work);
                kernel::open(base, work, self.cache, &mut nowhere, self.env).map(Some)
            }
            found => Ok(found),
        }
    }

    fn open(&self, base: &Base, files: &[LocalFile], sidecar: OpenSidecar<'_>) -> Result<PageSource> {
        // None of its pages is needed; a frame that names one all the same is refused.
        if base.is_unused() {
            return Ok(PageSource::none(base.path.clone()));
        }
        if let Some(found) = by_content::find_base(files, base).and_then(LocalFile::as_source) {
            return Ok(found);
        }
        if base.kind == BaseKind::Kernel {
            return kernel::open(base, (self.store.disk(), self.work), self.cache, sidecar, self.env);
        }
        if let Some(found) = by_content::find_unrecorded(self.store, base, self.env)? {
            return Ok(found);
        }
        let message = format!(
            "{} is packed against '{}': a {} of {} bytes with sha256 {} is needed, and no snapshot in the store has it under any \
tag. Pull or unpack that version of '{}' first, or take the full pack",
            self.name, base.name, base.path, base.size, base.sha256, base.name
        );
        Err(Error::new(Kind::NotFound, message))
    }
}
