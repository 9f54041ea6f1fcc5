//! Version 3: frames of pages, which refer to pages of base files and of the pack itself, and an index.

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::draft::{complete, manifest_entry};
use crate::pack::input::{InputBody, InputPiece, InputPieces, PackInput};
use crate::pack::output::{Hashes, PackOutput, PackTarget};
use crate::pack::paged::bases_written::BaseFile;
use crate::pack::paged::encode::{EncodedFrame, PagePlace, encode};
use crate::pack::paged::page_source::PageSource;
use crate::pack::paged::search::Search;
use crate::pack::stream::write::{compress, compressor};
use crate::pipeline::buffers::{Buffer, Buffers};
use crate::pipeline::lanes::{self, LaneKind, Lanes};
use crate::pipeline::mutex::lock;
use forkd_format::layout::END_OF_ARCHIVE;
use forkd_format::manifest::{Base, IndexEntry};
use forkd_format::paged::{
    FRAME_PAGES, FRAME_SIZE, FileFrames, Index, SKIPPABLE_HEADER, StoredFrame, frame_count,
    index_frame_header,
};
use forkd_format::{Digest, Manifest};
use std::sync::{Arc, Mutex, PoisonError};
use zstd::zstd_safe::compress_bound;

const HASH: usize = 0;

const WRITE: usize = 1;

const ENCODE: usize = 2;

const LANES: [LaneKind; 3] = [LaneKind::Ordered, LaneKind::Ordered, LaneKind::Parallel];

/// What the jobs of one run share.
struct PagedWrite<'e> {
    inputs: &'e [PackInput],
    hashes: Hashes<'e>,
    written: Mutex<WriteState<'e>>,
    search: Search<'e>,
    /// Base files: the source number of the first input.
    own: usize,
    level: i32,
}

struct WriteState<'e> {
    output: PackOutput<'e>,
    files: Vec<FileFrames>,
    bases: Vec<Base>,
}

/// Writes a pack; gives its size.
pub(crate) fn write(
    manifest: &mut Manifest,
    inputs: &[PackInput],
    bases: Vec<BaseFile>,
    level: i32,
    target: PackTarget<'_>,
    env: Env<'_>,
) -> Result<u64> {
    let own = bases.len();
    let mut sources = Vec::with_capacity(own + inputs.len());
    for base in bases {
        // As long as they will ever be: room is kept for the manifest before anything is known.
        manifest.bases.push(Base {
            copied_pages: u64::from(u32::MAX),
            similar_pages: u64::from(u32::MAX),
            ..base.base
        });
        sources.push(base.file);
    }
    for input in inputs {
        sources.push(as_source(input)?);
    }
    let files: Vec<FileFrames> = inputs
        .iter()
        .map(|input| FileFrames { size: input.size, frames: vec![None; frame_count(input.size)] })
        .collect();
    let search = Search::build(&sources, env)?;
    let counts = inputs.iter().enumerate().map(|(i, input)| match &input.body {
        InputBody::Bytes(_) => (frame_count(input.size), frame_count(input.size)),
        InputBody::File(_) => (frame_count(input.size), search.frames(own + i)),
    });
    let index_room = Index::len_for(&counts.collect::<Vec<_>>());
    manifest.index = Some(IndexEntry { size: index_room as u64, sha256: Digest::of(b"") });
    for file in manifest.links.iter_mut().flat_map(|link| &mut link.files) {
        file.root = Some(files[0].root());
    }
    let room = compress_bound(manifest_entry(manifest)?.len()) + SKIPPABLE_HEADER + index_room;
    let mut named = manifest.bases.clone();
    named.iter_mut().for_each(|base| (base.copied_pages, base.similar_pages) = (0, 0));
    let written = WriteState { output: PackOutput::new(target, room as u64), files, bases: named };
    let shared = PagedWrite {
        inputs,
        hashes: Hashes::new(inputs, env),
        written: Mutex::new(written),
        search,
        own,
        level,
    };
    // High levels need tens of MiB a thread.
    let jobs = if level > 12 { env.jobs.min(2) } else { env.jobs };
    let buffers = Buffers::new(4 * jobs + 8, FRAME_SIZE);
    lanes::run(jobs, &LANES, env.cancel, |lanes| {
        let shared = &shared;
        let mut number = 0;
        for (i, input) in inputs.iter().enumerate() {
            let mut parts = InputPieces::new(i, input, FRAME_SIZE);
            while let Some(part) = parts.next().map_err(Error::io("read", &input.path))? {
                if part.hole {
                    lanes.submit_ordered(HASH, number, move |_| shared.hashes.add(part, None));
                    lanes.submit_ordered(WRITE, number, |_| Ok(()));
                } else {
                    let Ok(buffer) = buffers.take(usize::MAX, env.cancel, || lanes.failed()) else {
                        return env.cancel.check();
                    };
                    lanes.submit(ENCODE, move |lanes| shared.part(lanes, part, buffer, number));
                }
                number += 1;
            }
        }
        Ok(())
    })?;
    let WriteState { output, files, bases } =
        shared.written.into_inner().unwrap_or_else(PoisonError::into_inner);
    finish(manifest, inputs, shared.hashes.finish(), PackEnd { output, files, bases, room, level })
}

