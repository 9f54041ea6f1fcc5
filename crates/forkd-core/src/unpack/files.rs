//! The files of a pack on their way into a staging folder.

use crate::error::{Error, Kind, Result};
use crate::pack::description::{parse_description, put};
use crate::pack::paged::page_source::PageSource;
use crate::pack::sidecar::read_sidecar;
use crate::pack::stream::content::Sink;
use crate::pipeline::mutex::lock;
use crate::store::record::{Provenance, Record, RecordedFile};
use crate::store::staged::{RootfsPath, SealedSnapshot, StagedSnapshot, complete};
use crate::store::workdir::WorkDir;
use crate::unpack::job::UnpackJob;
use crate::unpack::plan::{Examine, Outcome, local_parent};
use forkd_format::manifest::{FileEntry, Link, ROOTFS, RootfsSidecar, SNAPSHOT_JSON};
use forkd_format::reader::FileId;
use forkd_format::{Digest, PAGE_SIZE, Snapshot};
use forkd_sys::DiskIo;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

/// Seals what was staged and makes its tags appear, root first. `before` is what must be done between the two.
pub(crate) fn publish(
    pack: StagedPack<'_>,
    provenance: &Provenance,
    before: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let env = pack.job.env;
    let sealed = pack.seal(provenance)?;
    env.cancel.check()?;
    before()?;
    sealed.into_iter().try_for_each(|snapshot| snapshot.publish().map(drop))
}

/// A file that is being written.
struct StagedFile {
    path: PathBuf,
    file: File,
}

/// The links of a pack as staged snapshots, and their files as they are filled.
pub(crate) struct StagedPack<'a> {
    job: UnpackJob<'a>,
    work: &'a WorkDir,
    /// One a link; none where the link is here already.
    links: Vec<Option<StagedSnapshot>>,
    files: Vec<Vec<OnceLock<StagedFile>>>,
    blocks: Mutex<Vec<(FileId, String)>>,
    descriptions: Mutex<Vec<Vec<u8>>>,
    sidecar: OnceLock<RecordedFile>,
    examined: AtomicBool,
}

impl<'a> StagedPack<'a> {
    /// Stages the links in a work folder; what an earlier run left there is gone on with.
    pub(crate) fn new(job: UnpackJob<'a>, work: &'a WorkDir) -> Result<Self> {
        let links = &job.manifest.links;
        for (tag, _) in
            job.plan.tags.iter().zip(&job.plan.outcomes).filter(|(_, how)| **how == Outcome::Replaced)
        {
            job.env.progress.note(&format!("'{tag}' will be replaced"));
        }
        let stage = |(number, outcome): (usize, &Outcome)| match outcome {
            Outcome::Kept => Ok(None),
            // Of what an earlier run left only the files that frames fill are gone on with.
            _ => StagedSnapshot::resume(work, &number.to_string(), &job.plan.tags[number], |name| {
                let filled = |file: &FileEntry| file.path != SNAPSHOT_JSON && name == &*file.path;
                links[number].files.iter().any(filled)
            })
            .map(Some),
        };
        Ok(Self {
            job,
            work,
            links: job.plan.outcomes.iter().enumerate().map(stage).collect::<Result<_>>()?,
            files: links.iter().map(|link| link.files.iter().map(|_| OnceLock::new()).collect()).collect(),
            blocks: Mutex::default(),
            descriptions: Mutex::new(links.iter().map(|_| Vec::new()).collect()),
            sidecar: OnceLock::new(),
            examined: AtomicBool::new(false),
        })
    }

