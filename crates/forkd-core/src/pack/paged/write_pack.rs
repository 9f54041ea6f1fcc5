//! Version 3: frames of pages, which refer to pages of base files and of the pack itself, and an index.

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::draft::{complete, manifest_entry};
use crate::pack::input::{InputBody, PackInput};
use crate::pack::output::{PackOutput, PackSize, PackTarget};
use crate::pack::paged::bases_written::BaseFile;
use crate::pack::paged::needs::{FrameNumbers, NeedsLimit, NeedsPlanner};
use crate::pack::paged::page_ref::PageRef;
use crate::pack::paged::search::Search;
use crate::pack::paged::set_written::PackSet;
use crate::pack::paged::write::{
    FramePlace, FrameSink, FrameWrite, Reach, WrittenFrames, as_source, write_frames,
};
use crate::pack::stream::write::{compress, compressor};
use crate::store::stored::StoredSnapshot;
use forkd_format::layout::END_OF_ARCHIVE;
use forkd_format::manifest::{Base, IndexEntry};
use forkd_format::paged::{
    FileFrames, Index, MAX_NEEDS, SKIPPABLE_HEADER, WorkingSet, frame_count, index_frame_header,
};
use forkd_format::{Digest, Manifest};
use zstd::zstd_safe::compress_bound;

/// What is packed, and how.
pub(crate) struct PagedPack<'e> {
    pub(crate) chain: &'e [StoredSnapshot],
    pub(crate) inputs: &'e [PackInput],
    pub(crate) bases: Vec<BaseFile>,
    /// zstd's.
    pub(crate) level: i32,
    /// How deep frames may need each other.
    pub(crate) depth: u8,
}

/// Writes a pack.
pub(crate) fn write(
    manifest: &mut Manifest,
    pack: PagedPack<'_>,
    target: PackTarget<'_>,
    env: Env<'_>,
) -> Result<PackSize> {
    let PagedPack { chain, inputs, bases, level, depth } = pack;
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
    let search = Search::build(&sources, env)?;
    let place = |link: usize, name: &str| {
        let index = chain[link].bodies().iter().position(|(body, _)| *body == name)? + 1;
        let input = inputs.iter().position(|input| input.link == link && input.index == index)?;
        Some(own + input)
    };
    let set = PackSet::of(chain, own, &place, &search)?;
    let counts = inputs.iter().enumerate().map(|(i, input)| match &input.body {
        InputBody::Bytes(_) => (frame_count(input.size), frame_count(input.size)),
        InputBody::File(_) => (frame_count(input.size), search.stored(own + i)),
    });
    let index_room = Index::room_for(&set.runs, &counts.collect::<Vec<_>>());
    manifest.index = Some(IndexEntry { size: index_room as u64, sha256: Digest::of(b"") });
    for file in manifest.links.iter_mut().flat_map(|link| &mut link.files) {
        file.root = Some(FileFrames { size: 0, frames: Vec::new() }.root());
    }
    let room = compress_bound(manifest_entry(manifest)?.len()) + SKIPPABLE_HEADER + index_room;
    let numbers = FrameNumbers::new(own, inputs.iter().map(|input| input.size));
    let write = FrameWrite {
        inputs,
        search,
        set,
        numbers: &numbers,
        planner: NeedsPlanner::new(
            &numbers,
            NeedsLimit { depth, needs: MAX_NEEDS, average: Some(Index::NEEDS_A_FRAME) },
        ),
        reach: &PackReach { own, numbers: &numbers },
        own,
        level,
    };
    let written = write_frames(write, PackSink(PackOutput::new(target, room as u64)), env)?;
    let WrittenFrames { sink, set, mut set_frames, mut files, digests, used } = written;
    for (number, base) in manifest.bases.iter_mut().enumerate() {
        base.copied_pages = used.iter().map(|of| of[number].copied).sum();
        base.similar_pages = used.iter().map(|of| of[number].similar).sum();
    }
    let mut places = vec![None; numbers.count()];
    let mut next = set_frames.frames.iter().flatten().count() as u32;
    for (file, table) in files.iter().enumerate() {
        for (frame, _) in table.frames.iter().enumerate().filter(|(_, frame)| frame.is_some()) {
            places[numbers.of(file, frame) as usize] = Some(next);
            next += 1;
        }
    }
    // Pages of zeros may be named, and are in no frame.
    for frame in files.iter_mut().chain([&mut set_frames]).flat_map(|table| &mut table.frames).flatten() {
        frame.needs = frame.needs.iter().filter_map(|number| places[*number as usize]).collect();
    }
    let set = WorkingSet { runs: set.runs, frames: set_frames };
    finish(manifest, inputs, digests, PackEnd { output: sink.0, set, files, room, level })
}

/// All frames one behind the other.
struct PackSink<'e>(PackOutput<'e>);

impl FrameSink for PackSink<'_> {
    fn append(&mut self, _: FramePlace, bytes: &[u8]) -> Result<u64> {
        let offset = self.0.at;
        self.0.append(bytes)?;
        Ok(offset)
    }
}

/// Bases are at hand before any frame is read, and the working set before any of a file.
struct PackReach<'e> {
    own: usize,
    numbers: &'e FrameNumbers,
}

impl Reach for PackReach<'_> {
    fn place(&self, set: &PackSet, of: FramePlace, first_page: u64, found: PageRef) -> Option<PageRef> {
        if found.source < self.own {
            return Some(found);
        }
        let in_set = set.find(found).map(|page| PageRef { source: set.number, page });
        match of {
            FramePlace::Set => in_set.filter(|page| page.page < first_page),
            FramePlace::File(file) => in_set.or_else(|| {
                let source = self.own + file;
                let before = found.source < source || (found.source == source && found.page < first_page);
                before.then_some(found)
            }),
        }
    }

    fn number(&self, of: FramePlace, frame: usize) -> Option<u32> {
        match of {
            FramePlace::Set => None,
            FramePlace::File(file) => Some(self.numbers.of(file, frame)),
        }
    }
}

struct PackEnd<'e> {
    output: PackOutput<'e>,
    set: WorkingSet,
    files: Vec<FileFrames>,
    room: usize,
    level: i32,
}

/// Writes the end of the pack, then its head, which only now is known.
fn finish(
    manifest: &mut Manifest,
    inputs: &[PackInput],
    digests: Vec<Digest>,
    finished: PackEnd<'_>,
) -> Result<PackSize> {
    let PackEnd { mut output, set, files, room, level } = finished;
    let data_len = output.at - room as u64;
    let mut end = vec![0; compress_bound(END_OF_ARCHIVE.len())];
    let len = compress(&mut compressor(level)?, &END_OF_ARCHIVE, &mut end)?;
    output.append(&end[..len])?;
    for (input, frames) in inputs.iter().zip(&files) {
        manifest.links[input.link].files[input.index].root = Some(frames.root());
    }
    let index = Index { header_len: room as u64, data_len, set, files }.to_bytes();
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
    Ok(PackSize { size: output.at, header_bytes: Some(room as u64) })
}
