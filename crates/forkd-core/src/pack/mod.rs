//! From snapshots in the store to a pack: read once, hashed and compressed on all cores, written in order.

mod input;

use crate::buffers::frames_in_flight;
use crate::frames::{COMPRESSED_LEN, Piece, Pieces};
use crate::lanes::{self, LaneKind, Lanes};
use crate::store::{LockKind, Stored};
use crate::{Env, Error, Kind, Result, Store};
use forkd_format::layout::{END_OF_ARCHIVE, entry_header, padding};
use forkd_format::manifest::{FILE_ORDER, FileEntry, Link, MANIFEST, MEMORY, SNAPSHOT_JSON};
use forkd_format::{Digest, Hasher, Manifest, Tag};
use input::{Body, Input, Part, Parts, open_inputs, read_data};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

/// How to pack.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// The snapshot; with it go its ancestors.
    pub tag: Tag,
    /// For people; where none is given, what the snapshot came with.
    pub description: Option<String>,
    /// The container image behind the rootfs; where none is given, what the snapshot came with.
    pub base_image: Option<String>,
    /// zstd's level, 1 to 22.
    pub level: i32,
    /// RFC 3339, UTC.
    pub created_at: String,
}

/// What was packed.
#[derive(Debug, Clone)]
pub struct PackReport {
    /// The pack.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// The size of what is in it, in bytes.
    pub unpacked_size: u64,
    /// Links of the chain; 1 for a base.
    pub links: usize,
    /// What it says of itself.
    pub manifest: Manifest,
}

/// Packs into a new file; one that is there is replaced only by a whole pack.
///
/// # Errors
/// [`Kind::NotFound`], [`Kind::Integrity`] for a chain whose edges do not hold, and what the disk says.
pub fn pack(store: &Store, options: &PackOptions, out: &Path, env: Env<'_>) -> Result<PackReport> {
    if out.symlink_metadata().is_ok_and(|found| !found.is_file()) {
        return Err(Error::new(Kind::Usage, format!("{} exists and is not a regular file", out.display())));
    }
    let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let (Ok(dir), Ok(root)) = (dir.canonicalize(), store.root().canonicalize())
        && dir.starts_with(&root)
    {
        return Err(Error::new(
            Kind::Usage,
            format!("{} is inside the store; choose another folder", out.display()),
        ));
    }
    crate::push::sweep(dir, ".forkd-pack-");
    let disk = store.disk();
    let temp = tempfile::Builder::new()
        .prefix(".forkd-pack-")
        .make_in(dir, |path| disk.create(path, 0o644))
        .map_err(Error::io("create a file in", dir))?;
    forkd_sys::try_lock(temp.as_file(), forkd_sys::LockKind::Exclusive)
        .map_err(Error::io("lock", temp.path()))?;
    let mut report = pack_into(store, options, temp.as_file(), temp.path(), env)?;
    disk.sync_file(temp.as_file(), out).map_err(Error::io("sync", out))?;
    let (_, path) = temp.keep().map_err(|e| Error::io("keep", out)(e.error))?;
    disk.replace(&path, out)
        .map_err(Error::io("create", out))
        .inspect_err(|_| drop(std::fs::remove_file(&path)))?;
    disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
    report.path = out.to_owned();
    Ok(report)
}

/// Packs into an open, empty file.
pub(crate) fn pack_into(
    store: &Store,
    options: &PackOptions,
    out: &File,
    path: &Path,
    env: Env<'_>,
) -> Result<PackReport> {
    let tags: Vec<Tag> = store.chain(&options.tag)?.into_iter().map(|link| link.tag).collect();
    let _locks = store.lock_all(&tags, LockKind::Shared, env)?;
    let chain = store.chain(&options.tag)?;
    let inputs = open_inputs(&chain)?;
    let mut manifest = draft(&chain, &inputs, options)?;
    env.progress.start("packing", Some(manifest.unpacked_size()));
    let packed = write(&mut manifest, &inputs, options.level, store, out, path, env);
    env.progress.finish();
    let size = packed?;
    check_records(&chain, &manifest)?;
    Ok(PackReport {
        path: path.to_owned(),
        size,
        unpacked_size: manifest.unpacked_size(),
        links: chain.len(),
        manifest,
    })
}

