//! Version 3: frames, from wherever they come, into the staged files of snapshots.

use super::writing::Unpacking;
use super::{Origin, Outcome, UnpackOptions, UnpackReport, local_tags, open_beside, plan, report};
use crate::local::{self, LocalFile};
use crate::receive::Incoming;
use crate::store::{LockKind, Source};
use crate::v3::{Assembly, Feed, Feeder, Head, SourceFile, Target, read_exact};
use crate::{Env, Error, Kind, Result, Store};
use forkd_format::manifest::{Base, BaseKind};
use forkd_format::reader::FileId;
use forkd_format::{Manifest, Tag};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Opens a file that lies beside the pack.
pub(crate) type Beside<'a> = &'a mut dyn FnMut(&str) -> Result<Box<dyn Read + Send>>;

/// Unpacks a file whose manifest was read.
pub(super) fn unpack_file(
    store: &Store,
    file: &Path,
    incoming: Incoming<File>,
    options: &UnpackOptions,
    env: Env<'_>,
) -> Result<UnpackReport> {
    let pack = PackFile::open(file, incoming)?;
    let manifest = &pack.head.manifest;
    let tags = local_tags(manifest, options.tag.as_ref())?;
    let _locks = store.lock_all(&tags, LockKind::Exclusive, env)?;
    let outcomes = plan(store, manifest, &tags, options)?;
    let report = report(store, manifest, &tags, &outcomes);
    let staging = store.stage(env)?;
    let mut beside = |name: &str| open_beside(file, name);
    let source = Source { name: pack.name.clone(), head: None, sha256: Some(pack.head.digest) };
    let origin = Origin { source, sidecar: &mut beside, trust_manifest: false, count_content: true };
    let unpacking = Unpacking::new(store, manifest, staging.path(), &outcomes, &origin, options, env)?;
    env.progress.start("unpacking", Some(manifest.unpacked_size()));
    let outcome = pack.assemble(store, staging.path(), &unpacking, &outcomes, &tags, options, env);
    env.progress.finish();
    outcome?;
    if !report.nothing_new() {
        publish(store, &unpacking, &tags, &origin, || Ok(()), env)?;
    }
    Ok(report)
}

/// Seals what was staged and makes its tags appear, root first. `before` is what must be done between the two.
pub(crate) fn publish(
    store: &Store,
    unpacking: &Unpacking<'_>,
    tags: &[Tag],
    origin: &Origin<'_>,
    before: impl FnOnce() -> Result<()>,
    env: Env<'_>,
) -> Result<()> {
    let staged = unpacking.seal(tags, origin)?;
    env.cancel.check()?;
    before()?;
    for (dir, tag) in staged.iter().zip(tags).filter_map(|(dir, tag)| dir.as_ref().map(|dir| (dir, tag))) {
        store.publish(dir, tag)?;
    }
    Ok(())
}

/// Checks a file as unpacking would. Its frames refer to each other's pages, so they are decoded into a staging folder, which goes again.
pub(crate) fn verify_file(
    store: &Store,
    file: &Path,
    incoming: Incoming<File>,
    options: &UnpackOptions,
    env: Env<'_>,
) -> Result<Manifest> {
    let pack = PackFile::open(file, incoming)?;
    let manifest = &pack.head.manifest;
    let staging = store.stage(env)?;
    let mut beside = |name: &str| open_beside(file, name);
    let source = Source { name: pack.name.clone(), head: None, sha256: None };
    let origin = Origin { source, sidecar: &mut beside, trust_manifest: false, count_content: true };
    let outcomes = vec![Outcome::Created; manifest.links.len()];
    let tags: Vec<Tag> = manifest.links.iter().map(|link| link.tag.clone()).collect();
    let unpacking = Unpacking::new(store, manifest, staging.path(), &outcomes, &origin, options, env)?;
    pack.assemble(store, staging.path(), &unpacking, &outcomes, &tags, options, env)?;
    unpacking.check_descriptions()?;
    Ok(manifest.clone())
}

/// A pack file whose head was read.
struct PackFile<'a> {
    head: Head,
    input: File,
    file: &'a Path,
    name: String,
}

impl<'a> PackFile<'a> {
    fn open(file: &'a Path, incoming: Incoming<File>) -> Result<Self> {
        let name = file.display().to_string();
        let (head, _) = Head::read(incoming, &name)?;
        let input = super::open_pack(file)?;
        head.check_size(input.metadata().map_err(Error::io("read", file))?.len(), &name)?;
        Ok(Self { head, input, file, name })
    }

