//! One snapshot of a chain as blobs: its files cut into frames that refer to each other, to files of its ancestors, and to bases.

use crate::env::Env;
use crate::error::{Error, Result};
use crate::pack::input::PackInput;
use crate::pack::output::{PackOutput, PackTarget};
use crate::pack::paged::needs::{FrameNumbers, NeedsLimit, NeedsPlanner};
use crate::pack::paged::page_ref::PageRef;
use crate::pack::paged::page_source::PageSource;
use crate::pack::paged::search::Search;
use crate::pack::paged::set_written::{PackSet, PlaceFile};
use crate::pack::paged::write::{
    FramePlace, FrameSink, FrameWrite, PageCount, Reach, as_source, write_frames,
};
use crate::store::stored::StoredSnapshot;
use crate::store::workdir::WorkDir;
use forkd_format::paged::{FileFrames, FileRoot, SetRun};
use forkd_format::release::{FileBlob, FileFrame, FrameRef, PagedFile};
use forkd_format::{Digest, Hasher};
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;

/// Frames of a release that we write need each other less deep than a reader allows, so that others may build on them.
const DEPTH: u8 = 40;
/// And so many others at most.
const NEEDS: usize = 64;

/// A file that others may refer to.
pub(crate) struct KnownFile {
    pub(crate) file: PagedFile,
    /// Its bytes, where they are here.
    pub(crate) source: PageSource,
}

/// What becomes blobs.
pub(crate) struct LinkWrite<'e> {
    /// The snapshot and its ancestors, root first.
    pub(crate) chain: &'e [StoredSnapshot],
    /// Its files.
    pub(crate) inputs: &'e [PackInput],
    /// Each behind those that it refers to.
    pub(crate) known: &'e [KnownFile],
    /// Which of these, or of the inputs behind them, the file of a link is.
    pub(crate) place: PlaceFile<'e>,
    /// zstd's.
    pub(crate) level: i32,
    /// Where the blobs are put, named by their digests.
    pub(crate) work: &'e WorkDir,
}

/// What was written.
pub(crate) struct LinkOutput {
    pub(crate) set: Option<PagedFile>,
    pub(crate) files: Vec<PagedFile>,
    /// SHA-256 of each file.
    pub(crate) digests: Vec<Digest>,
}

