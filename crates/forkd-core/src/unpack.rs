//! From a pack to snapshots in the store.

use crate::receive::{Incoming, Sink};
use crate::store::{HashedFile, LockKind, Record, RecordedFile, Source, Staging, Stored, modified_ns, sealed_mode};
use crate::{Env, Error, Kind, Result, Store};
use forkd_format::manifest::{FileEntry, Link, MEMORY, ROOTFS, RootfsSidecar, SNAPSHOT_JSON};
use forkd_format::reader::FileId;
use forkd_format::{Digest, Manifest, PAGE_SIZE, Snapshot, Tag};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// How to unpack.
#[derive(Debug, Clone, Default)]
pub struct UnpackOptions {
    /// Another tag for the snapshot; not for chains.
    pub tag: Option<Tag>,
    /// Whether a snapshot with other bytes may be replaced.
    pub force: bool,
}

/// What became of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there before.
    Created,
    /// It took the place of another.
    Replaced,
    /// It was there already, with the same bytes.
    Kept,
}

/// One link.
#[derive(Debug, Clone)]
pub struct LinkReport {
    /// Its tag in the pack.
    pub tag: Tag,
    /// Its tag in the store.
    pub local_tag: Tag,
    /// Its folder.
    pub path: PathBuf,
    /// Its parent in the chain.
    pub parent: Option<Tag>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What was unpacked.
#[derive(Debug, Clone)]
pub struct UnpackReport {
    /// The links, root first.
    pub links: Vec<LinkReport>,
    /// The head's tag in the store.
    pub head: Tag,
    /// Whether it was a version 2 pack.
    pub chain: bool,
    /// Bytes that the pack unpacks to.
    pub unpacked_size: u64,
}

impl UnpackReport {
    /// Whether every link was there already.
    #[must_use]
    pub fn nothing_new(&self) -> bool {
        self.links.iter().all(|link| link.outcome == Outcome::Kept)
    }
}

/// Where a pack comes from, and how its parts are fetched and checked.
pub(crate) struct Origin<'a> {
    pub(crate) source: Source,
    /// Opens the root disk beside the pack.
    pub(crate) sidecar: &'a mut dyn FnMut(&RootfsSidecar) -> Result<Box<dyn Read + Send>>,
    /// Whether to stop after the manifest where all it names is here already.
    pub(crate) trust_manifest: bool,
    /// Whether progress counts unpacked bytes (else the input counts its own).
    pub(crate) count_content: bool,
}

/// Unpacks a file.
///
/// # Errors
/// [`Kind::NotFound`], [`Kind::Integrity`], [`Kind::General`] for a tag that is taken, and what the disk says.
pub fn unpack_file(store: &Store, file: &Path, options: &UnpackOptions, env: Env<'_>) -> Result<UnpackReport> {
    let name = file.display().to_string();
    let input = File::open(file).map_err(Error::io("open", file))?;
    if !input.metadata().map_err(Error::io("open", file))?.is_file() {
        return Err(Error::new(Kind::Usage, format!("{name} is not a regular file; expected a pack")));
    }
    let mut sidecar = |rootfs: &RootfsSidecar| open_beside(file, rootfs);
    let source = Source { name: name.clone(), sha256: None };
    let mut origin = Origin { source, sidecar: &mut sidecar, trust_manifest: false, count_content: true };
    let incoming = Incoming::open(input, &name, env)?;
    env.progress.start("unpacking", Some(incoming.manifest().unpacked_size()));
    let report = unpack(store, incoming, options, &mut origin, |_| Ok(()), env);
    env.progress.finish();
    report
}

/// The root disk that lies beside a pack file.
pub(crate) fn open_beside(pack: &Path, rootfs: &RootfsSidecar) -> Result<Box<dyn Read + Send>> {
    let path = pack.with_file_name(rootfs.file_name());
    match File::open(&path) {
        Ok(file) => Ok(Box::new(file)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::new(
            Kind::NotFound,
            format!("{}: the pack's root disk is missing; expected it beside {}", path.display(), pack.display()),
        )),
        Err(e) => Err(Error::io("open", &path)(e)),
    }
}

