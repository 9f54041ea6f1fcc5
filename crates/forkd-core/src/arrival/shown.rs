//! The files of a snapshot as a machine sees them, and what of a pack they are made from.

use crate::error::{Error, Result};
use crate::pack::paged::header::PagedHeader;
use forkd_format::PAGE_SIZE;
use forkd_format::paged::FRAME_PAGES;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A shown file.
pub(crate) enum ShownBody {
    Text(Vec<u8>),
    /// A file of the pack.
    File(usize),
    /// The memory of a chain: its links' files from the head down, and the pages that each says are zero.
    Chain(Vec<(usize, Vec<(u64, u64)>)>),
}

/// The files of a pack as far as they are here.
pub(crate) struct PackFiles {
    pub(crate) header: Arc<PagedHeader>,
    /// In the manifest's order; descriptions are none.
    pub(crate) files: Vec<Option<File>>,
}

impl PackFiles {
    /// Whether a page is here: in a frame that has landed, in the working set, or known to be zero. Else the frame that has it.
    fn page(&self, landed: &[bool], file: usize, page: u64) -> std::result::Result<(), usize> {
        let Some(id) = self.header.id(file, page as usize / FRAME_PAGES) else { return Ok(()) };
        if landed[id] {
            return Ok(());
        }
        let in_set = self.header.set.find(file, page).is_some_and(|number| {
            self.header.id(self.header.set_file(), number as usize / FRAME_PAGES).is_some_and(|id| landed[id])
        });
        if in_set { Ok(()) } else { Err(id) }
    }

    fn read_at(&self, file: usize, bytes: &mut [u8], offset: u64) -> Result<()> {
        let gone =
            || Error::new(crate::error::Kind::General, "internal error: a file that is not there is shown");
        let opened = self.files[file].as_ref().ok_or_else(gone)?;
        opened.read_exact_at(bytes, offset).map_err(Error::io("read", std::path::Path::new("a shown file")))
    }

    /// The frames that must come before a part of a shown file can be read. `read` gets the bytes, where none must.
    pub(crate) fn read(
        &self,
        landed: &[bool],
        body: &ShownBody,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<BTreeSet<usize>> {
        let mut missing = BTreeSet::new();
        let page_size = PAGE_SIZE as u64;
        let pages = offset / page_size..(offset + bytes.len() as u64).div_ceil(page_size);
        match body {
            ShownBody::Text(text) => {
                bytes.copy_from_slice(&text[offset as usize..][..bytes.len()]);
            }
            ShownBody::File(file) => {
                missing.extend(pages.filter_map(|page| self.page(landed, *file, page).err()));
                if missing.is_empty() {
                    self.read_at(*file, bytes, offset)?;
                }
            }
            ShownBody::Chain(links) => {
                for page in pages {
                    let begin = (page * page_size).max(offset);
                    let end = ((page + 1) * page_size).min(offset + bytes.len() as u64);
                    let part = &mut bytes[(begin - offset) as usize..(end - offset) as usize];
                    if let Some(id) = self.chained(landed, links, page, (begin, part))? {
                        missing.insert(id);
                    }
                }
            }
        }
        Ok(missing)
    }

    /// Reads a part of a page of a chain's memory; gives the frame that must come first, if one must.
    fn chained(
        &self,
        landed: &[bool],
        links: &[(usize, Vec<(u64, u64)>)],
        page: u64,
        (offset, part): (u64, &mut [u8]),
    ) -> Result<Option<usize>> {
        let mut whole = [0; PAGE_SIZE];
        for (file, zeros) in links {
            if forkd_format::is_in_runs(zeros, page) {
                break;
            }
            if let Err(id) = self.page(landed, *file, page) {
                return Ok(Some(id));
            }
            let begin = page * PAGE_SIZE as u64;
            let end = part.len() as u64 + offset;
            let len = PAGE_SIZE.min((self.header.files[*file].size - begin) as usize);
            self.read_at(*file, &mut whole[..len], begin)?;
            if !forkd_sys::is_zero(&whole) {
                part.copy_from_slice(&whole[(offset - begin) as usize..(end - begin) as usize]);
                return Ok(None);
            }
        }
        part.fill(0);
        Ok(None)
    }
}
