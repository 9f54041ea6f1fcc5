//! Version 3: frames, from wherever they come, into the staged files of snapshots.

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::paged::assemble::{Assembly, Feed, Feeder, Target};
use crate::pack::paged::bases::open_bases;
use crate::pack::paged::head::{Head, read_exact};
use crate::pack::paged::page_source::SourceFile;
use crate::pack::sidecar::open_beside;
use crate::pack::stream::read::Incoming;
use crate::store::lock::LockKind;
use crate::store::record::Source;
use crate::store::root::Store;
use crate::unpack::files::{Unpacking, publish};
use crate::unpack::origin::Origin;
use crate::unpack::plan::{Outcome, UnpackOptions, UnpackReport, local_tags, plan, report};
use forkd_format::reader::FileId;
use forkd_format::{Manifest, Tag};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Unpacks a file whose manifest was read.
pub(crate) fn unpack_file(
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
        let input = crate::pack::pack_file::open_pack(file)?;
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
        let outcome = Assembly::new(self.head, name, &sources, self, done).run(feeders, env);
        outcome.map_err(|error| self.explain(store, error, &sources))
    }

    /// What frames refer to was believed by its record; where they decode to other bytes, that may be why.
    fn explain(&self, store: &Store, error: Error, sources: &[SourceFile]) -> Error {
        let base = sources[..self.head.manifest.bases.len()]
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
            crate::pack::stream::read::Sink::advance(self.unpacking, bytes);
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
            crate::pack::stream::read::Sink::written(self.unpacking, *id, blocks);
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