/// Unpacks a stream whose manifest was read. `check` is given the input after its last byte, before anything is published.
pub(crate) fn unpack<R: Read>(
    store: &Store,
    incoming: Incoming<R>,
    options: &UnpackOptions,
    origin: &mut Origin<'_>,
    check: impl FnOnce(R) -> Result<()>,
    env: Env<'_>,
) -> Result<UnpackReport> {
    let manifest = incoming.manifest().clone();
    let tags = local_tags(&manifest, options.tag.as_ref())?;
    let _locks = store.lock_all(&tags, LockKind::Exclusive, env)?;
    let outcomes = plan(store, &manifest, &tags, options)?;
    let report = report(store, &manifest, &tags, &outcomes);
    if report.nothing_new() && origin.trust_manifest {
        return Ok(report);
    }
    let staging = store.stage(env)?;
    let unpacking = Unpacking::new(store, &manifest, &staging, &outcomes, origin, env)?;
    check(incoming.receive(&unpacking, env)?)?;
    if report.nothing_new() {
        return Ok(report);
    }
    if let Some(rootfs) = &manifest.rootfs {
        unpacking.take_sidecar(rootfs, (origin.sidecar)(rootfs)?, env)?;
    }
    let staged = unpacking.seal(&tags, origin)?;
    env.cancel.check()?;
    for (dir, tag) in staged.iter().zip(&tags).filter_map(|(dir, tag)| dir.as_ref().map(|dir| (dir, tag))) {
        store.publish(dir, tag)?;
    }
    Ok(report)
}

fn local_tags(manifest: &Manifest, renamed: Option<&Tag>) -> Result<Vec<Tag>> {
    match renamed {
        None => Ok(manifest.links.iter().map(|link| link.tag.clone()).collect()),
        Some(tag) if manifest.links.len() == 1 => Ok(vec![tag.clone()]),
        Some(_) => Err(Error::new(
            Kind::Usage,
            format!(
                "--tag renames one snapshot, and this pack holds a chain of {}: its links name each other",
                manifest.links.len()
            ),
        )),
    }
}

/// What will become of each link, decided before anything is written.
fn plan(store: &Store, manifest: &Manifest, tags: &[Tag], options: &UnpackOptions) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for (link, tag) in manifest.links.iter().zip(tags) {
        if !store.contains(tag) {
            outcomes.push(Outcome::Created);
            continue;
        }
        let difference = match store.load(tag) {
            Ok(stored) => difference(&stored, link, manifest.rootfs.as_ref())?,
            Err(e) => Some(format!("it cannot be read ({e})")),
        };
        outcomes.push(match difference {
            None => Outcome::Kept,
            Some(_) if options.force => Outcome::Replaced,
            Some(how) => {
                let dir = store.dir(tag);
                let message = format!(
                    "'{tag}' is already at {} with other bytes: {how}. Use --force to replace it{}",
                    dir.display(),
                    if manifest.links.len() == 1 { ", or --tag to unpack under another name" } else { "" }
                );
                return Err(Error::new(Kind::General, message));
            }
        });
    }
    let replaced: Vec<Tag> = tags
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| **outcome == Outcome::Replaced)
        .map(|(tag, _)| tag.clone())
        .collect();
    for (parent, child) in store.dependents(&replaced)? {
        if !tags.contains(&child) {
            let message = format!("'{child}' is chained to '{parent}', which this pack would replace; `forkd rmi {child}` first");
            return Err(Error::new(Kind::General, message));
        }
    }
    Ok(outcomes)
}