/// The manifest with every size and no digest: exactly as long as it will be.
fn draft(chain: &[Stored], inputs: &[Input], options: &PackOptions) -> Result<Manifest> {
    let unknown = Digest::of(b"");
    let mut links = Vec::new();
    for (l, stored) in chain.iter().enumerate() {
        let names = std::iter::once(SNAPSHOT_JSON).chain(stored.bodies().into_iter().map(|(name, _)| name));
        let sizes = inputs.iter().filter(|input| input.link == l).map(|input| input.size);
        let files: Vec<FileEntry> = names
            .zip(sizes)
            .map(|(name, size)| FileEntry { path: name.into(), size, sha256: unknown })
            .collect();
        debug_assert!(
            files
                .iter()
                .map(|f| f.path.as_str())
                .eq(FILE_ORDER.into_iter().filter(|n| files.iter().any(|f| f.path == *n)))
        );
        let parent = stored.snapshot.parent().map_err(Error::malformed(stored.dir.display().to_string()))?;
        let parent_tag = parent.as_ref().map(|parent| parent.tag.clone());
        // A host that wrote no hash trusts the tag; the pack names what the parent is now.
        let hash = parent.map(|parent| parent.content_hash.unwrap_or(unknown));
        links.push(Link { tag: stored.tag.clone(), parent_tag, parent_content_hash: hash, files });
    }
    let head = chain.last().and_then(|stored| stored.record.clone()).unwrap_or_default();
    Ok(Manifest {
        version: if links.len() == 1 { 1 } else { 2 },
        tag: options.tag.clone(),
        description: options.description.clone().or(head.description),
        base_image: options.base_image.clone().or(head.base_image),
        created_at: Some(options.created_at.clone()),
        forkd_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        links,
        rootfs: None,
    })
}

const HASH: usize = 0;
const WRITE: usize = 1;
const COMPRESS: usize = 2;
const LANES: [LaneKind; 3] = [LaneKind::Ordered, LaneKind::Ordered, LaneKind::Parallel];

/// The kernel is asked to begin writing to the disk in steps of so many bytes.
const WRITEBACK_STEP: u64 = 8 << 20;

/// What the jobs of one run share.
struct Shared<'e> {
    level: i32,
    inputs: &'e [Input],
    hashes: Mutex<Vec<(Hasher, Option<Digest>)>>,
    output: Mutex<Output<'e>>,
    compressors: Mutex<Vec<Compressor<'static>>>,
    /// Frames of zeros, by their length: most of a memory image.
    zero_frames: Mutex<HashMap<usize, Arc<Vec<u8>>>>,
    env: Env<'e>,
}

struct Output<'e> {
    store: &'e Store,
    file: &'e File,
    path: &'e Path,
    at: u64,
    /// How far the kernel was asked to begin writing to the disk.
    begun: u64,
}

impl Output<'_> {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.store
            .disk()
            .write_at(self.file, self.path, bytes, self.at)
            .map_err(Error::io("write", self.path))?;
        self.at += bytes.len() as u64;
        if self.at - self.begun >= WRITEBACK_STEP {
            forkd_sys::start_writeback(self.file, self.begun, self.at - self.begun);
            self.begun = self.at;
        }
        Ok(())
    }
}