    pub(crate) fn job(&self) -> &UnpackJob<'a> {
        &self.job
    }

    /// The folder in which they are staged.
    pub(crate) fn work(&self) -> &WorkDir {
        self.work
    }

    fn entry(&self, id: FileId) -> &FileEntry {
        &self.job.manifest.links[id.link].files[id.file]
    }

    /// Tells the user, once, where this host cannot fork the head.
    fn examine(&self, link: usize, snapshot: &Snapshot) {
        let Some(Examine(examine)) =
            self.job.options.examine.as_ref().filter(|_| link + 1 == self.job.manifest.links.len())
        else {
            return;
        };
        if !self.examined.swap(true, Ordering::Relaxed)
            && let Err(error) = examine(snapshot)
        {
            self.job
                .env
                .progress
                .note(&format!("'{}' cannot be forked here: {error}", self.job.manifest.tag));
        }
    }

    /// Makes a file of its whole length, or opens the one that an earlier run made.
    pub(crate) fn open_whole(&self, id: FileId) -> Result<()> {
        let entry = self.entry(id);
        let Some(link) = self.links[id.link].as_ref().filter(|_| entry.path != SNAPSHOT_JSON) else {
            return Ok(());
        };
        let path = link.dir().join(&entry.path);
        let disk = self.job.store.disk();
        let open = || File::options().read(true).write(true).open(&path);
        let staged = match open() {
            Err(e) if e.kind() == ErrorKind::NotFound => create(link, &entry.path)?,
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                unseal(disk, &path).map_err(Error::io("unseal", &path))?;
                StagedFile { file: open().map_err(Error::io("open", &path))?, path }
            }
            file => StagedFile { file: file.map_err(Error::io("open", &path))?, path },
        };
        disk.set_len(&staged.file, &staged.path, entry.size).map_err(Error::io("write", &staged.path))?;
        let _ = self.files[id.link][id.file].set(staged);
        Ok(())
    }

    /// A staged file as one that frames may refer to; a description is none.
    pub(crate) fn as_source(&self, id: FileId) -> Result<PageSource> {
        let size = self.entry(id).size;
        match self.files[id.link][id.file].get() {
            Some(StagedFile { path, file }) => {
                let file = file.try_clone().map_err(Error::io("open", path))?;
                Ok(PageSource::file(file, path.clone(), size))
            }
            None => Ok(PageSource::none(self.entry(id).path.clone())),
        }
    }

    /// A staged file by itself; `None` for a description.
    pub(crate) fn open_staged(&self, id: FileId) -> Result<Option<File>> {
        let staged = self.files[id.link][id.file].get();
        staged.map(|StagedFile { path, file }| file.try_clone().map_err(Error::io("open", path))).transpose()
    }

    /// The description of a link, as far as it is here.
    pub(crate) fn description(&self, link: usize) -> Vec<u8> {
        lock(&self.descriptions)[link].clone()
    }

    /// Reads a staged file; false for a description, which is in no file.
    pub(crate) fn read_staged(&self, id: FileId, offset: u64, buffer: &mut [u8]) -> Result<bool> {
        let Some(StagedFile { path, file }) = self.files[id.link][id.file].get() else { return Ok(false) };
        crate::digest::sparse::read_data(file, offset, buffer).map_err(Error::io("read", path))?;
        Ok(true)
    }

    /// Makes a stretch of a staged file zero, where it is not.
    pub(crate) fn clear(&self, id: FileId, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if !self.read_staged(id, offset, buffer)? || forkd_sys::is_zero(buffer) {
            return Ok(());
        }
        buffer.fill(0);
        self.write_run(id, offset, buffer)
    }

    /// The link of a file, counted over the pack.
    pub(crate) fn link_of(&self, file: usize) -> Option<usize> {
        let mut end = 0;
        self.job.manifest.links.iter().position(|link| {
            end += link.files.len();
            file < end
        })
    }

    /// Writes bytes that are not zero.
    pub(crate) fn write_run(&self, id: FileId, offset: u64, bytes: &[u8]) -> Result<()> {
        if self.entry(id).path == SNAPSHOT_JSON {
            return self.write(id, offset, bytes);
        }
        let Some(StagedFile { path, file }) = self.files[id.link][id.file].get() else { return Ok(()) };
        self.job.store.disk().write_at(file, path, bytes, offset).map_err(Error::io("write", path))
    }

    /// So many bytes of a file are whole now.
    pub(crate) fn frame_landed(&self, id: FileId, offset: u64, len: usize) {
        if let Some(staged) = self.files[id.link][id.file].get() {
            forkd_sys::start_writeback(&staged.file, offset, len as u64);
        }
        self.advance(len as u64);
    }

    /// Unpacks the root disk beside the pack into the snapshot's own folder; the path that the pack names is never used.
    pub(crate) fn take_sidecar(&self, rootfs: &RootfsSidecar, input: Box<dyn Read + Send>) -> Result<()> {
        let Some(link) = self.links.first().and_then(Option::as_ref) else { return Ok(()) };
        let (staged, env) = (create(link, ROOTFS)?, self.job.env);
        let blocks = read_sidecar(rootfs, input, env, &mut |at, bytes| self.write_pages(&staged, at, bytes))?;
        let mtime_ns = self.finish_file(&staged, rootfs.size)?;
        let (path, size, sha256) = (ROOTFS.to_owned(), rootfs.size, rootfs.sha256);
        let _ = self.sidecar.set(RecordedFile {
            path,
            size,
            sha256,
            root: None,
            declared: false,
            mtime_ns,
            blocks,
        });
        Ok(())
    }

    /// Writes the pages that are not all zero; the others become holes.
    fn write_pages(&self, staged: &StagedFile, offset: u64, bytes: &[u8]) -> Result<()> {
        let first = (PAGE_SIZE - (offset % PAGE_SIZE as u64) as usize).min(bytes.len());
        let mut page = 0..first;
        let mut run: Option<std::ops::Range<usize>> = None;
        while page.start < bytes.len() {
            if forkd_sys::is_zero(&bytes[page.clone()]) {
                self.flush(staged, offset, bytes, run.take())?;
            } else {
                run = Some(run.map_or(page.start, |run| run.start)..page.end);
            }
            page = page.end..(page.end + PAGE_SIZE).min(bytes.len());
        }
        self.flush(staged, offset, bytes, run)
    }

    fn flush(
        &self,
        staged: &StagedFile,
        offset: u64,
        bytes: &[u8],
        run: Option<std::ops::Range<usize>>,
    ) -> Result<()> {
        let Some(run) = run else { return Ok(()) };
        let at = offset + run.start as u64;
        let disk = self.job.store.disk();
        disk.write_at(&staged.file, &staged.path, &bytes[run], at).map_err(Error::io("write", &staged.path))
    }

    /// Gives a file its whole length, seals and syncs it; says when it was last written.
    fn finish_file(&self, StagedFile { path, file }: &StagedFile, size: u64) -> Result<i64> {
        let disk = self.job.store.disk();
        disk.set_len(file, path, size).map_err(Error::io("write", path))?;
        complete(disk, file, path)
    }

    /// Completes every staged snapshot: lengths, descriptions with paths of this host, records; all synced. Gives them root first.
    pub(crate) fn seal(mut self, provenance: &Provenance) -> Result<Vec<SealedSnapshot>> {
        let UnpackJob { manifest, .. } = self.job;
        let descriptions = std::mem::take(&mut *lock(&self.descriptions));
        let mut sealed = Vec::new();
        for (l, link) in manifest.links.iter().enumerate() {
            let Some(staged) = self.links[l].take() else { continue };
            let record = Record {
                record_version: 1,
                files: self.recorded_files(l, link)?,
                packed_snapshot_json: link.file(SNAPSHOT_JSON).map(|file| file.sha256),
                source: Some(Provenance { head: Some(manifest.tag.clone()), ..provenance.clone() }),
                description: manifest.description.clone(),
                base_image: manifest.base_image.clone(),
                created_at: manifest.created_at.clone(),
            };
            let snapshot = description(link, &descriptions[l])?;
            self.examine(l, &snapshot);
            let snapshot = match local_parent(manifest, &self.job.plan.tags, link) {
                Some(parent) => snapshot.with("parent_tag", Some(parent.as_str().into())),
                None => snapshot,
            };
            let rootfs = if self.sidecar.get().is_some() { RootfsPath::Own } else { RootfsPath::Unnamed };
            sealed.push(staged.seal(&snapshot, rootfs, Some(record))?);
        }
        Ok(sealed)
    }

    /// Holds every description against the manifest.
    pub(crate) fn check_descriptions(&self) -> Result<()> {
        let descriptions = lock(&self.descriptions);
        let mut links = self.job.manifest.links.iter().zip(descriptions.iter());
        links.try_for_each(|(link, bytes)| description(link, bytes).map(drop))
    }

    fn recorded_files(&self, l: usize, link: &Link) -> Result<Vec<RecordedFile>> {
        let mut blocks = lock(&self.blocks);
        let mut files = Vec::new();
        for (f, entry) in link.files.iter().enumerate().filter(|(_, entry)| entry.path != SNAPSHOT_JSON) {
            let id = FileId { link: l, file: f };
            let Some(staged) = self.files[l][f].get() else { continue };
            let mtime_ns = self.finish_file(staged, entry.size)?;
            let found = blocks.iter().position(|(file, _)| *file == id).map(|i| blocks.swap_remove(i).1);
            files.push(RecordedFile {
                path: entry.path.clone(),
                size: entry.size,
                sha256: entry.sha256,
                root: entry.root,
                declared: entry.root.is_some(),
                mtime_ns,
                blocks: found.unwrap_or_default(),
            });
        }
        files.extend(self.sidecar.get().cloned());
        Ok(files)
    }
}

