//! One pass over a memory image in pieces: made on all cores, hashed in order.

use crate::env::Env;
use crate::error::Result;
use crate::pipeline::buffers::Buffers;
use crate::pipeline::lanes::{self, LaneKind};
use forkd_format::{Digest, Hasher, PAGE_SIZE};
use forkd_sys::{DiskIo, next_data, next_hole};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Small enough that many workers have one each and two pools of them stay under 64 MiB.
pub(crate) const PIECE: usize = 1 << 20;

const PIECES_IN_FLIGHT: usize = 32;

const MOST_WORKERS: usize = 24;

/// Zeros that are hashed in one go: a stop is seen between two.
const ZEROS: u64 = 64 << 20;

const HASH: usize = 0;

const MAKE: usize = 1;

/// Makes a piece, with a buffer of the same length to work in; the number is the piece's offset.
pub(crate) type Work<'a> = dyn Fn(&mut [u8], &mut [u8], u64) -> Result<()> + Sync + 'a;

/// Makes `size` bytes piece by piece and gives their digest. Where `next` finds no data, the bytes are zero and no piece is made.
pub(crate) fn run(
    size: u64,
    next: &dyn Fn(u64) -> Result<Option<u64>>,
    work: &Work<'_>,
    env: Env<'_>,
) -> Result<Digest> {
    let workers = env.jobs.clamp(1, MOST_WORKERS);
    let in_flight = (2 * workers + 4).min(PIECES_IN_FLIGHT);
    let pieces = Buffers::new(in_flight, PIECE);
    let spares = Buffers::new(workers, PIECE);
    let hasher = Mutex::new(Hasher::default());
    let hash = |add: &dyn Fn(&mut Hasher)| add(&mut hasher.lock().unwrap_or_else(PoisonError::into_inner));
    lanes::run(workers, &[LaneKind::Ordered, LaneKind::Parallel], env.cancel, |lanes| {
        let (hash, spares) = (&hash, &spares);
        let (mut at, mut number) = (0, 0);
        while at < size {
            let data = next(at)?.unwrap_or(size).min(size);
            let zeros = if data == size { size - at } else { (data - at) / PIECE as u64 * PIECE as u64 };
            let len = match zeros {
                0 => (size - at).min(PIECE as u64),
                zeros => zeros.min(ZEROS),
            };
            let offset = at;
            if zeros > 0 {
                lanes.submit_ordered(HASH, number, move |_| {
                    hash(&|hasher| hasher.update_zeros(len));
                    env.progress.advance(len);
                    Ok(())
                });
            } else {
                // Handed out in order, so that the piece that is hashed next never waits for one.
                let mut piece = pieces.take(in_flight, env.cancel, || lanes.failed())?;
                lanes.submit(MAKE, move |lanes| {
                    let mut spare = spares.take(workers, env.cancel, || lanes.failed())?;
                    work(&mut piece[..len as usize], &mut spare[..len as usize], offset)?;
                    drop(spare);
                    lanes.submit_ordered(HASH, number, move |_| {
                        hash(&|hasher| hasher.update(&piece[..len as usize]));
                        env.progress.advance(len);
                        Ok(())
                    });
                    Ok(())
                });
            }
            at += len;
            number += 1;
        }
        Ok(())
    })?;
    Ok(hasher.into_inner().unwrap_or_else(PoisonError::into_inner).finish())
}

/// The parts of `from..to` that may hold data, grown to whole pages.
pub(crate) fn extents(file: &File, from: u64, to: u64) -> io::Result<Vec<Range<u64>>> {
    let page = PAGE_SIZE as u64;
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut at = from;
    while at < to {
        let Some(data) = next_data(file, at)?.filter(|data| *data < to) else { break };
        let end = next_hole(file, data)?.max(data + 1).next_multiple_of(page).min(to);
        found.push((data / page * page).max(at)..end);
        at = end;
    }
    Ok(found)
}

/// Reads a range. Holes are not read.
pub(crate) fn read(file: &File, buffer: &mut [u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    for extent in extents(file, at, at + buffer.len() as u64)? {
        let (start, end) = ((extent.start - at) as usize, (extent.end - at) as usize);
        buffer[done..start].fill(0);
        file.read_exact_at(&mut buffer[start..end], extent.start)?;
        done = end;
    }
    buffer[done..].fill(0);
    Ok(())
}

/// Writes the pages for which `wanted` says so, neighbours in one go.
pub(crate) fn write_pages(
    (disk, file, path): (&DiskIo, &File, &Path),
    bytes: &[u8],
    at: u64,
    wanted: &mut dyn FnMut(usize, &[u8]) -> bool,
) -> io::Result<()> {
    let mut run: Option<Range<usize>> = None;
    for (i, page) in bytes.chunks(PAGE_SIZE).enumerate() {
        let start = i * PAGE_SIZE;
        if wanted(i, page) {
            run = Some(run.map_or(start, |run| run.start)..start + page.len());
        } else if let Some(run) = run.take() {
            disk.write_at(file, path, &bytes[run.clone()], at + run.start as u64)?;
        }
    }
    if let Some(run) = run {
        disk.write_at(file, path, &bytes[run.clone()], at + run.start as u64)?;
    }
    forkd_sys::start_writeback(file, at, bytes.len() as u64);
    Ok(())
}
