//! Version 3: frames of pages, which refer to pages of base files and of the pack itself, and an index.

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::draft::{complete, manifest_entry};
use crate::pack::input::{InputBody, InputPiece, InputPieces, PackInput};
use crate::pack::output::{Hashes, PackOutput, PackTarget};
use crate::pack::paged::bases_written::BaseFile;
use crate::pack::paged::encode::{EncodedFrame, FrameReferences, encode};
use crate::pack::paged::needs::{Candidates, FrameNumbers, Needs, NeedsPlanner};
use crate::pack::paged::page_ref::PageRef;
use crate::pack::paged::page_source::PageSource;
use crate::pack::paged::search::Search;
use crate::pack::paged::set_written::PackSet;
use crate::pack::stream::write::{compress, compressor};
use crate::pipeline::buffers::{Buffer, Buffers};
use crate::pipeline::lanes::{self, LaneKind, Lanes};
use crate::pipeline::mutex::lock;
use crate::store::stored::StoredSnapshot;
use forkd_format::layout::END_OF_ARCHIVE;
use forkd_format::manifest::{Base, IndexEntry};
use forkd_format::paged::{
    FRAME_PAGES, FRAME_SIZE, FileFrames, Index, SKIPPABLE_HEADER, StoredFrame, WorkingSet, frame_count,
    frame_len, index_frame_header,
};
use forkd_format::{Digest, Manifest, PAGE_SIZE};
use std::sync::{Arc, Mutex, PoisonError};
use zstd::zstd_safe::compress_bound;

/// zstd's level for the working set, at least: it is small, and what everyone waits for.
const SET_LEVEL: i32 = 12;

const HASH: usize = 0;

const WRITE: usize = 1;

const NEEDS: usize = 2;

const ENCODE: usize = 3;

const FIND: usize = 4;

const LANES: [LaneKind; 5] =
    [LaneKind::Ordered, LaneKind::Ordered, LaneKind::Ordered, LaneKind::Parallel, LaneKind::Parallel];

/// What the jobs of one run share.
struct PagedWrite<'e> {
    inputs: &'e [PackInput],
    hashes: Hashes<'e>,
    written: Mutex<WriteState<'e>>,
    search: Search<'e>,
    set: PackSet,
    numbers: &'e FrameNumbers,
    planner: Mutex<NeedsPlanner<'e>>,
    /// Base files: the source number of the first input.
    own: usize,
    level: i32,
}

struct WriteState<'e> {
    output: PackOutput<'e>,
    set: FileFrames,
    files: Vec<FileFrames>,
    bases: Vec<Base>,
    numbers: &'e FrameNumbers,
    /// The place in the pack of each frame that was written, by its number.
    places: Vec<u32>,
    /// Frames that were written.
    count: u32,
}

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

/// Writes a pack; gives its size.
pub(crate) fn write(
    manifest: &mut Manifest,
    pack: PagedPack<'_>,
    target: PackTarget<'_>,
    env: Env<'_>,
) -> Result<u64> {
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
    let frames = |size: u64| FileFrames { size, frames: vec![None; frame_count(size)] };
    let files: Vec<FileFrames> = inputs.iter().map(|input| frames(input.size)).collect();
    let search = Search::build(&sources, env)?;
    let set = PackSet::of(chain, inputs, &sources, &search)?;
    let counts = inputs.iter().enumerate().map(|(i, input)| match &input.body {
        InputBody::Bytes(_) => (frame_count(input.size), frame_count(input.size)),
        InputBody::File(_) => (frame_count(input.size), search.stored(own + i)),
    });
    let index_room = Index::room_for(&set.runs, &counts.collect::<Vec<_>>());
    manifest.index = Some(IndexEntry { size: index_room as u64, sha256: Digest::of(b"") });
    for file in manifest.links.iter_mut().flat_map(|link| &mut link.files) {
        file.root = Some(files[0].root());
    }
    let room = compress_bound(manifest_entry(manifest)?.len()) + SKIPPABLE_HEADER + index_room;
    let mut named = manifest.bases.clone();
    named.iter_mut().for_each(|base| (base.copied_pages, base.similar_pages) = (0, 0));
    let numbers = FrameNumbers::new(own, inputs.iter().map(|input| input.size));
    let written = WriteState {
        output: PackOutput::new(target, room as u64),
        set: frames(set.source.size()),
        files,
        bases: named,
        places: vec![u32::MAX; numbers.count()],
        numbers: &numbers,
        count: 0,
    };
    let shared = PagedWrite {
        inputs,
        hashes: Hashes::new(inputs, env),
        written: Mutex::new(written),
        search,
        set,
        numbers: &numbers,
        planner: Mutex::new(NeedsPlanner::new(&numbers, depth)),
        own,
        level,
    };
    // High levels need tens of MiB a thread.
    let jobs = if level > 12 { env.jobs.min(2) } else { env.jobs };
    shared.run(Env { jobs, ..env })?;
    let PagedWrite { set, hashes, written, .. } = shared;
    let WriteState { output, set: frames, files, bases, .. } =
        written.into_inner().unwrap_or_else(PoisonError::into_inner);
    let set = WorkingSet { runs: set.runs, frames };
    finish(manifest, inputs, hashes.finish(), PackEnd { output, set, files, bases, room, level })
}