/// How a stored snapshot differs from a link, or `None` where it has the same bytes.
fn difference(stored: &Stored, link: &Link, sidecar: Option<&RootfsSidecar>) -> Result<Option<String>> {
    let bodies = stored.bodies();
    let wanted = |name: &str| match (link.file(name), sidecar) {
        (Some(file), _) => Some((file.size, file.sha256)),
        (None, Some(rootfs)) if name == ROOTFS => Some((rootfs.size, rootfs.sha256)),
        _ => None,
    };
    if let (None, Some(_)) = (stored.rootfs(), wanted(ROOTFS)) {
        return Ok(Some(format!("it has no {ROOTFS}")));
    }
    for (name, path) in &bodies {
        let Some((size, sha256)) = wanted(name) else { return Ok(Some(format!("it has a {name} more"))) };
        match path.metadata() {
            Ok(metadata) if metadata.len() == size => {}
            Ok(metadata) => return Ok(Some(format!("its {name} has {} bytes, the pack's {size}", metadata.len()))),
            Err(_) => return Ok(Some(format!("it has no {name}"))),
        }
        if stored.digest(name, path)? != sha256 {
            return Ok(Some(format!("its {name} differs")));
        }
    }
    let packed = stored.record.as_ref().and_then(|record| record.packed_snapshot_json);
    let wanted = link.file(SNAPSHOT_JSON).map(|file| file.sha256);
    let portable = Digest::of(&stored.snapshot.relocated("", None).to_bytes());
    if packed != wanted && Some(portable) != wanted {
        return Ok(Some(format!("its {SNAPSHOT_JSON} differs")));
    }
    Ok(None)
}

fn report(store: &Store, manifest: &Manifest, tags: &[Tag], outcomes: &[Outcome]) -> UnpackReport {
    let links = manifest.links.iter().zip(tags).zip(outcomes).map(|((link, tag), outcome)| LinkReport {
        tag: link.tag.clone(),
        local_tag: tag.clone(),
        path: store.dir(tag),
        parent: link.parent_tag.clone(),
        outcome: *outcome,
    });
    UnpackReport {
        links: links.collect(),
        head: tags[tags.len() - 1].clone(),
        chain: manifest.version == 2,
        unpacked_size: manifest.unpacked_size(),
    }
}

/// A file that is being written.
struct Staged {
    path: PathBuf,
    file: File,
}

struct Unpacking<'a> {
    store: &'a Store,
    manifest: &'a Manifest,
    /// The staged folder of each link; none where the link is kept.
    dirs: Vec<Option<PathBuf>>,
    files: Vec<Vec<OnceLock<Staged>>>,
    blocks: Mutex<Vec<(FileId, String)>>,
    descriptions: Mutex<Vec<Vec<u8>>>,
    sidecar: OnceLock<HashedFile>,
    env: Env<'a>,
    count_content: bool,
}

impl<'a> Unpacking<'a> {
    fn new(
        store: &'a Store,
        manifest: &'a Manifest,
        staging: &Staging,
        outcomes: &[Outcome],
        origin: &Origin<'_>,
        env: Env<'a>,
    ) -> Result<Self> {
        let dirs = outcomes
            .iter()
            .enumerate()
            .map(|(i, outcome)| match outcome {
                Outcome::Kept => Ok(None),
                _ => staging.dir(&i.to_string()).map(Some),
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            store,
            manifest,
            dirs,
            files: manifest.links.iter().map(|link| link.files.iter().map(|_| OnceLock::new()).collect()).collect(),
            blocks: Mutex::default(),
            descriptions: Mutex::new(manifest.links.iter().map(|_| Vec::new()).collect()),
            sidecar: OnceLock::new(),
            env,
            count_content: origin.count_content,
        })
    }

    fn entry(&self, id: FileId) -> &FileEntry {
        &self.manifest.links[id.link].files[id.file]
    }

    fn create(&self, dir: &Path, name: &str) -> Result<Staged> {
        let path = dir.join(name);
        let file = self.store.disk().create(&path, 0o644).map_err(Error::io("create", &path))?;
        Ok(Staged { path, file })
    }

