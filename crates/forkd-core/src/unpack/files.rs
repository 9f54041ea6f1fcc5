//! The files of a pack on their way into a staging folder.

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::description::{parse_description, put};
use crate::pack::paged::page_source::SourceFile;
use crate::pack::sidecar::read_sidecar;
use crate::pack::stream::read::Sink;
use crate::store::record::{HashedFile, Record, RecordedFile, Source};
use crate::store::root::Store;
use crate::store::staged::{complete, write_sealed};
use crate::unpack::origin::Origin;
use crate::unpack::plan::{Examine, Outcome, UnpackOptions};
use forkd_format::manifest::{FileEntry, Link, ROOTFS, RootfsSidecar, SNAPSHOT_JSON};
use forkd_format::reader::FileId;
use forkd_format::{Digest, Manifest, PAGE_SIZE, Snapshot, Tag};
use forkd_sys::Disk;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

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

/// A file that is being written.
struct Staged {
    path: PathBuf,
    file: File,
}

pub(crate) struct Unpacking<'a> {
    store: &'a Store,
    manifest: &'a Manifest,
    /// The staged folder of each link; none where the link is kept.
    dirs: Vec<Option<PathBuf>>,
    files: Vec<Vec<OnceLock<Staged>>>,
    blocks: Mutex<Vec<(FileId, String)>>,
    descriptions: Mutex<Vec<Vec<u8>>>,
    sidecar: OnceLock<RecordedFile>,
    examine: Option<&'a Examine>,
    examined: AtomicBool,
    env: Env<'a>,
    count_content: bool,
}

impl<'a> Unpacking<'a> {
    /// `root` is the folder that staged snapshots go into; what an earlier run left there is gone on with.
    pub(crate) fn new(
        store: &'a Store,
        manifest: &'a Manifest,
        root: &Path,
        outcomes: &[Outcome],
        origin: &Origin<'_>,
        options: &'a UnpackOptions,
        env: Env<'a>,
    ) -> Result<Self> {
        let dirs = outcomes
            .iter()
            .enumerate()
            .map(|(i, outcome)| match outcome {
                Outcome::Kept => Ok(None),
                _ => make_dir(store, root.join(i.to_string()), &manifest.links[i]).map(Some),
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            store,
            manifest,
            dirs,
            files: manifest
                .links
                .iter()
                .map(|link| link.files.iter().map(|_| OnceLock::new()).collect())
                .collect(),
            blocks: Mutex::default(),
            descriptions: Mutex::new(manifest.links.iter().map(|_| Vec::new()).collect()),
            sidecar: OnceLock::new(),
            examine: options.examine.as_ref(),
            examined: AtomicBool::new(false),
            env,
            count_content: origin.count_content,
        })
    }

    fn entry(&self, id: FileId) -> &FileEntry {
        &self.manifest.links[id.link].files[id.file]
    }

    /// Tells the user, once, where this host cannot fork the head.
    fn examine(&self, link: usize, snapshot: &Snapshot) {
        let Some(Examine(examine)) = self.examine.filter(|_| link + 1 == self.manifest.links.len()) else {
            return;
        };
        if !self.examined.swap(true, Ordering::Relaxed)
            && let Err(error) = examine(snapshot)
        {
            self.env.progress.note(&format!("'{}' cannot be forked here: {error}", self.manifest.tag));
        }
    }

