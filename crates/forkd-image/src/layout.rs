//! The OCI image layout, in a folder or an archive, and the plain folder of one image that skopeo's `dir:` writes.

use crate::archive::Archive;
use crate::layer_source::Part;
use crate::manifest::{Descriptor, Document, MAX_MANIFEST, parse};
use forkd_core::{Error, Kind, Result};
use forkd_format::Digest;
use forkd_registry::shown;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Where a layout lies.
pub(crate) enum Layout {
    Folder(PathBuf),
    Archive(Archive),
    /// `manifest.json`, and blobs beside it that are named by their digests.
    Plain(PathBuf),
}

impl Layout {
    fn name(&self) -> String {
        match self {
            Self::Folder(dir) | Self::Plain(dir) => dir.display().to_string(),
            Self::Archive(archive) => archive.name.clone(),
        }
    }

    fn part(&self, name: &str) -> Result<Option<Part>> {
        match self {
            Self::Archive(archive) => Ok(archive.part(name)),
            Self::Folder(dir) | Self::Plain(dir) => open(&dir.join(name)),
        }
    }

    /// Which image a tag names; without a tag, the only one.
    pub(crate) fn find(&self, tag: Option<&str>) -> Result<Vec<Descriptor>> {
        let name = self.name();
        let index = self.part("index.json")?.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("{name} has no index.json; expected an OCI image layout"))
        })?;
        let Document::Index(list) = parse(&index.read(MAX_MANIFEST)?, None, &name)? else {
            return Err(Error::new(Kind::Integrity, format!("{name}: its index.json is no index")));
        };
        let mut tags: Vec<String> =
            list.iter().filter_map(|d| d.name.as_deref()).map(shown).take(40).collect();
        tags.dedup();
        let there = if tags.is_empty() { "none".to_owned() } else { tags.join(", ") };
        if let Some(tag) = tag {
            let found: Vec<Descriptor> =
                list.into_iter().filter(|d| d.name.as_deref() == Some(tag)).collect();
            if found.is_empty() {
                let message = format!("{name} has no tag '{}'; there are: {there}", shown(tag));
                return Err(Error::new(Kind::NotFound, message));
            }
            return Ok(found);
        }
        match list.len() {
            0 => Err(Error::new(Kind::NotFound, format!("{name} holds no image"))),
            // The same image for several platforms, without an index of its own.
            n if n > 1 && !(tags.len() < 2 && list.iter().all(|d| d.platform.is_some())) => Err(Error::new(
                Kind::Usage,
                format!("{name} has {n} images; say which tag, after a colon: {there}"),
            )),
            _ => Ok(list),
        }
    }

    /// The manifest of a plain folder, and what names it.
    pub(crate) fn manifest(&self) -> Result<(Vec<u8>, Digest)> {
        let part = self.part("manifest.json")?.ok_or_else(|| {
            let message =
                format!("{} has no manifest.json; expected a folder as skopeo's dir: writes it", self.name());
            Error::new(Kind::NotFound, message)
        })?;
        let bytes = part.read(MAX_MANIFEST)?;
        let digest = Digest::of(&bytes);
        Ok((bytes, digest))
    }

    /// Where a blob lies.
    pub(crate) fn blob(&self, blob: &Descriptor) -> Result<Part> {
        let wrong = |why: String| Error::new(Kind::Integrity, format!("{}: {why}", self.name()));
        let part = match self {
            Self::Plain(_) => self.part(&blob.digest.to_string())?,
            _ => self.part(&format!("blobs/sha256/{}", blob.digest))?,
        };
        let part =
            part.ok_or_else(|| wrong(format!("has no blob {}, which the image names", blob.digest)))?;
        if part.len != blob.size {
            let (digest, len, size) = (blob.digest, part.len, blob.size);
            return Err(wrong(format!("blob {digest} has {len} bytes; the image says {size}")));
        }
        Ok(part)
    }

    /// A small blob whole, checked.
    pub(crate) fn read(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        let bytes = self.blob(blob)?.read(limit)?;
        let found = Digest::of(&bytes);
        if found != blob.digest {
            let message = format!("{}: blob {} has sha256 {found}; it was altered", self.name(), blob.digest);
            return Err(Error::new(Kind::Integrity, message));
        }
        Ok(bytes)
    }
}

/// A file, and no pipe or device in its place, which would be waited for without an end.
fn open(path: &Path) -> Result<Option<Part>> {
    match fs::metadata(path) {
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Ok(found) if !found.is_file() => {
            Err(Error::new(Kind::Integrity, format!("{}: not a file", path.display())))
        }
        _ => {
            let file = File::open(path).map_err(Error::io("open", path))?;
            let len = file.metadata().map_err(Error::io("read", path))?.len();
            Ok(Some(Part::whole(file, len, path.display().to_string())))
        }
    }
}
