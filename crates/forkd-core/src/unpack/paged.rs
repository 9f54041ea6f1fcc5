//! Version 3: frames, from wherever they come, into the staged files of snapshots.

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::pack_file::open_pack;
use crate::pack::paged::assemble::{Assembly, Feed, Feeder, FrameTarget};
use crate::pack::paged::bases::BaseSearch;
use crate::pack::paged::header::{PagedHeader, read_exact};
use crate::pack::paged::header_parts::BaseBody;
use crate::pack::paged::page_source::PageSource;
use crate::pack::sidecar::open_sidecar;
use crate::pack::stream::content::Sink;
use crate::pack::stream::read::PackStream;
use crate::store::lock::LockKind;
use crate::store::record::Provenance;
use crate::store::root::Store;
use crate::unpack::files::{StagedPack, publish};
use crate::unpack::job::UnpackJob;
use crate::unpack::plan::{Outcome, UnpackOptions, UnpackPlan, UnpackReport, local_tags};
use forkd_format::paged::{FRAME_PAGES, FRAME_SIZE};
use forkd_format::reader::FileId;
use forkd_format::{Manifest, PAGE_SIZE, Tag};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Unpacks a file whose manifest was read.
pub(crate) fn unpack_file(
    store: &Store,
    file: &Path,
    stream: PackStream<File>,
    options: &UnpackOptions,
    env: Env<'_>,
) -> Result<UnpackReport> {
    let pack = PackFile::open(file, stream)?;
    let manifest = &pack.header.manifest;
    let tags = local_tags(store, manifest, options)?;
    let _locks = store.lock_all(&tags, LockKind::Exclusive, env)?;
    let plan = UnpackPlan::new(store, manifest, &tags, options)?;
    let work = store.stage(env)?;
    let job = UnpackJob { store, manifest, plan: &plan, options, count_content: true, env };
    let staged = StagedPack::new(job, &work)?;
    env.progress.start("unpacking", Some(manifest.unpacked_size()));
    let outcome = pack.assemble(&staged, work.path());
    env.progress.finish();
    outcome?;
    if !plan.changes_nothing() {
        let provenance = Provenance { name: pack.name.clone(), head: None, id: Some(pack.header.id.id()) };
        publish(staged, &provenance, || Ok(()))?;
    }
    Ok(plan.report(store, manifest))
}

/// Checks a file as unpacking would. Its frames refer to each other's pages, so they are decoded into a staging folder, which goes again.
pub(crate) fn verify_file(
    store: &Store,
    file: &Path,
    stream: PackStream<File>,
    options: &UnpackOptions,
    env: Env<'_>,
) -> Result<Manifest> {
    let pack = PackFile::open(file, stream)?;
    let manifest = &pack.header.manifest;
    let work = store.stage(env)?;
    let plan = UnpackPlan::anew(manifest);
    let job = UnpackJob { store, manifest, plan: &plan, options, count_content: true, env };
    let staged = StagedPack::new(job, &work)?;
    pack.assemble(&staged, work.path())?;
    staged.check_descriptions()?;
    Ok(manifest.clone())
}

/// A pack file whose header was read.
struct PackFile<'a> {
    header: PagedHeader,
    input: File,
    file: &'a Path,
    name: String,
}

impl<'a> PackFile<'a> {
    fn open(file: &'a Path, stream: PackStream<File>) -> Result<Self> {
        let name = file.display().to_string();
        let (header, _) = PagedHeader::read(stream, &name)?;
        let input = open_pack(file)?;
        header.check_size(input.metadata().map_err(Error::io("read", file))?.len(), &name)?;
        Ok(Self { header, input, file, name })
    }

    fn assemble(&self, staged: &StagedPack<'_>, work: &Path) -> Result<()> {
        let UnpackJob { store, options, env, .. } = *staged.job();
        let mut sidecar = |name: &str| open_sidecar(self.file, name);
        let search = BaseSearch { store, cache: options.cache.as_ref(), work, name: &self.name, env };
        let bases = search.open_all(&self.header, &mut sidecar)?;
        let files = PagedFiles::new(&self.header, staged, bases, None)?;
        let landed = vec![false; self.header.frames()];
        let feeders = vec![from_file(&self.header, &self.input, &self.name)];
        files.assemble(&self.name, &landed, feeders)?;
        files.finish();
        check_end(&self.header, &mut FileReader(&self.input, self.header.data_end()), &self.name)
    }
}

/// What follows the frames is the end of the archive, and nothing else.
fn check_end(header: &PagedHeader, input: &mut impl Read, name: &str) -> Result<()> {
    let wrong = |message: &str| {
        let source = forkd_format::FormatError::Frame(message.to_owned());
        Error::Malformed { file: format!("{name}: behind the frames, at {}", header.data_end()), source }
    };
    let mut bytes = Vec::new();
    input
        .take(1 << 11)
        .read_to_end(&mut bytes)
        .map_err(|e| crate::pack::stream::zstd_frames::read_error(name, e))?;
    let decoded = zstd::bulk::decompress(&bytes, 1 << 11).map_err(|e| wrong(&e.to_string()))?;
    let frame = zstd::zstd_safe::find_frame_compressed_size(&bytes).ok();
    if decoded == forkd_format::layout::END_OF_ARCHIVE && frame == Some(bytes.len()) {
        Ok(())
    } else {
        Err(wrong("expected the end of an archive, and nothing more"))
    }
}