struct PackEnd<'e> {
    output: PackOutput<'e>,
    files: Vec<FileFrames>,
    bases: Vec<Base>,
    room: usize,
    level: i32,
}

/// Writes the end of the pack, then its head, which only now is known.
fn finish(
    manifest: &mut Manifest,
    inputs: &[PackInput],
    digests: Vec<Digest>,
    finished: PackEnd<'_>,
) -> Result<u64> {
    let PackEnd { mut output, files, bases, room, level } = finished;
    let data_len = output.at - room as u64;
    let mut end = vec![0; compress_bound(END_OF_ARCHIVE.len())];
    let len = compress(&mut compressor(level)?, &END_OF_ARCHIVE, &mut end)?;
    output.append(&end[..len])?;
    manifest.bases = bases;
    for (input, frames) in inputs.iter().zip(&files) {
        manifest.links[input.link].files[input.index].root = Some(frames.root());
    }
    let index = Index { header_len: room as u64, data_len, files }.to_bytes();
    manifest.index = Some(IndexEntry { size: index.len() as u64, sha256: Digest::of(&index) });
    complete(manifest, inputs, digests)?;
    let mut front = vec![0; room];
    let len = compress(&mut compressor(level)?, &manifest_entry(manifest)?, &mut front)?;
    let rest = room.checked_sub(len + SKIPPABLE_HEADER).filter(|rest| *rest >= index.len());
    let rest = rest.ok_or_else(|| {
        Error::new(Kind::General, format!("the files of '{}' changed while they were packed", manifest.tag))
    })?;
    front[len..len + SKIPPABLE_HEADER].copy_from_slice(&index_frame_header(rest as u32));
    front[len + SKIPPABLE_HEADER..][..index.len()].copy_from_slice(&index);
    front[len + SKIPPABLE_HEADER + index.len()..].fill(0);
    output.write_front(&front)?;
    Ok(output.at)
}

/// A file of the pack as others of it refer to it; a description is no page of anything.
fn as_source(input: &PackInput) -> Result<PageSource> {
    let file = match &input.body {
        InputBody::Bytes(_) => None,
        InputBody::File(file) => Some(file.try_clone().map_err(Error::io("open", &input.path))?),
    };
    let size = if file.is_some() { input.size } else { 0 };
    Ok(PageSource { file, path: input.path.clone(), size })
}

impl PagedWrite<'_> {
    fn part<'s>(
        &'s self,
        lanes: &Lanes<'s>,
        part: InputPiece,
        mut buffer: Buffer,
        number: u64,
    ) -> Result<()> {
        self.inputs[part.input].read(part, &mut buffer)?;
        let raw = Arc::new(buffer);
        let shared_raw = Arc::clone(&raw);
        lanes.submit_ordered(HASH, number, move |_| self.hashes.add(part, Some(&shared_raw[..part.len])));
        let frame = (part.offset / FRAME_SIZE as u64) as usize;
        let place = PagePlace { source: self.own + part.input, page: (frame * FRAME_PAGES) as u64 };
        let encoded = encode(&raw[..part.len], place, self.own, &self.search, self.level)?;
        drop(raw);
        lanes.submit_ordered(WRITE, number, move |_| {
            encoded.map_or(Ok(()), |encoded| lock(&self.written).frame(part.input, frame, &encoded))
        });
        Ok(())
    }
}

impl WriteState<'_> {
    fn frame(&mut self, file: usize, number: usize, encoded: &EncodedFrame) -> Result<()> {
        let offset = self.output.at;
        self.output.append(&encoded.bytes)?;
        let (hash, sum, len) = (encoded.hash, encoded.sum, encoded.bytes.len() as u32);
        self.files[file].frames[number] = Some(StoredFrame { hash, sum, offset, len });
        for (run, similar) in encoded.plan.references() {
            if let Some(base) = self.bases.get_mut(run.source) {
                let pages = if similar { &mut base.similar_pages } else { &mut base.copied_pages };
                *pages += run.count as u64;
            }
        }
        Ok(())
    }
}