    /// Unpacks the root disk beside the pack into the snapshot's own folder; the path that the pack names is never used.
    fn take_sidecar(&self, rootfs: &RootfsSidecar, input: Box<dyn Read + Send>, env: Env<'_>) -> Result<()> {
        let Some(dir) = self.dirs.first().and_then(Option::as_ref) else { return Ok(()) };
        let name = rootfs.file_name();
        let staged = self.create(dir, ROOTFS)?;
        let mut decoder = zstd::stream::read::Decoder::new(input).map_err(|e| crate::frames::read_error(&name, e))?;
        let limit = decoder.window_log_max(forkd_format::frame::MAX_WINDOW_LOG);
        limit.map_err(|e| crate::frames::read_error(&name, e))?;
        let mut buffer = vec![0; 1 << 20];
        let (mut hasher, mut sums) = (forkd_format::Hasher::default(), crate::blocks::BlockSums::default());
        let mut at = 0;
        loop {
            env.cancel.check()?;
            let read = decoder.read(&mut buffer).map_err(|e| sidecar_error(&name, e))?;
            if read == 0 {
                break;
            }
            if at + read as u64 > rootfs.size {
                let message = format!("{name}: more than the {} bytes that the manifest declares", rootfs.size);
                return Err(Error::new(Kind::Integrity, message));
            }
            hasher.update(&buffer[..read]);
            sums.update(&buffer[..read]);
            self.write_pages(&staged, at, &buffer[..read])?;
            at += read as u64;
        }
        let found = hasher.finish();
        if at != rootfs.size || found != rootfs.sha256 {
            let message = format!(
                "{name}: {at} bytes with sha256 {found}; the manifest declares {} bytes with {}",
                rootfs.size, rootfs.sha256
            );
            return Err(Error::new(Kind::Integrity, message));
        }
        let mtime_ns = self.finish_file(&staged, rootfs.size)?;
        let _ = self.sidecar.set(HashedFile { sha256: found, size: at, blocks: sums.finish(), mtime_ns });
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

    fn flush(&self, staged: &Staged, offset: u64, bytes: &[u8], run: Option<std::ops::Range<usize>>) -> Result<()> {
        let Some(run) = run else { return Ok(()) };
        let at = offset + run.start as u64;
        let disk = self.store.disk();
        disk.write_at(&staged.file, &staged.path, &bytes[run], at).map_err(Error::io("write", &staged.path))
    }

    /// Gives a file its whole length, seals and syncs it; says when it was last written.
    fn finish_file(&self, Staged { path, file }: &Staged, size: u64) -> Result<i64> {
        let disk = self.store.disk();
        disk.set_len(file, path, size).map_err(Error::io("write", path))?;
        disk.set_mode(file, path, sealed_mode(path)).map_err(Error::io("seal", path))?;
        disk.sync_file(file, path).map_err(Error::io("sync", path))?;
        Ok(modified_ns(&file.metadata().map_err(Error::io("read", path))?))
    }

    fn write_small(&self, dir: &Path, name: &str, bytes: &[u8]) -> Result<i64> {
        let staged = self.create(dir, name)?;
        let disk = self.store.disk();
        disk.write_at(&staged.file, &staged.path, bytes, 0).map_err(Error::io("write", &staged.path))?;
        self.finish_file(&staged, bytes.len() as u64)
    }

    /// Completes every staged folder: lengths, descriptions with paths of this host, records; all synced.
    fn seal(self, tags: &[Tag], origin: &Origin<'_>) -> Result<Vec<Option<PathBuf>>> {
        let descriptions = self.descriptions.lock().unwrap_or_else(PoisonError::into_inner);
        for (l, link) in self.manifest.links.iter().enumerate() {
            let Some(dir) = &self.dirs[l] else { continue };
            let mut record = Record {
                record_version: 1,
                files: self.recorded_files(l, link)?,
                packed_snapshot_json: link.file(SNAPSHOT_JSON).map(|file| file.sha256),
                source: Some(origin.source.clone()),
                description: self.manifest.description.clone(),
                base_image: self.manifest.base_image.clone(),
                created_at: self.manifest.created_at.clone(),
            };
            let snapshot = Snapshot::parse(&descriptions[l]).map_err(Error::malformed(link.tag.to_string()))?;
            check_parent(link, &snapshot)?;
            let target = self.store.dir(&tags[l]);
            let rootfs = self.sidecar.get().map(|_| target.join(ROOTFS).display().to_string());
            let local = snapshot.relocated(&format!("{}/", target.display()), rootfs.as_deref()).to_bytes();
            let mtime_ns = self.write_small(dir, SNAPSHOT_JSON, &local)?;
            record.files.insert(0, HashedFile::of(&local, mtime_ns).recorded(SNAPSHOT_JSON));
            let text = serde_json::to_vec(&record).map_err(|e| Error::new(Kind::General, e.to_string()))?;
            self.write_small(dir, Record::NAME, &text)?;
        }
        drop(descriptions);
        Ok(self.dirs)
    }

    fn recorded_files(&self, l: usize, link: &Link) -> Result<Vec<RecordedFile>> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut files = Vec::new();
        for (f, entry) in link.files.iter().enumerate().filter(|(_, entry)| entry.path != SNAPSHOT_JSON) {
            let id = FileId { link: l, file: f };
            let Some(staged) = self.files[l][f].get() else { continue };
            let mtime_ns = self.finish_file(staged, entry.size)?;
            let found = blocks.iter().position(|(file, _)| *file == id).map(|i| blocks.swap_remove(i).1);
            let (path, size, sha256) = (entry.path.clone(), entry.size, entry.sha256);
            files.push(RecordedFile { path, size, sha256, mtime_ns, blocks: found.unwrap_or_default() });
        }
        files.extend(self.sidecar.get().map(|hashed| hashed.clone().recorded(ROOTFS)));
        Ok(files)
    }
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
            // At most a MiB, by the manifest's rules.
            let mut descriptions = self.descriptions.lock().unwrap_or_else(PoisonError::into_inner);
            let text = &mut descriptions[id.link];
            let end = offset as usize + bytes.len();
            text.resize(text.len().max(end), 0);
            text[offset as usize..end].copy_from_slice(bytes);
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

/// The description that the guest's daemon walks must agree with the manifest that was checked.
fn check_parent(link: &Link, snapshot: &Snapshot) -> Result<()> {
    let named = snapshot.parent().map_err(Error::malformed(link.tag.to_string()))?;
    let tag = named.as_ref().map(|parent| &parent.tag);
    let hash = named.as_ref().and_then(|parent| parent.content_hash);
    if tag != link.parent_tag.as_ref() || hash.is_some_and(|hash| Some(hash) != link.parent_content_hash) {
        let words = |tag: Option<&Tag>| tag.map_or_else(|| "no parent".to_owned(), |tag| format!("the parent '{tag}'"));
        let message = format!(
            "'{}': snapshot.json names {}; the manifest names {}",
            link.tag,
            words(tag),
            words(link.parent_tag.as_ref())
        );
        return Err(Error::new(Kind::Integrity, message));
    }
    Ok(())
}

/// A decoder says in words of its own that its input is damaged; everything else is the disk's or the network's.
fn sidecar_error(name: &str, error: std::io::Error) -> Error {
    if error.raw_os_error().is_none() && !error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Error>) {
        return Error::new(Kind::Integrity, format!("{name}: {error}"));
    }
    crate::frames::read_error(name, error)
}

/// The memory image's digest names a snapshot to its children.
pub(crate) fn memory_digest(stored: &Stored) -> Result<Digest> {
    stored.digest(MEMORY, &stored.dir.join(MEMORY))
}