impl LinkWrite<'_> {
    /// Writes the blobs.
    pub(crate) fn run(&self, env: Env<'_>) -> Result<LinkOutput> {
        let own = self.known.len();
        let mut sources = Vec::with_capacity(own + self.inputs.len());
        for known in self.known {
            sources.push(known.source.try_clone()?);
        }
        for input in self.inputs {
            sources.push(as_source(input)?);
        }
        let search = Search::build(&sources, env)?;
        let set = PackSet::of(self.chain, 0, self.place, &search)?;
        let known_sizes = self.known.iter().map(|known| known.file.size);
        let sizes = known_sizes.chain(self.inputs.iter().map(|input| input.size)).chain([set.source.size()]);
        let numbers = FrameNumbers::new(0, sizes);
        let reach =
            LinkReach { own, numbers: &numbers, set: own + self.inputs.len(), sets: self.known_sets() };
        let mut planner =
            NeedsPlanner::new(&numbers, NeedsLimit { depth: DEPTH, needs: NEEDS, average: None });
        planner.know(numbers.of(own, 0), self.known_needs(&numbers));
        let write = FrameWrite {
            inputs: self.inputs,
            search,
            set,
            numbers: &numbers,
            planner,
            reach: &reach,
            own,
            level: self.level,
        };
        let sink = BlobSink::new(self.work);
        let written = write_frames(write, sink, env)?;
        let runs = written.set.runs.clone();
        let mut roots: Vec<FileRoot> = self.known.iter().map(|known| known.file.root).collect();
        roots.extend(written.files.iter().map(FileFrames::root));
        roots.push(written.set_frames.root());
        let tables: Vec<&FileFrames> = written.files.iter().chain([&written.set_frames]).collect();
        let is_stored = |source: usize, frame: usize| match source.checked_sub(own) {
            Some(own) => tables[own].frames[frame].is_some(),
            None => self.known[source].file.frames[frame].is_some(),
        };
        let mut sink = written.sink;
        let mut finish = |place: FramePlace, table: &FileFrames, used: &[PageCount], map: Vec<SetRun>| {
            let blobs = sink.finish(place)?;
            let is_used = |source: usize| {
                used[source].copied + used[source].similar > 0 || map.iter().any(|run| run.file == source)
            };
            let frame =
                |frame: &Option<_>| frame.as_ref().map(|frame| file_frame(frame, &numbers, &is_stored));
            Ok::<PagedFile, Error>(PagedFile {
                root: table.root(),
                size: table.size,
                blobs,
                sources: (0..roots.len()).map(|source| is_used(source).then(|| roots[source])).collect(),
                frames: table.frames.iter().map(frame).collect(),
                map,
            })
        };
        let set = if runs.is_empty() {
            None
        } else {
            Some(finish(FramePlace::Set, &written.set_frames, &written.used[0], runs)?)
        };
        let mut files = Vec::with_capacity(written.files.len());
        for (number, table) in written.files.iter().enumerate() {
            files.push(finish(FramePlace::File(number), table, &written.used[number + 1], Vec::new())?);
        }
        Ok(LinkOutput { set, files, digests: written.digests })
    }

    /// The first known file of each root.
    fn roots(&self) -> HashMap<FileRoot, usize> {
        let mut roots = HashMap::new();
        for (number, known) in self.known.iter().enumerate() {
            roots.entry(known.file.root).or_insert(number);
        }
        roots
    }

    /// Where pages of known files stand in known working sets, which come before all else.
    fn known_sets(&self) -> HashMap<(usize, u64), PageRef> {
        let roots = self.roots();
        let mut places = HashMap::new();
        for (source, known) in self.known.iter().enumerate() {
            let mut page = 0;
            for run in &known.file.map {
                let file = known.file.sources[run.file].and_then(|root| roots.get(&root).copied());
                for (number, of) in (page..).zip(run.page..run.page + run.count) {
                    if let Some(file) = file {
                        places.entry((file, of)).or_insert(PageRef { source, page: number });
                    }
                }
                page += run.count;
            }
        }
        places
    }

    /// What the frames of known files need, by the planner's numbers.
    fn known_needs<'s>(&'s self, numbers: &'s FrameNumbers) -> impl Iterator<Item = (u32, Vec<u32>)> + 's {
        let roots = self.roots();
        let frames = self.known.iter().enumerate().flat_map(|(source, known)| {
            let frames = known.file.frames.iter().enumerate();
            frames.filter_map(move |(number, frame)| Some((source, number, &known.file, frame.as_ref()?)))
        });
        frames.map(move |(source, number, file, frame)| {
            let need = |need: &FrameRef| {
                let root = file.sources[need.source as usize]?;
                let of = if root == file.root { source } else { *roots.get(&root)? };
                Some(numbers.of(of, need.frame as usize))
            };
            (numbers.of(source, number), frame.needs.iter().filter_map(need).collect())
        })
    }
}

fn file_frame(
    frame: &forkd_format::paged::StoredFrame,
    numbers: &FrameNumbers,
    is_stored: &dyn Fn(usize, usize) -> bool,
) -> FileFrame {
    let places = frame.needs.iter().map(|number| numbers.place(*number));
    // Pages of zeros may be named, and are in no frame.
    let needs = places.filter(|(source, frame)| is_stored(*source, *frame));
    let needs = needs.map(|(source, frame)| FrameRef { source: source as u32, frame: frame as u32 });
    FileFrame { hash: frame.hash, sum: frame.sum, len: frame.len, needs: needs.collect() }
}

