//! The files that a version 3 pack may refer to without holding them.

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::options::PackOptions;
use crate::pack::paged::page_source::PageSource;
use crate::store::record::HashedFile;
use crate::store::stored::StoredSnapshot;
use forkd_format::manifest::{Base, BaseKind};
use forkd_format::paged::MAX_BASES;
use std::path::Path;

/// A base file, open.
pub(crate) struct BaseFile {
    pub(crate) base: Base,
    pub(crate) file: PageSource,
}

/// Opens all of them, the kernel last, and computes the digests that nobody has recorded.
pub(crate) fn open(options: &PackOptions, env: Env<'_>) -> Result<Vec<BaseFile>> {
    let mut bases: Vec<BaseFile> = Vec::new();
    for (store, tag) in &options.bases {
        for stored in store.chain(tag)? {
            for (name, path) in stored.bodies() {
                let base = snapshot_file(&stored, name, &path, env)?;
                // A parent of two bases, or a root disk that both have.
                if !bases.iter().any(|known| known.base.root == base.base.root) {
                    bases.push(base);
                }
            }
        }
    }
    if let Some((release, path)) = &options.kernel {
        let file = std::fs::File::open(path).map_err(Error::io("open", path))?;
        let hashed = HashedFile::read(path, &mut |_| env.cancel.check())?;
        bases.push(named(BaseKind::Kernel, release, "vmlinux", path, file, &hashed));
    }
    if bases.len() > MAX_BASES {
        let message = format!("{} base files; at most {MAX_BASES} can be referred to", bases.len());
        return Err(Error::new(Kind::Usage, message));
    }
    Ok(bases)
}

fn snapshot_file(stored: &StoredSnapshot, name: &str, path: &Path, env: Env<'_>) -> Result<BaseFile> {
    let file = stored.open(path)?;
    let metadata = file.metadata().map_err(Error::io("read", path))?;
    let known = stored.untouched(name, &metadata).filter(|file| !file.declared);
    let hashed = match known.and_then(|file| file.root.map(|root| (file.sha256, root))) {
        Some((sha256, root)) => {
            HashedFile { sha256, root, size: metadata.len(), blocks: String::new(), mtime_ns: 0 }
        }
        None => HashedFile::read(path, &mut |_| env.cancel.check())?,
    };
    Ok(named(BaseKind::Snapshot, stored.tag.as_str(), name, path, file, &hashed))
}

fn named(
    kind: BaseKind,
    name: &str,
    path: &str,
    place: &Path,
    file: std::fs::File,
    hashed: &HashedFile,
) -> BaseFile {
    let base = Base {
        kind,
        name: name.to_owned(),
        path: path.to_owned(),
        size: hashed.size,
        sha256: hashed.sha256,
        root: hashed.root,
        copied_pages: 0,
        similar_pages: 0,
    };
    BaseFile { base, file: PageSource::file(file, place.to_owned(), hashed.size) }
}