/// Reads all frames of a pack file, in their order.
pub(crate) fn from_file<'f>(header: &'f PagedHeader, input: &'f File, name: &'f str) -> Feeder<'f> {
    Box::new(move |feed: &Feed<'_, '_>| {
        for (id, frame) in header.all_stored().iter().enumerate() {
            let mut bytes = vec![0; frame.len as usize];
            read_exact(&mut FileReader(input, frame.offset), &mut bytes, name)?;
            if !feed.land(id, bytes)? {
                break;
            }
        }
        Ok(())
    })
}

/// A file, read from an offset on.
struct FileReader<'f>(&'f File, u64);

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read_at(buffer, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}

/// Told of each frame that has landed.
pub(crate) type TellLanded<'a> = &'a (dyn Fn(usize) -> Result<()> + Sync);

/// The files of a pack, as frames fill them.
pub(crate) struct PagedFiles<'a> {
    header: &'a PagedHeader,
    staged: &'a StagedPack<'a>,
    ids: Vec<FileId>,
    bases: Vec<BaseSlot>,
    tell: Option<TellLanded<'a>>,
}

/// Where a base is had from.
enum BaseSlot {
    Here(PageSource),
    /// What is needed of it is put into a file of the work folder.
    Coming(PathBuf, File),
}

impl<'a> PagedFiles<'a> {
    /// Makes the files, or opens them where an earlier run has made them.
    pub(crate) fn new(
        header: &'a PagedHeader,
        staged: &'a StagedPack<'a>,
        bases: Vec<Option<PageSource>>,
        tell: Option<TellLanded<'a>>,
    ) -> Result<Self> {
        let mut ids = Vec::new();
        for (l, link) in header.manifest.links.iter().enumerate() {
            ids.extend((0..link.files.len()).map(|f| FileId { link: l, file: f }));
        }
        ids.iter().try_for_each(|id| staged.open_whole(*id))?;
        let slot = |(number, found): (usize, Option<PageSource>)| match found {
            Some(source) => Ok(BaseSlot::Here(source)),
            None => {
                let (path, file) = staged.work().file(&format!("base-{number}"))?;
                let size = header.frames_of(header.base_file(number)).size;
                let disk = staged.job().store.disk();
                disk.set_len(&file, &path, size).map_err(Error::io("write", &path))?;
                Ok(BaseSlot::Coming(path, file))
            }
        };
        let bases = bases.into_iter().enumerate().map(slot).collect::<Result<_>>()?;
        Ok(Self { header, staged, ids, bases, tell })
    }

    /// Takes the frames that feeders bring, until all are there. Those that have `landed` are in the files already, or nobody wants them.
    pub(crate) fn assemble(&self, name: &str, landed: &[bool], feeders: Vec<Feeder<'_>>) -> Result<()> {
        let UnpackJob { store, env, .. } = *self.staged.job();
        let sources = self.sources(landed)?;
        self.advance_zeros();
        let done = self.header.wanted(|id| landed[id]);
        let done = (0..landed.len()).map(|id| !done.contains(&id)).collect();
        let outcome = Assembly::new(self.header, name, &sources, self, done).run(feeders, env);
        outcome.map_err(|error| self.explain(store, error, &sources))
    }

    /// What frames refer to: bases, the links' files, the working set.
    fn sources(&self, landed: &[bool]) -> Result<Vec<PageSource>> {
        let UnpackJob { store, plan, .. } = *self.staged.job();
        let mut own = Vec::with_capacity(self.ids.len() + 1);
        for id in &self.ids {
            own.push(match plan.outcomes[id.link] {
                Outcome::Kept => self.kept(store, *id, &plan.tags[id.link])?,
                _ => self.staged.as_source(*id)?,
            });
        }
        let mut bases = Vec::with_capacity(self.bases.len());
        for (number, slot) in self.bases.iter().enumerate() {
            let size = self.header.frames_of(self.header.base_file(number)).size;
            bases.push(match slot {
                BaseSlot::Here(source) => source.try_clone()?,
                BaseSlot::Coming(path, file) => {
                    let file = file.try_clone().map_err(Error::io("open", path))?;
                    PageSource::file(file, path.clone(), size)
                }
            });
        }
        let none = PageSource::none("working set");
        for base in (0..bases.len()).filter(|base| self.header.base_set_is_in(*base, |id| landed[id])) {
            let BaseBody::Set(pages) = &self.header.bases[base].body else { continue };
            // As files are numbered.
            let files = own.iter().chain([&none]).chain(&bases);
            bases[base] = PageSource::set(files, pages.clone())?;
        }
        let set = PageSource::set(&own, self.header.set.pages().to_vec())?;
        Ok(bases.into_iter().chain(own).chain([set]).collect())
    }