/// Frames of a release name all that they need: nothing is taken to be at hand.
struct LinkReach<'e> {
    own: usize,
    numbers: &'e FrameNumbers,
    /// The number of the working set as a source.
    set: usize,
    /// Of pages of known files: where they stand in a known working set.
    sets: HashMap<(usize, u64), PageRef>,
}

impl Reach for LinkReach<'_> {
    fn place(&self, set: &PackSet, of: FramePlace, first_page: u64, found: PageRef) -> Option<PageRef> {
        let in_set = set.find(found).map(|page| PageRef { source: set.number, page });
        match of {
            // Working sets come first, and refer to others only.
            FramePlace::Set => {
                let known = self.sets.get(&(found.source, found.page)).copied();
                known.or(in_set.filter(|page| page.page < first_page))
            }
            FramePlace::File(_) if found.source < self.own => Some(found),
            FramePlace::File(file) => in_set.or_else(|| {
                let source = self.own + file;
                let before = found.source < source || (found.source == source && found.page < first_page);
                before.then_some(found)
            }),
        }
    }

    fn number(&self, of: FramePlace, frame: usize) -> Option<u32> {
        Some(match of {
            FramePlace::Set => self.numbers.of(self.set, frame),
            FramePlace::File(file) => self.numbers.of(self.own + file, frame),
        })
    }
}

/// A file for each blob.
struct BlobSink<'e> {
    work: &'e WorkDir,
    /// Of each place: the blobs that are whole, and the one that grows.
    places: HashMap<Option<usize>, (Vec<FileBlob>, Option<BlobOutput>)>,
}

struct BlobOutput {
    path: PathBuf,
    file: File,
    len: u64,
    hasher: Hasher,
}

fn key(place: FramePlace) -> Option<usize> {
    match place {
        FramePlace::Set => None,
        FramePlace::File(file) => Some(file),
    }
}

impl<'e> BlobSink<'e> {
    fn new(work: &'e WorkDir) -> Self {
        Self { work, places: HashMap::new() }
    }

    /// The blobs of a file, which are in their places now.
    fn finish(&mut self, place: FramePlace) -> Result<Vec<FileBlob>> {
        let (mut blobs, open) = self.places.remove(&key(place)).unwrap_or_default();
        if let Some(open) = open {
            blobs.push(open.finish(self.work)?);
        }
        Ok(blobs)
    }
}

impl BlobOutput {
    fn create(work: &WorkDir, key: Option<usize>) -> Result<Self> {
        let name = key.map_or_else(|| "set.new".to_owned(), |file| format!("{file}.new"));
        let (path, file) = work.file(&name)?;
        work.store().disk().set_len(&file, &path, 0).map_err(Error::io("write", &path))?;
        Ok(Self { path, file, len: 0, hasher: Hasher::default() })
    }

    fn append(&mut self, work: &WorkDir, bytes: &[u8]) -> Result<()> {
        let target = PackTarget { store: work.store(), file: &self.file, path: &self.path };
        PackOutput::new(target, self.len).append(bytes)?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Gives the blob its name.
    fn finish(self, work: &WorkDir) -> Result<FileBlob> {
        let digest = self.hasher.finish();
        let target = work.path().join(digest.to_string());
        work.store().disk().replace(&self.path, &target).map_err(Error::io("create", &target))?;
        Ok(FileBlob { digest, len: self.len })
    }
}

impl FrameSink for BlobSink<'_> {
    fn append(&mut self, place: FramePlace, bytes: &[u8]) -> Result<u64> {
        let key = key(place);
        let (whole, open) = self.places.entry(key).or_default();
        if let Some(full) = open.take_if(|open| open.len + bytes.len() as u64 > FileBlob::MAX) {
            whole.push(full.finish(self.work)?);
        }
        let output = match open {
            Some(output) => output,
            None => open.insert(BlobOutput::create(self.work, key)?),
        };
        output.append(self.work, bytes)?;
        // Where frames lie in blobs shows the order of their lengths.
        Ok(0)
    }
}