struct PackEnd<'e> {
    output: PackOutput<'e>,
    set: WorkingSet,
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
    let PackEnd { mut output, set, files, bases, room, level } = finished;
    let data_len = output.at - room as u64;
    let mut end = vec![0; compress_bound(END_OF_ARCHIVE.len())];
    let len = compress(&mut compressor(level)?, &END_OF_ARCHIVE, &mut end)?;
    output.append(&end[..len])?;
    manifest.bases = bases;
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
    Ok(output.at)
}

/// A file of the pack as others of it refer to it; a description is no page of anything.
fn as_source(input: &PackInput) -> Result<PageSource> {
    match &input.body {
        InputBody::Bytes(_) => Ok(PageSource::none(input.path.clone())),
        InputBody::File(file) => {
            let file = file.try_clone().map_err(Error::io("open", &input.path))?;
            Ok(PageSource::file(file, input.path.clone(), input.size))
        }
    }
}

/// A frame that is to be encoded.
#[derive(Clone, Copy)]
struct FrameTask {
    /// The file, or the working set.
    place: FramePlace,
    /// Its number in that.
    frame: usize,
    len: usize,
    /// Its place in the order in which frames are written.
    number: u64,
}

#[derive(Clone, Copy)]
enum FramePlace {
    Set,
    File(usize),
}

impl<'e> PagedWrite<'e> {
    fn run(&self, env: Env<'_>) -> Result<()> {
        let buffers = Buffers::new(4 * env.jobs + 8, FRAME_SIZE);
        lanes::run(env.jobs, &LANES, env.cancel, |lanes| {
            let mut number = 0;
            let take = |lanes: &Lanes<'_>| buffers.take(usize::MAX, env.cancel, || lanes.failed());
            for frame in 0..frame_count(self.set.source.size()) {
                let Ok(mut buffer) = take(lanes) else { return env.cancel.check() };
                let len = frame_len(self.set.source.size(), frame);
                let task = FrameTask { place: FramePlace::Set, frame, len, number };
                lanes.submit_ordered(HASH, number, |_| Ok(()));
                lanes.submit(FIND, move |lanes| {
                    self.set.source.read((frame * FRAME_PAGES) as u64, &mut buffer[..len])?;
                    self.find(lanes, task, Arc::new(buffer));
                    Ok(())
                });
                number += 1;
            }
            for (i, input) in self.inputs.iter().enumerate() {
                let mut parts = InputPieces::new(i, input, FRAME_SIZE);
                while let Some(part) = parts.next().map_err(Error::io("read", &input.path))? {
                    if part.hole {
                        lanes.submit_ordered(HASH, number, move |_| self.hashes.add(part, None));
                        lanes.submit_ordered(NEEDS, number, |_| Ok(()));
                        lanes.submit_ordered(WRITE, number, |_| Ok(()));
                    } else {
                        let Ok(buffer) = take(lanes) else { return env.cancel.check() };
                        lanes.submit(FIND, move |lanes| self.part(lanes, part, buffer, number));
                    }
                    number += 1;
                }
            }
            Ok(())
        })
    }