fn create(link: &StagedSnapshot, name: &str) -> Result<StagedFile> {
    let (path, file) = link.create_file(name)?;
    Ok(StagedFile { path, file })
}

fn description(link: &Link, bytes: &[u8]) -> Result<Snapshot> {
    // In versions 1 and 2 its digest was checked with those of the other files; in version 3 its frames were.
    if let Some(file) = link.file(SNAPSHOT_JSON).filter(|file| file.root.is_some())
        && Digest::of(bytes) != file.sha256
    {
        let message = format!("'{}': {SNAPSHOT_JSON} is not what the manifest declares", link.tag);
        return Err(Error::new(Kind::Integrity, message));
    }
    parse_description(link, bytes)
}

/// Lets its owner write to a file again that a run sealed which then did not come to publish it.
fn unseal(disk: &DiskIo, path: &Path) -> std::io::Result<()> {
    let file = File::open(path)?;
    disk.set_mode(&file, path, file.metadata()?.mode() & 0o777 | 0o200)
}

impl Sink for StagedPack<'_> {
    fn start(&self, id: FileId) -> Result<()> {
        let entry = self.entry(id);
        if let Some(link) = self.links[id.link].as_ref().filter(|_| entry.path != SNAPSHOT_JSON) {
            let staged = create(link, &entry.path)?;
            let _ = self.files[id.link][id.file].set(staged);
        }
        Ok(())
    }

    fn write(&self, id: FileId, offset: u64, bytes: &[u8]) -> Result<()> {
        if self.entry(id).path == SNAPSHOT_JSON {
            let mut descriptions = lock(&self.descriptions);
            put(&mut descriptions[id.link], offset, bytes);
            // One that comes in parts is looked at in the end.
            if bytes.len() as u64 == self.entry(id).size
                && let Ok(snapshot) = Snapshot::parse(bytes)
            {
                self.examine(id.link, &snapshot);
            }
            return Ok(());
        }
        let Some(staged) = self.files[id.link][id.file].get() else { return Ok(()) };
        self.write_pages(staged, offset, bytes)?;
        forkd_sys::start_writeback(&staged.file, offset, bytes.len() as u64);
        Ok(())
    }

    fn written(&self, id: FileId, blocks: String) {
        lock(&self.blocks).push((id, blocks));
    }

    fn advance(&self, bytes: u64) {
        if self.job.count_content {
            self.job.env.progress.advance(bytes);
        }
    }
}
