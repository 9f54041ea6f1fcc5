use crate::chain::pieces::{self, extents};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use forkd_format::{Digest, PAGE_SIZE};
use forkd_sys::{DiskIo, is_zero, next_data};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What a link holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkPages {
    /// Pages that differ from the parent's and are not all zero.
    pub(crate) changed: u64,
    /// Pages that are all zero and the parent's are not, as runs: for `zero_pages` in `snapshot.json`.
    pub(crate) zeroed: Vec<(u64, u64)>,
    /// The digest of the child's whole memory.
    pub(crate) sha256_full: Digest,
}

/// Compares a child's whole memory with its parent's and writes the pages that changed into a new sparse file of the same length.
/// The file is neither sealed nor synced. Whether `snapshot.json` can hold the list of zero pages is for the caller to see.
///
/// # Errors
/// What the disk says; [`Kind::General`] where the two differ in size.
pub(crate) fn write_link(
    base: &File,
    full: &File,
    out: &Path,
    disk: &DiskIo,
    env: Env<'_>,
) -> Result<LinkPages> {
    let reading = || Error::io("read the memory for", out);
    let writing = || Error::io("write", out);
    let size = full.metadata().map_err(reading())?.len();
    let parent = base.metadata().map_err(reading())?.len();
    if size != parent {
        let message = format!("the memory has {size} bytes; that of the chain parent has {parent}");
        return Err(Error::new(Kind::General, message));
    }
    let file = disk.create(out, 0o644).map_err(Error::io("create", out))?;
    disk.set_len(&file, out, size).map_err(writing())?;
    let changed = AtomicU64::new(0);
    let zeroed = Mutex::new(Vec::new());
    let compare = |piece: &mut [u8], spare: &mut [u8], at: u64| {
        pieces::read(full, piece, at).map_err(reading())?;
        pieces::read(base, spare, at).map_err(reading())?;
        if piece == spare {
            return Ok(());
        }
        let (mut count, mut zeros) = (0, Vec::new());
        let first = at / PAGE_SIZE as u64;
        let mut before = spare.chunks(PAGE_SIZE);
        let mut is_changed = |i: usize, page: &[u8]| {
            if before.next() == Some(page) {
                return false;
            }
            if is_zero(page) {
                push(&mut zeros, (first + i as u64, 1));
                return false;
            }
            count += 1;
            true
        };
        pieces::write_pages((disk, &file, out), piece, at, &mut is_changed).map_err(writing())?;
        changed.fetch_add(count, Ordering::Relaxed);
        zeroed.lock().unwrap_or_else(PoisonError::into_inner).extend(zeros);
        Ok(())
    };
    let next = |at| earliest(&[base, full], at).map_err(reading());
    env.progress.start("comparing", Some(size));
    let sha256_full = pieces::run(size, &next, &compare, env);
    env.progress.finish();
    let zeroed = joined(zeroed.into_inner().unwrap_or_else(PoisonError::into_inner));
    Ok(LinkPages { changed: changed.into_inner(), zeroed, sha256_full: sha256_full? })
}

/// The first byte at or after `at` that any of the files holds as data.
pub(crate) fn earliest(files: &[&File], at: u64) -> io::Result<Option<u64>> {
    let mut found: Option<u64> = None;
    for file in files {
        found = match (found, next_data(file, at)?) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    Ok(found)
}

/// Appends a run, as part of the last one where it follows directly.
fn push(runs: &mut Vec<(u64, u64)>, (first, count): (u64, u64)) {
    match runs.last_mut() {
        Some(last) if last.0 + last.1 == first => last.1 += count,
        _ => runs.push((first, count)),
    }
}

fn joined(mut runs: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    runs.sort_unstable();
    let mut found = Vec::with_capacity(runs.len());
    runs.into_iter().for_each(|run| push(&mut found, run));
    found
}

/// Pages that a file holds as data, zeros that are written out included.
pub(crate) fn stored_pages(file: &File, size: u64) -> io::Result<u64> {
    let pages = |extent: std::ops::Range<u64>| (extent.end - extent.start).div_ceil(PAGE_SIZE as u64);
    Ok(extents(file, 0, size)?.into_iter().map(pages).sum())
}