    fn part<'s>(
        &'s self,
        lanes: &Lanes<'s>,
        part: InputPiece,
        mut buffer: Buffer,
        number: u64,
    ) -> Result<()> {
        self.inputs[part.input].read(part, &mut buffer)?;
        let raw = Arc::new(buffer);
        let hashed = Arc::clone(&raw);
        lanes.submit_ordered(HASH, number, move |_| self.hashes.add(part, Some(&hashed[..part.len])));
        let frame = (part.offset / FRAME_SIZE as u64) as usize;
        let task = FrameTask { place: FramePlace::File(part.input), frame, len: part.len, number };
        self.find(lanes, task, raw);
        Ok(())
    }

    /// Finds what the frame's pages are like, then what the frame may need, then encodes it.
    fn find<'s>(&'s self, lanes: &Lanes<'s>, task: FrameTask, raw: Arc<Buffer>) {
        let first = (task.frame * FRAME_PAGES) as u64;
        let place = |found: PageRef| {
            if found.source < self.own {
                return Some(found);
            }
            let in_set = self.set.replace(found, self.own);
            match task.place {
                FramePlace::Set => in_set.filter(|page| page.page < first),
                FramePlace::File(file) => in_set.or_else(|| {
                    let source = self.own + file;
                    let before = found.source < source || (found.source == source && found.page < first);
                    before.then_some(found)
                }),
            }
        };
        let candidates = Candidates::find(&raw[..task.len], &self.search, place);
        lanes.submit_ordered(NEEDS, task.number, move |lanes| {
            let needs = match task.place {
                FramePlace::Set => Needs::none(self.numbers),
                FramePlace::File(file) => {
                    lock(&self.planner).choose(self.numbers.of(file, task.frame), &candidates)
                }
            };
            lanes.submit(ENCODE, move |lanes| self.encode(lanes, task, &raw, (&candidates, &needs)));
            Ok(())
        });
    }

    fn encode<'s>(
        &'s self,
        lanes: &Lanes<'s>,
        task: FrameTask,
        raw: &[u8],
        (candidates, needs): (&Candidates, &Needs<'_>),
    ) -> Result<()> {
        let first = (task.frame * FRAME_PAGES) as u64;
        let pages = first..first + (task.len / PAGE_SIZE) as u64;
        let (set_pages, in_set, level) = match task.place {
            FramePlace::Set => (first, Vec::new(), self.level.max(SET_LEVEL)),
            FramePlace::File(file) => (
                self.set.source.pages(),
                pages.map(|page| self.set.places.find(file, page)).collect(),
                self.level,
            ),
        };
        let known =
            FrameReferences { candidates, needs, search: &self.search, set: &self.set, set_pages, in_set };
        let encoded = encode(&raw[..task.len], &known, level)?;
        lanes.submit_ordered(WRITE, task.number, move |_| {
            encoded.map_or(Ok(()), |encoded| lock(&self.written).frame(task, &encoded))
        });
        Ok(())
    }
}

impl WriteState<'_> {
    fn frame(&mut self, task: FrameTask, encoded: &EncodedFrame) -> Result<()> {
        let offset = self.output.at;
        self.output.append(&encoded.bytes)?;
        let mut needs: Vec<u32> = Vec::new();
        for (run, similar) in encoded.plan.references() {
            if let Some(base) = self.bases.get_mut(run.source) {
                let pages = if similar { &mut base.similar_pages } else { &mut base.copied_pages };
                *pages += run.count as u64;
            }
            let ends = [run.page, run.page + run.count as u64 - 1];
            let ends = ends.map(|page| self.numbers.of_page(PageRef { source: run.source, page }));
            if let [Some(from), Some(to)] = ends {
                needs.extend((from..=to).map(|frame| self.places[frame as usize]));
            }
        }
        // Pages of zeros may be named, and are in no frame.
        needs.retain(|place| *place != u32::MAX);
        needs.sort_unstable();
        needs.dedup();
        let (hash, sum, len) = (encoded.hash, encoded.sum, encoded.bytes.len() as u32);
        let stored = Some(StoredFrame { hash, sum, offset, len, needs: needs.into() });
        match task.place {
            FramePlace::Set => self.set.frames[task.frame] = stored,
            FramePlace::File(file) => {
                self.files[file].frames[task.frame] = stored;
                self.places[self.numbers.of(file, task.frame) as usize] = self.count;
            }
        }
        self.count += 1;
        Ok(())
    }
}