    /// Makes a file of its whole length, or opens the one that an earlier run made.
    pub(crate) fn open_whole(&self, id: FileId) -> Result<()> {
        let entry = self.entry(id);
        let Some(dir) = self.dirs[id.link].as_ref().filter(|_| entry.path != SNAPSHOT_JSON) else {
            return Ok(());
        };
        let path = dir.join(&entry.path);
        let disk = self.store.disk();
        let open = || File::options().read(true).write(true).open(&path);
        let staged = match open() {
            Err(e) if e.kind() == ErrorKind::NotFound => self.create(dir, &entry.path)?,
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                unseal(disk, &path).map_err(Error::io("unseal", &path))?;
                Staged { file: open().map_err(Error::io("open", &path))?, path }
            }
            file => Staged { file: file.map_err(Error::io("open", &path))?, path },
        };
        disk.set_len(&staged.file, &staged.path, entry.size).map_err(Error::io("write", &staged.path))?;
        let _ = self.files[id.link][id.file].set(staged);
        Ok(())
    }

    /// A staged file as one that frames may refer to; a description is none.
    pub(crate) fn as_source(&self, id: FileId) -> Result<SourceFile> {
        let size = self.entry(id).size;
        match self.files[id.link][id.file].get() {
            Some(Staged { path, file }) => {
                let file = file.try_clone().map_err(Error::io("open", path))?;
                Ok(SourceFile { file: Some(file), path: path.clone(), size })
            }
            None => Ok(SourceFile { file: None, path: self.entry(id).path.clone().into(), size: 0 }),
        }
    }

    /// Reads a staged file; false for a description, which is in no file.
    pub(crate) fn read_staged(&self, id: FileId, offset: u64, buffer: &mut [u8]) -> Result<bool> {
        let Some(Staged { path, file }) = self.files[id.link][id.file].get() else { return Ok(false) };
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
        self.manifest.links.iter().position(|link| {
            end += link.files.len();
            file < end
        })
    }

    /// Writes bytes that are not zero.
    pub(crate) fn write_run(&self, id: FileId, offset: u64, bytes: &[u8]) -> Result<()> {
        if self.entry(id).path == SNAPSHOT_JSON {
            return self.write(id, offset, bytes);
        }
        let Some(Staged { path, file }) = self.files[id.link][id.file].get() else { return Ok(()) };
        self.store.disk().write_at(file, path, bytes, offset).map_err(Error::io("write", path))
    }

    /// So many bytes of a file are whole now.
    pub(crate) fn frame_landed(&self, id: FileId, offset: u64, len: usize) {
        if let Some(staged) = self.files[id.link][id.file].get() {
            forkd_sys::start_writeback(&staged.file, offset, len as u64);
        }
        self.advance(len as u64);
    }

    fn create(&self, dir: &Path, name: &str) -> Result<Staged> {
        let path = dir.join(name);
        let file = self.store.disk().create(&path, 0o644).map_err(Error::io("create", &path))?;
        Ok(Staged { path, file })
    }

    /// Unpacks the root disk beside the pack into the snapshot's own folder; the path that the pack names is never used.
    pub(crate) fn take_sidecar(
        &self,
        rootfs: &RootfsSidecar,
        input: Box<dyn Read + Send>,
        env: Env<'_>,
    ) -> Result<()> {
        let Some(dir) = self.dirs.first().and_then(Option::as_ref) else { return Ok(()) };
        let staged = self.create(dir, ROOTFS)?;
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
    fn write_pages(&self, staged: &Staged, offset: u64, bytes: &[u8]) -> Result<()> {
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
        staged: &Staged,
        offset: u64,
        bytes: &[u8],
        run: Option<std::ops::Range<usize>>,
    ) -> Result<()> {
        let Some(run) = run else { return Ok(()) };
        let at = offset + run.start as u64;
        let disk = self.store.disk();
        disk.write_at(&staged.file, &staged.path, &bytes[run], at).map_err(Error::io("write", &staged.path))
    }

    /// Gives a file its whole length, seals and syncs it; says when it was last written.
    fn finish_file(&self, Staged { path, file }: &Staged, size: u64) -> Result<i64> {
        let disk = self.store.disk();
        disk.set_len(file, path, size).map_err(Error::io("write", path))?;
        complete(disk, file, path)
    }

    /// Completes every staged folder: lengths, descriptions with paths of this host, records; all synced.
    pub(crate) fn seal(&self, tags: &[Tag], origin: &Origin<'_>) -> Result<Vec<Option<PathBuf>>> {
        let descriptions = self.descriptions.lock().unwrap_or_else(PoisonError::into_inner);
        for (l, link) in self.manifest.links.iter().enumerate() {
            let Some(dir) = &self.dirs[l] else { continue };
            let mut record = Record {
                record_version: 1,
                files: self.recorded_files(l, link)?,
                packed_snapshot_json: link.file(SNAPSHOT_JSON).map(|file| file.sha256),
                source: Some(Source { head: Some(self.manifest.tag.clone()), ..origin.source.clone() }),
                description: self.manifest.description.clone(),
                base_image: self.manifest.base_image.clone(),
                created_at: self.manifest.created_at.clone(),
            };
            let snapshot = self.description(link, &descriptions[l])?;
            self.examine(l, &snapshot);
            let target = self.store.dir(&tags[l]);
            let rootfs = self.sidecar.get().map(|_| target.join(ROOTFS).display().to_string());
            let local = snapshot.relocated(&format!("{}/", target.display()), rootfs.as_deref()).to_bytes();
            Snapshot::parse(&local).map_err(Error::malformed(link.tag.to_string()))?;
            let mtime_ns = write_sealed(self.store.disk(), &dir.join(SNAPSHOT_JSON), &local)?;
            record.files.insert(0, HashedFile::of(&local, mtime_ns).recorded(SNAPSHOT_JSON));
            let text = serde_json::to_vec(&record).map_err(|e| Error::new(Kind::General, e.to_string()))?;
            write_sealed(self.store.disk(), &dir.join(Record::NAME), &text)?;
        }
        drop(descriptions);
        Ok(self.dirs.clone())
    }

    /// Holds every description against the manifest.
    pub(crate) fn check_descriptions(&self) -> Result<()> {
        let descriptions = self.descriptions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut links = self.manifest.links.iter().zip(descriptions.iter());
        links.try_for_each(|(link, bytes)| self.description(link, bytes).map(drop))
    }

    fn description(&self, link: &Link, bytes: &[u8]) -> Result<Snapshot> {
        // In versions 1 and 2 its digest was checked with those of the other files; in version 3 its frames were.
        if let Some(file) = link.file(SNAPSHOT_JSON).filter(|file| file.root.is_some())
            && Digest::of(bytes) != file.sha256
        {
            let message = format!("'{}': {SNAPSHOT_JSON} is not what the manifest declares", link.tag);
            return Err(Error::new(Kind::Integrity, message));
        }
        parse_description(link, bytes)
    }

    fn recorded_files(&self, l: usize, link: &Link) -> Result<Vec<RecordedFile>> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
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

/// Makes the folder of a link. Of what an earlier run left there, only the files that frames fill are gone on with.
fn make_dir(store: &Store, path: PathBuf, link: &Link) -> Result<PathBuf> {
    let disk = store.disk();
    if !path.is_dir() {
        disk.make_dir(&path).map_err(Error::io("create", &path))?;
    }
    for entry in std::fs::read_dir(&path).map_err(Error::io("read", &path))? {
        let entry = entry.map_err(Error::io("read", &path))?;
        let name = entry.file_name();
        let filled = |file: &FileEntry| file.path != SNAPSHOT_JSON && name == *file.path;
        if !link.files.iter().any(filled) {
            disk.remove_file(&entry.path()).map_err(Error::io("remove", &entry.path()))?;
        }
    }
    Ok(path)
}

/// Lets its owner write to a file again that a run sealed which then did not come to publish it.
fn unseal(disk: &Disk, path: &Path) -> std::io::Result<()> {
    let file = File::open(path)?;
    disk.set_mode(&file, path, file.metadata()?.mode() & 0o777 | 0o200)
}

impl Sink for Unpacking<'_> {
    fn start(&self, id: FileId) -> Result<()> {
        let entry = self.entry(id);
        if let Some(dir) = self.dirs[id.link].as_ref().filter(|_| entry.path != SNAPSHOT_JSON) {
            let staged = self.create(dir, &entry.path)?;
            let _ = self.files[id.link][id.file].set(staged);
        }
        Ok(())
    }

    fn write(&self, id: FileId, offset: u64, bytes: &[u8]) -> Result<()> {
        if self.entry(id).path == SNAPSHOT_JSON {
            let mut descriptions = self.descriptions.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).push((id, blocks));
    }

    fn advance(&self, bytes: u64) {
        if self.count_content {
            self.env.progress.advance(bytes);
        }
    }
}
