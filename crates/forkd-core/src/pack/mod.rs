//! From snapshots in the store to a pack: read once, hashed and compressed on all cores, written in order.

pub(crate) mod computed_id;
pub(crate) mod description;
pub(crate) mod draft;
pub(crate) mod input;
pub(crate) mod options;
pub(crate) mod output;
pub(crate) mod pack_file;
pub(crate) mod paged;
pub(crate) mod sidecar;
pub(crate) mod stream;

use crate::digest::file_digest::file_digest;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::draft::{check_records, draft};
use crate::pack::input::open_inputs;
use crate::pack::options::{PackOptions, PackReport};
use crate::pack::output::{PackSize, PackTarget};
use crate::pack::paged::write_pack::PagedPack;
use crate::store::lock::LockKind;
use crate::store::root::Store;
use crate::store::work_file::WorkFile;
use forkd_format::manifest::{Base, BaseKind};
use forkd_format::{Digest, PackFormat, PackId, Tag};
use std::fs::File;
use std::path::Path;
use std::time::Instant;

/// Begins the names of packs that are being written.
const PREFIX: &str = ".forkd-pack-";

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
        return Err(Error::new(Kind::Usage, format!("{} is inside the store", out.display()))
            .hint("choose another folder"));
    }
    let temp = WorkFile::create(store.disk(), dir, (PREFIX, ""), 0o644)?;
    let mut report = pack_into(store, options, temp.file(), temp.path(), env)?;
    if let Some(base) = report.bases.iter().find(|base| base.kind == BaseKind::Kernel) {
        put_kernel(store, options, base, dir, env)?;
    }
    temp.put(out)?;
    report.path = out.to_owned();
    Ok(report)
}

/// Puts the kernel that a pack refers to beside it, where it does not lie there already, whole. It comes first: a pack that is
/// there can be read.
fn put_kernel(store: &Store, options: &PackOptions, base: &Base, dir: &Path, env: Env<'_>) -> Result<()> {
    let Some((_, kernel)) = &options.kernel else { return Ok(()) };
    let path = dir.join(base.file_name());
    if path.exists() && crate::pack::paged::kernel::lies_at(base, &path, env)? {
        return Ok(());
    }
    let temp = WorkFile::create(store.disk(), dir, (PREFIX, ""), 0o644)?;
    write_kernel(kernel, options.level, temp.file(), &path)?;
    temp.put(&path)
}

/// Compresses a kernel into an open, empty file.
pub(crate) fn write_kernel(kernel: &Path, level: i32, out: &File, path: &Path) -> Result<()> {
    let failed = || Error::io("write", path);
    let mut input = File::open(kernel).map_err(Error::io("open", kernel))?;
    let mut encoder = zstd::Encoder::new(out, level).map_err(failed())?;
    std::io::copy(&mut input, &mut encoder).map_err(failed())?;
    encoder.finish().map(drop).map_err(failed())
}

/// Packs into an open, empty file.
pub(crate) fn pack_into(
    store: &Store,
    options: &PackOptions,
    out: &File,
    path: &Path,
    env: Env<'_>,
) -> Result<PackReport> {
    let begun = Instant::now();
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
    let bases =
        if manifest.format().is_paged() { paged::bases_written::open(options, env)? } else { Vec::new() };
    let target = PackTarget { store, file: out, path };
    env.progress.start("packing", Some(manifest.unpacked_size()));
    let packed = match manifest.format() {
        PackFormat::Paged => {
            let PackOptions { level, depth, .. } = *options;
            let pack = PagedPack { chain: &chain, inputs: &inputs, bases, level, depth };
            paged::write_pack::write(&mut manifest, pack, target, env)
        }
        _ => stream::write::write(&mut manifest, &inputs, options.level, target, env)
            .map(|size| PackSize { size, header_bytes: None }),
    };
    env.progress.finish();
    let PackSize { size, header_bytes } = packed?;
    check_records(&chain, &manifest)?;
    let id = match manifest.format() {
        PackFormat::Paged => PackId::Manifest(Digest::of(&manifest.to_bytes())),
        // Its front was written last, so it was not hashed on the way.
        _ => PackId::File(file_digest(path)?),
    };
    Ok(PackReport {
        tag: options.tag.clone(),
        path: path.to_owned(),
        id,
        size,
        header_bytes,
        unpacked_size: manifest.unpacked_size(),
        links: chain.len(),
        format: manifest.format(),
        bases: manifest.bases,
        time: begun.elapsed(),
    })
}
