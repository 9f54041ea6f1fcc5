//! Archives as `docker save`, `podman save` and `skopeo copy … docker-archive:` write them.

use crate::layer_source::Part;
use crate::manifest::{MAX_CONFIG, MAX_LAYERS, MAX_MANIFEST};
use crate::reference::ArchiveImage;
use crate::tarball::Tarball;
use forkd_core::cache::Cache;
use forkd_core::{Env, Error, Kind, Result};
use forkd_registry::RegistryReference;
use forkd_registry::shown;
use serde::Deserialize;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// The largest archive that a compressed one may become: its size is not known before.
const MAX_UNPACKED: u64 = 128 << 30;

/// An archive, open.
pub(crate) struct Archive {
    file: Arc<File>,
    tarball: Tarball,
    pub(crate) name: String,
}

/// One image of a docker archive: its configuration, and where its layers lie.
pub(crate) struct Saved {
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl Archive {
    /// Opens an archive. One that is compressed as a whole is unpacked to a file without a name beside the cache, which goes with
    /// this process.
    pub(crate) fn open(path: &Path, cache: &Cache, env: Env<'_>) -> Result<Self> {
        let name = path.display().to_string();
        let usage = |why: &str| Error::new(Kind::Usage, format!("{name}: {why}"));
        // A pipe would be waited for without an end.
        if !fs::metadata(path).map_err(Error::io("open", path))?.is_file() {
            return Err(usage("not a file; expected a tar archive"));
        }
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let mut magic = [0; 6];
        let read = file.read_at(&mut magic, 0).map_err(Error::io("read", path))?;
        match &magic[..read] {
            [0x1f, 0x8b, ..] => file = gunzip(&file, &name, cache, env)?,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                return Err(usage("compressed by zstd").hint("run `zstd -d` on it first"));
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0] => {
                return Err(usage("compressed by xz").hint("run `xz -d` on it first"));
            }
            [b'B', b'Z', b'h', ..] => {
                return Err(usage("compressed by bzip2").hint("run `bzip2 -d` on it first"));
            }
            _ => {}
        }
        let len = file.metadata().map_err(Error::io("read", path))?.len();
        let tarball = Tarball::index(&file, len, &name)?;
        Ok(Self { file: Arc::new(file), tarball, name })
    }

    /// A file of the archive.
    pub(crate) fn part(&self, name: &str) -> Option<Part> {
        let (offset, len) = self.tarball.find(name)?;
        Some(Part {
            file: Arc::clone(&self.file),
            offset,
            len,
            name: format!("{}: {}", self.name, shown(name)),
        })
    }

    fn need(&self, name: &str) -> Result<Part> {
        let lacks = || Error::new(Kind::Integrity, format!("{} has no file '{}'", self.name, shown(name)));
        self.part(name).ok_or_else(lacks)
    }

    /// An image of a docker archive: the one asked for, or the only one.
    pub(crate) fn docker(&self, wanted: Option<&ArchiveImage>) -> Result<Saved> {
        let Some(list) = self.part("manifest.json") else {
            let wrong = |why: &str| Error::new(Kind::Usage, format!("{}: {why}", self.name));
            return Err(match self.part("index.json") {
                Some(_) => {
                    wrong("an archive of an OCI layout").hint(format!("name it as oci-archive:{}", self.name))
                }
                None => wrong("no manifest.json in it; expected an archive that `docker save` made"),
            });
        };
        let list = parse(&list.read(MAX_MANIFEST)?, &self.name)?;
        let image = pick(&list, wanted, &self.name)?;
        let layers = image.layers.as_deref().unwrap_or_default();
        if layers.len() > MAX_LAYERS {
            let message = format!("{}: {} layers; {MAX_LAYERS} are the most", self.name, layers.len());
            return Err(Error::new(Kind::Integrity, message));
        }
        Ok(Saved {
            config: self.need(&image.config)?.read(MAX_CONFIG)?,
            layers: layers.iter().map(|layer| self.need(layer)).collect::<Result<_>>()?,
        })
    }
}

fn parse(bytes: &[u8], what: &str) -> Result<Vec<Image>> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::new(Kind::Integrity, format!("{what}: its manifest.json cannot be read: {e}")))
}

fn pick<'a>(list: &'a [Image], wanted: Option<&ArchiveImage>, what: &str) -> Result<&'a Image> {
    let names = |image: &Image| -> Vec<RegistryReference> {
        image.repo_tags.iter().flatten().filter_map(|tag| tag.parse().ok()).collect()
    };
    let found = match wanted {
        None if list.len() == 1 => list.first(),
        None => None,
        Some(ArchiveImage::Index(index)) => list.get(*index),
        Some(ArchiveImage::Named(wanted)) => list.iter().find(|image| names(image).contains(wanted)),
    };
    found.ok_or_else(|| {
        let there: Vec<String> = list
            .iter()
            .enumerate()
            .take(40)
            .map(|(at, image)| names(image).first().map_or(format!("@{at}"), ToString::to_string))
            .collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        match wanted {
            None => Error::new(
                Kind::Usage,
                format!("{what} has {} images; say which, after a colon: {there}", list.len()),
            ),
            Some(_) => Error::new(Kind::NotFound, format!("{what} has no such image; there are: {there}")),
        }
    })
}

fn gunzip(file: &File, name: &str, cache: &Cache, env: Env<'_>) -> Result<File> {
    let root = cache.root();
    forkd_sys::create_private_dirs(root).map_err(Error::io("create", root))?;
    let mut output = tempfile::tempfile_in(root).map_err(Error::io("create a file in", root))?;
    let input = std::io::BufReader::with_capacity(256 << 10, file);
    let mut decoder = flate2::bufread::MultiGzDecoder::new(input);
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    env.progress.start("unpacking the archive", None);
    let outcome = loop {
        if env.cancel.is_cancelled() {
            break Err(Error::Interrupted);
        }
        let damaged = |e| Error::new(Kind::Integrity, format!("{name}: cannot be unpacked: {e}"));
        match decoder.read(&mut buffer).map_err(damaged) {
            Ok(0) => break Ok(()),
            Err(error) => break Err(error),
            Ok(read) => {
                total += read as u64;
                if total > MAX_UNPACKED {
                    let message = format!("{name}: unpacks to more than {MAX_UNPACKED} bytes");
                    break Err(Error::new(Kind::Integrity, message));
                }
                if let Err(error) = output.write_all(&buffer[..read]).map_err(Error::io("write to", root)) {
                    break Err(error);
                }
                env.progress.advance(read as u64);
            }
        }
    };
    env.progress.finish();
    outcome.map(|()| output)
}

/// Reads an archive from bytes.
pub fn fuzz(bytes: &[u8]) {
    let _ = parse(bytes, "x").and_then(|list| pick(&list, None, "x").map(|image| image.config.clone()));
    let Ok(tarball) = Tarball::index(&bytes, bytes.len() as u64, "x") else { return };
    for name in ["manifest.json", "index.json", "blobs/sha256/x", "a/layer.tar"] {
        if let Some((offset, len)) = tarball.find(name) {
            assert!(offset + len <= bytes.len() as u64);
            let _ = parse(&bytes[offset as usize..][..len as usize], "x");
        }
    }
}
