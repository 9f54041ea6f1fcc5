//! From files to frames of pages, which refer to pages of other files: cut, compared, encoded on all cores, written in order.

use crate::env::Env;
use crate::error::{Error, Result};
use crate::pack::input::{InputBody, InputPiece, InputPieces, PackInput};
use crate::pack::output::Hashes;
use crate::pack::paged::encode::{EncodedFrame, FrameReferences, encode};
use crate::pack::paged::needs::{Candidates, FrameNumbers, Needs, NeedsPlanner};
use crate::pack::paged::page_ref::PageRef;
use crate::pack::paged::page_source::PageSource;
use crate::pack::paged::search::Search;
use crate::pack::paged::set_written::PackSet;
use crate::pipeline::buffers::{Buffer, Buffers};
use crate::pipeline::lanes::{self, LaneKind, Lanes};
use crate::pipeline::mutex::lock;
use forkd_format::Digest;
use forkd_format::PAGE_SIZE;
use forkd_format::paged::{FRAME_PAGES, FRAME_SIZE, FileFrames, StoredFrame, frame_count, frame_len};
use std::sync::{Arc, Mutex, PoisonError};

/// zstd's level for the working set, at least: it is small, and what everyone waits for.
const SET_LEVEL: i32 = 12;

/// And for frames that refer to files that were written earlier.
const DELTA_LEVEL: i32 = 9;

const HASH: usize = 0;

const WRITE: usize = 1;

const NEEDS: usize = 2;

const ENCODE: usize = 3;

const FIND: usize = 4;

const LANES: [LaneKind; 5] =
    [LaneKind::Ordered, LaneKind::Ordered, LaneKind::Ordered, LaneKind::Parallel, LaneKind::Parallel];

/// The file of which a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FramePlace {
    Set,
    /// By its number among the inputs.
    File(usize),
}

/// Where frames go, each behind the one before it of the same file.
pub(crate) trait FrameSink: Send {
    /// Appends a frame; says where it begins.
    fn append(&mut self, place: FramePlace, bytes: &[u8]) -> Result<u64>;
}

/// What frames may refer to.
pub(crate) trait Reach: Sync {
    /// Where a page that was found is referred to by a frame, if it may be.
    fn place(&self, set: &PackSet, of: FramePlace, first_page: u64, found: PageRef) -> Option<PageRef>;

    /// The number that the planner has for a frame; `None` where no other frame has to name it.
    fn number(&self, of: FramePlace, frame: usize) -> Option<u32>;
}

/// What is cut into frames, and how.
pub(crate) struct FrameWrite<'e> {
    pub(crate) inputs: &'e [PackInput],
    pub(crate) search: Search<'e>,
    pub(crate) set: PackSet,
    pub(crate) numbers: &'e FrameNumbers,
    pub(crate) planner: NeedsPlanner<'e>,
    pub(crate) reach: &'e dyn Reach,
    /// How many sources come before the inputs.
    pub(crate) own: usize,
    /// zstd's.
    pub(crate) level: i32,
}

/// Frames that were written. What they need is by the planner's numbers.
pub(crate) struct WrittenFrames<S> {
    pub(crate) sink: S,
    pub(crate) set: PackSet,
    pub(crate) set_frames: FileFrames,
    pub(crate) files: Vec<FileFrames>,
    /// SHA-256 of each input.
    pub(crate) digests: Vec<Digest>,
    /// How often the frames of the set and then of each file refer to each source.
    pub(crate) used: Vec<Vec<PageCount>>,
}

/// Pages of a source that frames refer to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PageCount {
    pub(crate) copied: u64,
    pub(crate) similar: u64,
}

/// What the jobs of one run share.
struct SharedWrite<'e, S> {
    inputs: &'e [PackInput],
    hashes: Hashes<'e>,
    search: Search<'e>,
    set: PackSet,
    numbers: &'e FrameNumbers,
    planner: Mutex<NeedsPlanner<'e>>,
    reach: &'e dyn Reach,
    own: usize,
    level: i32,
    written: Mutex<WriteState<'e, S>>,
}

struct WriteState<'e, S> {
    sink: S,
    numbers: &'e FrameNumbers,
    set: FileFrames,
    files: Vec<FileFrames>,
    used: Vec<Vec<PageCount>>,
}