    /// Whether all of a base is here already.
    pub(crate) fn base_is_here(&self, base: usize) -> bool {
        matches!(self.bases[base], BaseSlot::Here(_))
    }

    /// What frames refer to was believed by its record; where they decode to other bytes, that may be why.
    fn explain(&self, store: &Store, error: Error, sources: &[PageSource]) -> Error {
        let base = sources[..self.header.bases.len()]
            .iter()
            .find_map(|base| Some(base.path.parent()?.strip_prefix(store.snapshots()).ok()?.display()));
        match base {
            Some(tag) if error.kind() == Kind::Integrity => {
                let message = format!(
                    "{error}. It may refer to '{tag}': `forkd verify {tag}` tells whether that is damaged"
                );
                Error::new(Kind::Integrity, message)
            }
            _ => error,
        }
    }

    /// A file of a snapshot that is here with the same bytes.
    fn kept(&self, store: &Store, id: FileId, tag: &Tag) -> Result<PageSource> {
        let entry = &self.header.manifest.links[id.link].files[id.file];
        let stored = store.load(tag)?;
        let found = stored.bodies().into_iter().find(|(name, _)| *name == entry.path);
        match found {
            Some((_, path)) => Ok(PageSource::file(stored.open(&path)?, path, entry.size)),
            None => Ok(PageSource::none(entry.path.clone())),
        }
    }

    /// Zero frames need no work.
    fn advance_zeros(&self) {
        for table in &self.header.files {
            let zeros = table.frames.iter().enumerate().filter(|(_, frame)| frame.is_none());
            let bytes =
                zeros.map(|(number, _)| forkd_format::paged::frame_len(table.size, number) as u64).sum();
            Sink::advance(self.staged, bytes);
        }
    }

    /// Reads what is in the place of a frame so far; false where that is in no file of ours.
    pub(crate) fn read(&self, id: usize, buffer: &mut [u8]) -> Result<bool> {
        let (file, number) = self.header.place(id);
        if file < self.header.set_file() {
            return self.staged.read_staged(self.ids[file], (number * FRAME_SIZE) as u64, buffer);
        }
        if let Some(base) = self.header.base_of(file) {
            let BaseSlot::Coming(path, file) = &self.bases[base] else { return Ok(false) };
            let read = crate::digest::sparse::read_data(file, (number * FRAME_SIZE) as u64, buffer);
            return read.map(|()| true).map_err(Error::io("read", path));
        }
        let places = self.header.set.pages().iter().skip(number * FRAME_PAGES);
        for (bytes, (file, page)) in buffer.chunks_mut(PAGE_SIZE).zip(places) {
            if !self.staged.read_staged(self.ids[*file], page * PAGE_SIZE as u64, bytes)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes a stretch of a file zero, but for some pages: those of the working set that are there.
    pub(crate) fn clear(&self, file: usize, number: usize, buffer: &mut [u8], keep: &[u64]) -> Result<()> {
        let first = (number * FRAME_PAGES) as u64;
        if self.header.base_of(file).is_some() {
            let id = self.header.id(file, number);
            if id.map_or(Ok(false), |id| self.read(id, buffer))? && !forkd_sys::is_zero(buffer) {
                buffer.fill(0);
                return self.write(file, first * PAGE_SIZE as u64, buffer);
            }
            return Ok(());
        }
        let id = self.ids[file];
        if keep.is_empty() {
            return self.staged.clear(id, first * PAGE_SIZE as u64, buffer);
        }
        for (page, bytes) in
            (first..).zip(buffer.chunks_mut(PAGE_SIZE)).filter(|(page, _)| !keep.contains(page))
        {
            self.staged.clear(id, page * PAGE_SIZE as u64, bytes)?;
        }
        Ok(())
    }

    /// All frames are there: notes their checksums for the record.
    pub(crate) fn finish(&self) {
        for (id, table) in self.ids.iter().zip(&self.header.files) {
            let sums = table.frames.iter().map(|frame| frame.as_ref().map_or(0, |frame| frame.sum));
            let blocks = sums.map(|sum| format!("{sum:016x}")).collect();
            Sink::written(self.staged, *id, blocks);
        }
    }
}

impl FrameTarget for PagedFiles<'_> {
    fn write(&self, file: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        if let Some(base) = self.header.base_of(file) {
            let BaseSlot::Coming(path, file) = &self.bases[base] else { return Ok(()) };
            let disk = self.staged.job().store.disk();
            return disk.write_at(file, path, bytes, offset).map_err(Error::io("write", path));
        }
        self.staged.write_run(self.ids[file], offset, bytes)
    }

    fn landed(&self, id: usize) -> Result<()> {
        let (file, number) = self.header.place(id);
        if let Some(of) = self.ids.get(file) {
            self.staged.frame_landed(*of, (number * FRAME_SIZE) as u64, self.header.len(id));
        }
        self.tell.map_or(Ok(()), |tell| tell(id))
    }
}