    #[allow(clippy::too_many_arguments, reason = "what both callers have")]
    fn assemble(
        &self,
        store: &Store,
        staging: &Path,
        unpacking: &Unpacking<'_>,
        outcomes: &[Outcome],
        tags: &[Tag],
        options: &UnpackOptions,
        env: Env<'_>,
    ) -> Result<()> {
        let mut beside = |name: &str| open_beside(self.file, name);
        let bases = open_bases(store, &self.head, &self.name, staging, options, &mut beside, env)?;
        let framed = Framed::new(&self.head, unpacking, None)?;
        let done = vec![false; self.head.frames()];
        let feeders = vec![from_file(&self.head, &self.input, &self.name)];
        framed.assemble(store, &self.name, bases, outcomes, tags, done, feeders, env)?;
        framed.finish();
        check_end(&self.head, &mut At(&self.input, self.head.data_end()), &self.name)
    }
}

/// What follows the frames is the end of the archive, and nothing else.
fn check_end(head: &Head, input: &mut impl Read, name: &str) -> Result<()> {
    let wrong = |message: &str| {
        let source = forkd_format::FormatError::Frame(message.to_owned());
        Error::Malformed { file: format!("{name}: behind the frames, at {}", head.data_end()), source }
    };
    let mut bytes = Vec::new();
    input.take(1 << 11).read_to_end(&mut bytes).map_err(|e| crate::frames::read_error(name, e))?;
    let decoded = zstd::bulk::decompress(&bytes, 1 << 11).map_err(|e| wrong(&e.to_string()))?;
    let frame = zstd::zstd_safe::find_frame_compressed_size(&bytes).ok();
    if decoded == forkd_format::layout::END_OF_ARCHIVE && frame == Some(bytes.len()) {
        Ok(())
    } else {
        Err(wrong("expected the end of an archive, and nothing more"))
    }
}

/// Reads all frames of a pack file, in their order.
pub(crate) fn from_file<'f>(head: &'f Head, input: &'f File, name: &'f str) -> Feeder<'f> {
    Box::new(move |feed: &Feed<'_, '_>| {
        for (id, (_, _, frame)) in head.index.stored().enumerate() {
            let mut bytes = vec![0; frame.len as usize];
            read_exact(&mut At(input, frame.offset), &mut bytes, name)?;
            if !feed.land(id, bytes)? {
                break;
            }
        }
        Ok(())
    })
}

/// A file, read from an offset on.
struct At<'f>(&'f File, u64);

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read_at(buffer, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}

/// The base files of a pack, each known by a digest that was checked; a kernel that is not here comes from beside the pack.
pub(crate) fn open_bases(
    store: &Store,
    head: &Head,
    name: &str,
    staging: &Path,
    options: &UnpackOptions,
    beside: Beside<'_>,
    env: Env<'_>,
) -> Result<Vec<SourceFile>> {
    let files = if head.manifest.bases.is_empty() { Vec::new() } else { local::files(store)? };
    head.manifest
        .bases
        .iter()
        .map(|base| open_base(store, &files, base, name, staging, options, beside, env))
        .collect()
}

#[allow(clippy::too_many_arguments, reason = "one step of its caller")]
fn open_base(
    store: &Store,
    files: &[LocalFile],
    base: &Base,
    name: &str,
    staging: &Path,
    options: &UnpackOptions,
    beside: Beside<'_>,
    env: Env<'_>,
) -> Result<SourceFile> {
    // None of its pages is needed; a frame that names one all the same is refused.
    if base.is_unused() {
        return Ok(SourceFile { file: None, path: base.path.clone().into(), size: 0 });
    }
    if let Some(found) = local::find_base(files, base).and_then(LocalFile::as_source) {
        return Ok(found);
    }
    if base.kind == BaseKind::Kernel {
        return super::kernel::open(base, staging, options.cache.as_ref(), beside, env);
    }
    if let Some(found) = local::find_unrecorded(store, base, env)? {
        return Ok(found);
    }
    let message = format!(
        "{name} is packed against '{}': a {} of {} bytes with sha256 {} is needed, and no snapshot in the store has it under any \
tag. Pull or unpack that version of '{}' first, or take the full pack",
        base.name, base.path, base.size, base.sha256, base.name
    );
    Err(Error::new(Kind::NotFound, message))
}

