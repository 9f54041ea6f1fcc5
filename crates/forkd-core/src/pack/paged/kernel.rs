//! The guest's kernel as a base: kept in the cache under its SHA-256, the same file for all snapshots that were baked with it.

use crate::cache::entry::CacheSlot;
use crate::cache::folder::{Cache, CacheKind};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::paged::page_source::PageSource;
use crate::pack::sidecar::{OpenSidecar, decode};
use crate::store::record::HashedFile;
use forkd_format::manifest::Base;
use forkd_sys::DiskIo;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

/// A kernel is no larger.
const MOST: u64 = 512 << 20;

/// Whether the cache has a kernel.
pub(crate) fn is_here(base: &Base, cache: Option<&Cache>) -> Result<bool> {
    Ok(cache.map_or(Ok(None), |cache| cache.find(CacheKind::Blob, &base.sha256))?.is_some())
}

/// Opens a kernel of the cache; where that has none, takes it from beside the pack. Without a cache it goes into the work folder.
pub(crate) fn open(
    base: &Base,
    (disk, work): (&DiskIo, &Path),
    cache: Option<&Cache>,
    beside: OpenSidecar<'_>,
    env: Env<'_>,
) -> Result<PageSource> {
    if base.size > MOST {
        let message = format!("a kernel of {} bytes; at most {MOST} are taken", base.size);
        return Err(Error::new(Kind::Integrity, message));
    }
    let Some(cache) = cache else {
        let path = work.join("vmlinux");
        // One that an earlier run left is not believed.
        disk.remove_file(&path)
            .or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })
            .map_err(Error::io("remove", &path))?;
        let file = disk.create(&path, 0o600).map_err(Error::io("create", &path))?;
        take(base, beside, env, &mut |bytes, at| {
            disk.write_at(&file, &path, bytes, at).map_err(Error::io("write", &path))
        })?;
        return Ok(PageSource::file(file, path, base.size));
    };
    let mut slot = cache.find_or_create(CacheKind::Blob, &base.sha256, env)?;
    if let CacheSlot::Found(entry) = &slot
        && HashedFile::read(entry.path(), &mut |_| env.cancel.check())?.sha256 != base.sha256
    {
        // It would spoil every pack that needs it until somebody emptied the cache.
        entry.discard()?;
        drop(slot);
        slot = cache.find_or_create(CacheKind::Blob, &base.sha256, env)?;
    }
    let entry = match slot {
        CacheSlot::Found(entry) => entry,
        CacheSlot::Free(mut writer) => {
            writer.restart()?;
            match take(base, beside, env, &mut |bytes, at| writer.write_at(bytes, at)) {
                Ok(()) => writer.commit()?,
                Err(error) => {
                    writer.abandon()?;
                    return Err(error);
                }
            }
        }
    };
    let file: File = entry.file().try_clone().map_err(Error::io("open", entry.path()))?;
    Ok(PageSource::file(file, entry.path().to_owned(), entry.len()))
}

/// Whether a file is a kernel, compressed.
pub(crate) fn lies_at(base: &Base, path: &Path, env: Env<'_>) -> Result<bool> {
    let mut beside =
        |_: &str| File::open(path).map(|file| Box::new(file) as _).map_err(Error::io("open", path));
    match take(base, &mut beside, env, &mut |_, _| Ok(())) {
        Err(error) if error.kind() == Kind::Integrity => Ok(false),
        taken => taken.map(|()| true),
    }
}

/// Decodes a kernel and checks it.
fn take(
    base: &Base,
    beside: OpenSidecar<'_>,
    env: Env<'_>,
    write: &mut dyn FnMut(&[u8], u64) -> Result<()>,
) -> Result<()> {
    let name = base.file_name();
    let input = beside(&name)?;
    decode(&name, (base.size, base.sha256), input, env, &mut |at, bytes| write(bytes, at))
}