/// Writes the frames of the working set, then those of the inputs in their order.
pub(crate) fn write_frames<S: FrameSink>(
    write: FrameWrite<'_>,
    sink: S,
    env: Env<'_>,
) -> Result<WrittenFrames<S>> {
    let FrameWrite { inputs, search, set, numbers, planner, reach, own, level } = write;
    let frames = |size: u64| FileFrames { size, frames: vec![None; frame_count(size)] };
    let sources = own + inputs.len() + 1;
    let written = WriteState {
        sink,
        numbers,
        set: frames(set.source.size()),
        files: inputs.iter().map(|input| frames(input.size)).collect(),
        used: vec![vec![PageCount::default(); sources]; inputs.len() + 1],
    };
    let shared = SharedWrite {
        inputs,
        hashes: Hashes::new(inputs, env),
        search,
        set,
        numbers,
        planner: Mutex::new(planner),
        reach,
        own,
        level,
        written: Mutex::new(written),
    };
    // High levels need tens of MiB a thread.
    let jobs = if level > 12 { env.jobs.min(2) } else { env.jobs };
    shared.run(Env { jobs, ..env })?;
    let SharedWrite { set, hashes, written, .. } = shared;
    let WriteState { sink, set: set_frames, files, used, .. } =
        written.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(WrittenFrames { sink, set, set_frames, files, digests: hashes.finish(), used })
}

/// An input as others of it refer to it; a description is no page of anything.
pub(crate) fn as_source(input: &PackInput) -> Result<PageSource> {
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

impl<'e, S: FrameSink> SharedWrite<'e, S> {
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
        let place = |found: PageRef| self.reach.place(&self.set, task.place, first, found);
        let candidates = Candidates::find(&raw[..task.len], &self.search, place);
        lanes.submit_ordered(NEEDS, task.number, move |lanes| {
            let needs = match self.reach.number(task.place, task.frame) {
                None => Needs::none(self.numbers),
                Some(number) => {
                    let of_set = self.set_pages(task).into_iter().flatten();
                    let of_set = of_set.map(|page| PageRef { source: self.set.number, page });
                    lock(&self.planner).choose(number, of_set, &candidates)
                }
            };
            lanes.submit(ENCODE, move |lanes| self.encode(lanes, task, &raw, (&candidates, &needs)));
            Ok(())
        });
    }

    /// Which page of the set each page of a frame of a file is.
    fn set_pages(&self, task: FrameTask) -> Vec<Option<u64>> {
        let FramePlace::File(file) = task.place else { return Vec::new() };
        let first = (task.frame * FRAME_PAGES) as u64;
        let pages = first..first + (task.len / PAGE_SIZE) as u64;
        pages.map(|page| self.set.find(PageRef { source: self.own + file, page })).collect()
    }

    fn encode<'s>(
        &'s self,
        lanes: &Lanes<'s>,
        task: FrameTask,
        raw: &[u8],
        (candidates, needs): (&Candidates, &Needs<'_>),
    ) -> Result<()> {
        let (set_pages, level) = match task.place {
            FramePlace::Set => ((task.frame * FRAME_PAGES) as u64, self.level.max(SET_LEVEL)),
            // Little is left of it, and that is sent to everybody: worth more work. Measured: a tenth more time for a sixth less.
            FramePlace::File(_) if needs.is_delta => (self.set.source.pages(), self.level.max(DELTA_LEVEL)),
            FramePlace::File(_) => (self.set.source.pages(), self.level),
        };
        let in_set = self.set_pages(task);
        let known =
            FrameReferences { candidates, needs, search: &self.search, set: &self.set, set_pages, in_set };
        let encoded = encode(&raw[..task.len], &known, level)?;
        lanes.submit_ordered(WRITE, task.number, move |_| {
            encoded.map_or(Ok(()), |encoded| lock(&self.written).frame(task, &encoded))
        });
        Ok(())
    }
}

impl<S: FrameSink> WriteState<'_, S> {
    fn frame(&mut self, task: FrameTask, encoded: &EncodedFrame) -> Result<()> {
        let offset = self.sink.append(task.place, &encoded.bytes)?;
        let (of, table) = match task.place {
            FramePlace::Set => (0, &mut self.set),
            FramePlace::File(file) => (file + 1, &mut self.files[file]),
        };
        let mut needs: Vec<u32> = Vec::new();
        for (run, similar) in encoded.plan.references() {
            let used = &mut self.used[of][run.source];
            *if similar { &mut used.similar } else { &mut used.copied } += run.count as u64;
            let ends = [run.page, run.page + run.count as u64 - 1];
            let ends = ends.map(|page| self.numbers.of_page(PageRef { source: run.source, page }));
            if let [Some(from), Some(to)] = ends {
                needs.extend(from..=to);
            }
        }
        needs.sort_unstable();
        needs.dedup();
        let (hash, sum, len) = (encoded.hash, encoded.sum, encoded.bytes.len() as u32);
        table.frames[task.frame] = Some(StoredFrame { hash, sum, offset, len, needs: needs.into() });
        Ok(())
    }
}
