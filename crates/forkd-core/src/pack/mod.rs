//! From snapshots in the store to a pack: read once, hashed and compressed on all cores, written in order.

mod bases;
mod framed;
mod input;
mod output;
mod tar;

use crate::store::{LockKind, Stored};
use crate::{Env, Error, Kind, Result, Store};
use bases::BaseFile;
use forkd_format::layout::{entry_header, padding};
use forkd_format::manifest::{Base, BaseKind, FILE_ORDER, FileEntry, Link, MANIFEST, MEMORY, SNAPSHOT_JSON};
use forkd_format::{Digest, Manifest, Tag};
use input::{Body, Input, open_inputs};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    /// 1, 2 or 3; where none is named, 1 for a base and 2 for a chain.
    pub format: Option<u32>,
    /// Snapshots whose files frames may refer to, each in the store that holds it (version 3 only).
    pub bases: Vec<(Store, Tag)>,
    /// The guest's uncompressed kernel, and its release, that frames may refer to (version 3 only).
    pub kernel: Option<(String, PathBuf)>,
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
    if let Some(base) = report.manifest.bases.iter().find(|base| base.kind == BaseKind::Kernel) {
        put_kernel(store, options, base, dir, env)?;
    }
    disk.sync_file(temp.as_file(), out).map_err(Error::io("sync", out))?;
    let (_, path) = temp.keep().map_err(|e| Error::io("keep", out)(e.error))?;
    disk.replace(&path, out)
        .map_err(Error::io("create", out))
        .inspect_err(|_| drop(std::fs::remove_file(&path)))?;
    disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
    report.path = out.to_owned();
    Ok(report)
}

/// Puts the kernel that a pack refers to beside it, where it does not lie there already, whole. It comes first: a pack that is
/// there can be read.
fn put_kernel(store: &Store, options: &PackOptions, base: &Base, dir: &Path, env: Env<'_>) -> Result<()> {
    let Some((_, kernel)) = &options.kernel else { return Ok(()) };
    let path = dir.join(base.file_name());
    if path.exists() && crate::unpack::kernel::lies_at(base, &path, env)? {
        return Ok(());
    }
    let failed = || Error::io("write", &path);
    let disk = store.disk();
    let mut input = File::open(kernel).map_err(Error::io("open", kernel))?;
    let temp = tempfile::Builder::new()
        .prefix(".forkd-pack-")
        .make_in(dir, |path| disk.create(path, 0o644))
        .map_err(failed())?;
    forkd_sys::try_lock(temp.as_file(), forkd_sys::LockKind::Exclusive).map_err(failed())?;
    let mut encoder = zstd::Encoder::new(temp.as_file(), options.level).map_err(failed())?;
    std::io::copy(&mut input, &mut encoder).map_err(failed())?;
    encoder.finish().map_err(failed())?;
    disk.sync_file(temp.as_file(), &path).map_err(failed())?;
    disk.replace(temp.path(), &path).map_err(failed())?;
    // Its first name is gone: there is nothing to delete.
    let _ = temp.keep();
    disk.sync_dir(dir).map_err(Error::io("sync", dir))
}

/// Packs into an open, empty file.
pub(crate) fn pack_into(
    store: &Store,
    options: &PackOptions,
    out: &File,
    path: &Path,
    env: Env<'_>,
) -> Result<PackReport> {
    let mut tags: Vec<Tag> = store.chain(&options.tag)?.into_iter().map(|link| link.tag).collect();
    for (base_store, base) in options.bases.iter().filter(|(other, _)| other.root() == store.root()) {
        if *base == options.tag {
            return Err(Error::new(Kind::Usage, format!("'{base}' cannot be its own base")));
        }
        tags.extend(base_store.chain(base)?.into_iter().map(|link| link.tag));
    }
    let _locks = store.lock_all(&tags, LockKind::Shared, env)?;
    let chain = store.chain(&options.tag)?;
    let inputs = open_inputs(&chain)?;
    let mut manifest = draft(&chain, &inputs, options)?;
    let bases = if manifest.version == 3 { bases::open(options, env)? } else { Vec::new() };
    env.progress.start("packing", Some(manifest.unpacked_size()));
    let packed = match manifest.version {
        3 => framed::write(&mut manifest, &inputs, bases, options.level, store, out, path, env),
        _ => tar::write(&mut manifest, &inputs, options.level, store, out, path, env),
    };
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
            .map(|(name, size)| FileEntry { path: name.into(), size, sha256: unknown, root: None })
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
        version: version(options, links.len())?,
        tag: options.tag.clone(),
        description: options.description.clone().or(head.description),
        base_image: options.base_image.clone().or(head.base_image),
        created_at: Some(options.created_at.clone()),
        forkd_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        links,
        rootfs: None,
        index: None,
        bases: Vec::new(),
    })
}

/// The format that is asked for, where it can hold the snapshot.
fn version(options: &PackOptions, links: usize) -> Result<u32> {
    let wrong = |message: &str| Err(Error::new(Kind::Usage, format!("'{}' {message}", options.tag)));
    let version = match (options.format, links) {
        (Some(1), 2..) => return wrong("is a chain; format 1 holds one snapshot: use 2 or 3"),
        (Some(2), 1) => return wrong("is no chain; format 2 holds one: use 1 or 3"),
        (Some(version @ 1..=3), _) => version,
        (Some(_), _) => return wrong("can be packed in the formats 1, 2 and 3"),
        (None, 1) => 1,
        (None, _) => 2,
    };
    if version != 3 && (!options.bases.is_empty() || options.kernel.is_some()) {
        return wrong("can refer to bases in format 3 only: add --format 3");
    }
    Ok(version)
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

/// Enters the digests that the files turned out to have, and holds the chain's edges against them.
fn complete(manifest: &mut Manifest, inputs: &[Input], digests: Vec<Digest>) -> Result<()> {
    for (input, digest) in inputs.iter().zip(digests) {
        manifest.links[input.link].files[input.index].sha256 = digest;
    }
    complete_edges(manifest)?;
    // What no forkd would read is not written.
    Manifest::parse(&manifest.to_bytes())
        .map_err(Error::malformed(format!("'{}' cannot be packed", manifest.tag)))?;
    Ok(())
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
