//! What this host has of a paged pack before any of it is fetched.

use crate::digest::sparse::read_data;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::paged::assemble::FrameTarget;
use crate::pack::paged::decode::Pages;
use crate::pack::paged::header::PagedHeader;
use crate::pull::landed::Landed;
use crate::store::by_content::{self, LocalBlocks};
use crate::store::root::Store;
use crate::unpack::paged::PagedFiles;
use forkd_format::Tag;
use forkd_format::paged::{FRAME_PAGES, FRAME_SIZE, frame_len};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A pull's files while they are looked through, and which frames are in them.
pub(crate) struct LocalFrames<'a> {
    pub(crate) store: &'a Store,
    pub(crate) header: &'a PagedHeader,
    pub(crate) files: &'a PagedFiles<'a>,
    pub(crate) landed: &'a Landed,
    pub(crate) env: Env<'a>,
}

impl LocalFrames<'_> {
    /// Reads what an earlier run noted again: a machine that went down may have lost it.
    pub(crate) fn check_noted(&self, noted: &[usize]) -> Result<u64> {
        let bytes = AtomicU64::new(0);
        self.each(noted, |id, pages, raw| {
            let len = self.header.len(id);
            if self.landed.has(id) || !self.files.read(id, &mut raw[..len])? {
                return Ok(());
            }
            if self.is_frame(id, pages, &raw[..len]) {
                self.landed.set(id);
                bytes.fetch_add(u64::from(self.header.stored(id).len), Ordering::Relaxed);
            }
            Ok(())
        })?;
        Ok(bytes.into_inner())
    }

    /// What has not landed must be zero where it will not be written: zeros are not.
    pub(crate) fn clear_rest(&self) -> Result<()> {
        let mut raw = vec![0; FRAME_SIZE];
        let bases = (0..self.header.bases.len()).map(|base| self.header.base_file(base));
        for file in (0..self.header.set_file()).chain(bases) {
            let table = self.header.frames_of(file);
            for number in 0..table.frames.len() {
                if self.header.id(file, number).is_some_and(|id| self.landed.has(id)) {
                    continue;
                }
                self.env.cancel.check()?;
                let in_set = self.header.set.in_frame(file, number).filter(|(_, page)| {
                    self.header
                        .id(self.header.set_file(), *page as usize / FRAME_PAGES)
                        .is_some_and(|id| self.landed.has(id))
                });
                let keep: Vec<u64> = in_set.map(|(page, _)| page).collect();
                let len = frame_len(table.size, number);
                self.files.clear(file, number, &mut raw[..len], &keep)?;
            }
        }
        Ok(())
    }

    /// Takes frames from files of the store that hold the same bytes.
    pub(crate) fn reuse(&self) -> Result<BTreeMap<Tag, u64>> {
        let here = by_content::files(self.store)?;
        let blocks = LocalBlocks::of(&here);
        // Working sets are made of pages of other files.
        let wanted = self.header.wanted(|id| self.landed.has(id));
        let is_set = |id: usize| self.header.set_pages(self.header.place(id).0).is_some();
        let wanted: Vec<usize> = wanted.into_iter().filter(|id| !is_set(*id)).collect();
        let reused: Mutex<BTreeMap<Tag, u64>> = Mutex::default();
        self.each(&wanted, |id, pages, raw| {
            let (file, number) = self.header.place(id);
            let len = self.header.len(id);
            for (local, block) in blocks.places(self.header.stored(id).sum) {
                let local = &here[*local];
                let offset = block * FRAME_SIZE as u64;
                let Some(opened) = local.open() else { continue };
                if frame_len(local.recorded.size, *block as usize) != len
                    || read_data(opened, offset, &mut raw[..len]).is_err()
                    || !self.is_frame(id, pages, &raw[..len])
                {
                    continue;
                }
                for (at, bytes) in pages.runs() {
                    self.files.write(file, number as u64 * FRAME_SIZE as u64 + at as u64, bytes)?;
                }
                self.files.landed(id)?;
                self.landed.set(id);
                if let Ok(mut reused) = reused.lock() {
                    *reused.entry(local.tag.clone()).or_default() += len as u64;
                }
                break;
            }
            Ok(())
        })?;
        Ok(reused.into_inner().unwrap_or_default())
    }

    fn is_frame(&self, id: usize, pages: &mut Pages, raw: &[u8]) -> bool {
        let bitmap = pages.take(raw);
        pages.are(self.header.stored(id), raw.len(), &bitmap)
    }

    /// Does something with each of some frames, on all cores.
    fn each(
        &self,
        ids: &[usize],
        work: impl Fn(usize, &mut Pages, &mut [u8]) -> Result<()> + Sync,
    ) -> Result<()> {
        let (next, env) = (AtomicU64::new(0), self.env);
        let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..env.jobs.clamp(1, ids.len().max(1)))
                .map(|_| {
                    scope.spawn(|| {
                        let (mut pages, mut raw) = (Pages::new(), vec![0; FRAME_SIZE]);
                        while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                            env.cancel.check()?;
                            work(*id, &mut pages, &mut raw)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            let failed = |_| Err(Error::new(Kind::General, "internal error: a reader panicked"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(failed)).collect()
        });
        outcomes.into_iter().collect()
    }
}