fn write(
    manifest: &mut Manifest,
    inputs: &[Input],
    level: i32,
    store: &Store,
    out: &File,
    path: &Path,
    env: Env<'_>,
) -> Result<u64> {
    // The manifest comes first but is known last: room is kept for its frame, and a skippable frame fills what it leaves.
    let room = zstd::zstd_safe::compress_bound(manifest_entry(manifest)?.len()) + 8;
    let shared = Shared {
        level,
        inputs,
        hashes: Mutex::new(inputs.iter().map(|_| (Hasher::default(), None)).collect()),
        output: Mutex::new(Output { store, file: out, path, at: room as u64, begun: 0 }),
        compressors: Mutex::default(),
        zero_frames: Mutex::default(),
        env,
    };
    // High levels need tens of MiB a thread.
    let jobs = if level > 12 { env.jobs.min(2) } else { env.jobs };
    let pieces = Pieces::new(frames_in_flight(jobs), frames_in_flight(jobs));
    lanes::run(jobs, &LANES, env.cancel, |lanes| {
        let shared = &shared;
        let (mut frames, mut hashes) = (0, 0);
        let literal = |bytes: Vec<u8>, frames: &mut u64| {
            let number = *frames;
            *frames += 1;
            lanes.submit(COMPRESS, move |lanes| {
                let mut frame = vec![0; zstd::zstd_safe::compress_bound(bytes.len())];
                let len = shared.compress(&bytes, &mut frame)?;
                lanes.submit_ordered(WRITE, number, move |_| lock(&shared.output).append(&frame[..len]));
                Ok(())
            });
        };
        for (i, input) in inputs.iter().enumerate() {
            let link = &manifest.links[input.link];
            let name = manifest.entry_name(link, &link.files[input.index]);
            let header =
                entry_header(&name, input.size).map_err(Error::malformed(path.display().to_string()))?;
            literal(header.to_vec(), &mut frames);
            let mut parts = Parts::new(i, input);
            while let Some(part) = parts.next().map_err(Error::io("read", &input.path))? {
                let Ok(piece) = pieces.take(false, env.cancel, || lanes.failed()) else {
                    return env.cancel.check();
                };
                let (frame, hash) = (frames, hashes);
                lanes.submit(COMPRESS, move |lanes| shared.part(lanes, part, piece, frame, hash));
                frames += 1;
                hashes += 1;
            }
        }
        literal(END_OF_ARCHIVE.to_vec(), &mut frames);
        Ok(())
    })?;
    let digests = shared.hashes.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (input, (hasher, done)) in inputs.iter().zip(digests) {
        // An empty file has no parts and so was never finished.
        manifest.links[input.link].files[input.index].sha256 = done.unwrap_or_else(|| hasher.finish());
    }
    complete_edges(manifest)?;
    // What no forkd would read is not written.
    Manifest::parse(&manifest.to_bytes())
        .map_err(Error::malformed(format!("'{}' cannot be packed", manifest.tag)))?;
    let entry = manifest_entry(manifest)?;
    let mut front = vec![0; room];
    let len = compress(&mut compressor(level)?, &entry, &mut front)?;
    let rest = room - len - 8;
    front[len..len + 4].copy_from_slice(&0x184D_2A50_u32.to_le_bytes());
    front[len + 4..len + 8].copy_from_slice(&(rest as u32).to_le_bytes());
    store.disk().write_at(out, path, &front, 0).map_err(Error::io("write", path))?;
    let output = shared.output.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(output.at)
}

/// The manifest as a tar entry, padded.
fn manifest_entry(manifest: &Manifest) -> Result<Vec<u8>> {
    let text = manifest.to_bytes();
    let mut entry = entry_header(MANIFEST, text.len() as u64).map_err(Error::malformed(MANIFEST))?.to_vec();
    let pad = padding(text.len() as u64);
    entry.extend(text);
    entry.resize(entry.len() + pad, 0);
    Ok(entry)
}