/// Told of each frame that has landed.
pub(crate) type Journal<'a> = &'a (dyn Fn(usize) -> Result<()> + Sync);

/// The files of a pack, as frames fill them.
pub(crate) struct Framed<'a> {
    head: &'a Head,
    unpacking: &'a Unpacking<'a>,
    ids: Vec<FileId>,
    journal: Option<Journal<'a>>,
}

impl<'a> Framed<'a> {
    /// Makes the files, or opens them where an earlier run has made them.
    pub(crate) fn new(
        head: &'a Head,
        unpacking: &'a Unpacking<'a>,
        journal: Option<Journal<'a>>,
    ) -> Result<Self> {
        let mut ids = Vec::new();
        for (l, link) in head.manifest.links.iter().enumerate() {
            ids.extend((0..link.files.len()).map(|f| FileId { link: l, file: f }));
        }
        ids.iter().try_for_each(|id| unpacking.open_whole(*id))?;
        Ok(Self { head, unpacking, ids, journal })
    }

    /// Takes the frames that feeders bring, until all are there. Those that are `done` are in the files already.
    #[allow(clippy::too_many_arguments, reason = "what one run of it is about")]
    pub(crate) fn assemble(
        &self,
        store: &Store,
        name: &str,
        bases: Vec<SourceFile>,
        outcomes: &[Outcome],
        tags: &[Tag],
        done: Vec<bool>,
        feeders: Vec<Feeder<'_>>,
        env: Env<'_>,
    ) -> Result<()> {
        let mut sources = bases;
        for id in &self.ids {
            sources.push(match outcomes[id.link] {
                Outcome::Kept => self.kept(store, *id, &tags[id.link])?,
                _ => self.unpacking.as_source(*id)?,
            });
        }
        self.advance_zeros();
        Assembly::new(self.head, name, &sources, self, done).run(feeders, env)
    }

    /// A file of a snapshot that is here with the same bytes.
    fn kept(&self, store: &Store, id: FileId, tag: &Tag) -> Result<SourceFile> {
        let entry = &self.head.manifest.links[id.link].files[id.file];
        let stored = store.load(tag)?;
        let found = stored.bodies().into_iter().find(|(name, _)| *name == entry.path);
        match found {
            Some((_, path)) => Ok(SourceFile { file: Some(stored.open(&path)?), path, size: entry.size }),
            None => Ok(SourceFile { file: None, path: entry.path.clone().into(), size: 0 }),
        }
    }

    /// Zero frames need no work.
    fn advance_zeros(&self) {
        for table in &self.head.index.files {
            let zeros = table.frames.iter().enumerate().filter(|(_, frame)| frame.is_none());
            let bytes = zeros.map(|(number, _)| forkd_format::v3::frame_len(table.size, number) as u64).sum();
            crate::receive::Sink::advance(self.unpacking, bytes);
        }
    }

    /// Reads what is in a file so far; false where that is a description.
    pub(crate) fn read(&self, file: usize, offset: u64, buffer: &mut [u8]) -> Result<bool> {
        self.unpacking.read_staged(self.ids[file], offset, buffer)
    }

    /// Makes zero what an earlier run left in the way: only what is not zero is written.
    pub(crate) fn clear(&self, file: usize, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.unpacking.clear(self.ids[file], offset, buffer)
    }

    /// All frames are there: notes their checksums for the record.
    pub(crate) fn finish(&self) {
        for (id, table) in self.ids.iter().zip(&self.head.index.files) {
            let sums = table.frames.iter().map(|frame| frame.as_ref().map_or(0, |frame| frame.sum));
            let blocks = sums.map(|sum| format!("{sum:016x}")).collect();
            crate::receive::Sink::written(self.unpacking, *id, blocks);
        }
    }
}

impl Target for Framed<'_> {
    fn write(&self, file: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        self.unpacking.write_run(self.ids[file], offset, bytes)
    }

    fn landed(&self, id: usize, len: usize) -> Result<()> {
        let (file, number) = self.head.place(id);
        self.unpacking.frame_landed(self.ids[file], number as u64 * forkd_format::v3::FRAME_SIZE as u64, len);
        self.journal.map_or(Ok(()), |journal| journal(id))
    }
}