/// Holds each link's parent hash against the digest that its parent turned out to have.
fn complete_edges(manifest: &mut Manifest) -> Result<()> {
    for i in 1..manifest.links.len() {
        let Some(memory) = manifest.links[i - 1].memory() else { continue };
        let parent = manifest.links[i - 1].tag.clone();
        let link = &mut manifest.links[i];
        match link.parent_content_hash {
            Some(hash) if hash == Digest::of(b"") => link.parent_content_hash = Some(memory),
            Some(hash) if hash != memory => {
                let message = format!(
                    "'{}' was made on top of '{parent}' with {MEMORY} {hash}, but '{parent}' has {memory} here: the chain \
                     would not restore. Pull or unpack the right '{parent}' first",
                    link.tag
                );
                return Err(Error::new(Kind::Integrity, message));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A snapshot that is not what was put there is not passed on.
fn check_records(chain: &[Stored], manifest: &Manifest) -> Result<()> {
    for (stored, link) in chain.iter().zip(&manifest.links) {
        for file in link.files.iter().filter(|file| file.path != SNAPSHOT_JSON) {
            let recorded = stored.record.as_ref().and_then(|record| record.file(&file.path));
            if let Some(recorded) = recorded.filter(|recorded| recorded.sha256 != file.sha256) {
                let message = format!(
                    "{}: sha256 is {}; recorded was {}. `forkd verify {}` shows where it is damaged",
                    stored.dir.join(&file.path).display(),
                    file.sha256,
                    recorded.sha256,
                    stored.tag
                );
                return Err(Error::new(Kind::Integrity, message));
            }
        }
    }
    Ok(())
}

impl Shared<'_> {
    /// Reads a part, hands it to be hashed, compresses it and hands that to be written.
    fn part<'s>(
        &'s self,
        lanes: &Lanes<'s>,
        part: Part,
        mut piece: Piece,
        frame: u64,
        hash: u64,
    ) -> Result<()> {
        let whole = part.len + part.pad;
        let zero = part.hole || {
            self.read(part, &mut piece.raw)?;
            forkd_sys::is_zero(&piece.raw[..part.len])
        };
        if zero {
            drop(piece);
            lanes.submit_ordered(HASH, hash, move |_| self.hash(part, None));
            let compressed = self.zero_frame(whole)?;
            lanes.submit_ordered(WRITE, frame, move |_| lock(&self.output).append(&compressed));
            return Ok(());
        }
        piece.raw[part.len..whole].fill(0);
        let Piece { mut compressed, raw } = piece;
        let raw = Arc::new(raw);
        let shared_raw = Arc::clone(&raw);
        lanes.submit_ordered(HASH, hash, move |_| self.hash(part, Some(&shared_raw[..part.len])));
        let len = self.compress(&raw[..whole], &mut compressed[..COMPRESSED_LEN])?;
        drop(raw);
        lanes.submit_ordered(WRITE, frame, move |_| lock(&self.output).append(&compressed[..len]));
        Ok(())
    }

    /// Reads what is not a hole; what is one becomes zero without being read.
    fn read(&self, part: Part, buffer: &mut [u8]) -> Result<()> {
        let input = &self.inputs[part.input];
        let buffer = &mut buffer[..part.len];
        match &input.body {
            Body::Bytes(bytes) => {
                buffer.copy_from_slice(&bytes[part.offset as usize..part.offset as usize + part.len])
            }
            Body::File(file) => {
                read_data(file, part.offset, buffer).map_err(Error::io("read", &input.path))?
            }
        }
        Ok(())
    }

    fn hash(&self, part: Part, bytes: Option<&[u8]>) -> Result<()> {
        let mut hashes = lock(&self.hashes);
        let (hasher, done) = &mut hashes[part.input];
        match bytes {
            Some(bytes) => hasher.update(bytes),
            None => hasher.update_zeros(part.len as u64),
        }
        if part.offset + part.len as u64 == self.inputs[part.input].size {
            *done = Some(std::mem::take(hasher).finish());
        }
        drop(hashes);
        self.env.progress.advance(part.len as u64);
        Ok(())
    }

    fn zero_frame(&self, len: usize) -> Result<Arc<Vec<u8>>> {
        if let Some(frame) = lock(&self.zero_frames).get(&len) {
            return Ok(Arc::clone(frame));
        }
        let mut frame = vec![0; 64 << 10];
        let made = self.compress(&vec![0; len], &mut frame)?;
        frame.truncate(made);
        let frame = Arc::new(frame);
        lock(&self.zero_frames).insert(len, Arc::clone(&frame));
        Ok(frame)
    }

    fn compress(&self, bytes: &[u8], out: &mut [u8]) -> Result<usize> {
        let idle = lock(&self.compressors).pop();
        let mut compressor = idle.map_or_else(|| compressor(self.level), Ok)?;
        let len = compress(&mut compressor, bytes, out);
        lock(&self.compressors).push(compressor);
        len
    }
}

/// A compressor whose frames say how long their content is and end with its checksum, so that they can be decoded in parallel and
/// damage be found where it is.
fn compressor(level: i32) -> Result<Compressor<'static>> {
    let set = |mut compressor: Compressor<'static>| {
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
        Ok(compressor)
    };
    Compressor::new(level).and_then(set).map_err(|e| Error::new(Kind::General, format!("zstd: {e}")))
}

fn compress(compressor: &mut Compressor<'_>, bytes: &[u8], out: &mut [u8]) -> Result<usize> {
    compressor.compress_to_buffer(bytes, out).map_err(|e| Error::new(Kind::General, format!("zstd: {e}")))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
