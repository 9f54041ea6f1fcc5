//! From an image's name to its layers: look it up, then fetch it.

use crate::archive::Archive;
use crate::config::ImageConfig;
use crate::fetch;
use crate::fetch::FetchReport;
use crate::layer_source::{Layer, Part};
use crate::layout::Layout;
use crate::manifest::{ACCEPT, Descriptor, Document, MAX_CONFIG, MAX_MANIFEST, Manifest, choose, parse};
use crate::platform::Platform;
use crate::reference::ImageSource;
use forkd_core::cache::{Cache, CacheKind, CacheSlot};
use forkd_core::{Env, Error, Kind, Result};
use forkd_format::{Digest, Hasher};
use forkd_registry::{RegistryClient, RegistryOptions, RegistryReference};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Indexes may name indexes; so deep.
const MAX_DEPTH: usize = 4;

/// What is needed to get images.
#[derive(Debug, Clone)]
pub struct Sources {
    /// How registries are spoken to, and who we are to them.
    pub registry: RegistryOptions,
    /// Where what was fetched is kept.
    pub cache: Cache,
}

/// An image that was found, and not fetched yet.
#[derive(Debug)]
pub struct Resolved {
    pub reference: String,
    /// The digest of its manifest; of its configuration, where it is in a docker archive. It stands for all its bytes.
    pub digest: Digest,
    /// How it is to be run.
    pub config: ImageConfig,
    /// What its layers take, as they are stored.
    pub size: u64,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    RegistryClient(Arc<RegistryClient>, Vec<Descriptor>),
    /// Layers that lie on this machine; the digest is not known where it is not written down.
    Here(Vec<(Part, Option<Digest>)>),
}

/// An image, ready to be read.
#[derive(Debug)]
pub struct Image {
    pub reference: String,
    /// As [`Resolved::digest`].
    pub digest: Digest,
    /// How it is to be run.
    pub config: ImageConfig,
    /// Its layers, lowest first; as many as [`ImageConfig::diff_ids`].
    pub layers: Vec<Layer>,
}

impl Sources {
    /// Finds an image and reads its manifest and configuration, not its layers. A name pinned by a digest that is in the cache needs no
    /// network; a tag is always asked for.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Unauthorised`], [`Kind::Transient`]; [`Kind::Incompatible`] where there is no image for the platform;
    /// [`Kind::Integrity`] where bytes are not what they should be; [`Kind::Usage`] where it is not clear which image is meant.
    pub fn resolve(&self, source: &ImageSource, platform: &Platform, env: Env<'_>) -> Result<Resolved> {
        env.cancel.check()?;
        let name = source.to_string();
        let resolved = match source {
            ImageSource::Registry(reference) => self.in_registry(reference, platform, env)?,
            ImageSource::Layout { dir, tag } => {
                in_layout(&Layout::Folder(dir.clone()), tag.as_deref(), &name, platform)?
            }
            ImageSource::Folder(dir) => {
                let layout = Layout::Plain(dir.clone());
                let (bytes, digest) = layout.manifest()?;
                of_layout(&layout, (bytes, digest, None), &name, platform)?
            }
            ImageSource::LayoutArchive { file, tag } => {
                let layout = Layout::Archive(Archive::open(file, &self.cache, env)?);
                in_layout(&layout, tag.as_deref(), &name, platform)?
            }
            ImageSource::DockerArchive { file, image } => {
                let saved = Archive::open(file, &self.cache, env)?.docker(image.as_ref())?;
                let config = ImageConfig::parse(&saved.config, Some(saved.layers.len()), &name)?;
                let size = saved.layers.iter().map(|part| part.len).sum();
                let layers = saved.layers.into_iter().zip(&config.diff_ids).map(|(part, diff_id)| {
                    // A plain tar is what its diff_id says; a compressed one has a digest that is written nowhere.
                    let plain = !is_compressed(&part);
                    (part, Some(*diff_id).filter(|_| plain))
                });
                let origin = Origin::Here(layers.collect());
                Resolved { reference: name.clone(), digest: Digest::of(&saved.config), size, origin, config }
            }
        };
        resolved.config.check(platform, &name)?;
        Ok(resolved)
    }

    /// Brings an image's layers here: those that the cache lacks are fetched.
    ///
    /// # Errors
    /// As [`Sources::resolve`]. What came so far stays in the cache and is gone on with next time.
    pub fn fetch(&self, resolved: Resolved, env: Env<'_>) -> Result<(Image, FetchReport)> {
        let Resolved { reference, digest, config, origin, .. } = resolved;
        let (layers, report) = match origin {
            Origin::RegistryClient(registry, layers) => fetch::layers(&registry, &self.cache, &layers, env)?,
            Origin::Here(parts) => {
                let layer = |(part, digest): (Part, Option<Digest>)| {
                    let digest = digest.map_or_else(|| hash(&part, env), Ok)?;
                    Ok(Layer::part(digest, part))
                };
                (parts.into_iter().map(layer).collect::<Result<_>>()?, FetchReport::default())
            }
        };
        Ok((Image { reference, digest, config, layers }, report))
    }

    fn in_registry(
        &self,
        reference: &RegistryReference,
        platform: &Platform,
        env: Env<'_>,
    ) -> Result<Resolved> {
        let name = reference.to_string();
        let registry = RegistryClient::new(reference.clone(), &self.registry);
        let by_digest = |digest: &Digest, size: Option<u64>| {
            if let Some(bytes) = self.cached(digest, MAX_MANIFEST)? {
                return Ok((bytes, *digest, None));
            }
            let fetched = registry.manifest(&format!("sha256:{digest}"), ACCEPT, env.cancel)?;
            if let Some(size) = size.filter(|size| *size != fetched.bytes.len() as u64) {
                let message = format!(
                    "{name}: manifest {digest} has {} bytes; its index says {size}",
                    fetched.bytes.len()
                );
                return Err(Error::new(Kind::Integrity, message));
            }
            self.keep(&fetched.bytes, digest, env)?;
            Ok((fetched.bytes, *digest, fetched.content_type))
        };
        let first = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => by_digest(digest, None)?,
            (None, tag) => {
                let fetched = registry.manifest(tag.unwrap_or("latest"), ACCEPT, env.cancel)?;
                self.keep(&fetched.bytes, &fetched.digest, env)?;
                (fetched.bytes, fetched.digest, fetched.content_type)
            }
        };
        let (digest, manifest) = descend(first, platform, &name, |d| by_digest(&d.digest, Some(d.size)))?;
        let config = match self.cached(&manifest.config.digest, MAX_CONFIG)? {
            Some(bytes) => bytes,
            None => {
                let bytes = registry.small_blob(&manifest.config.digest, manifest.config.size, env.cancel)?;
                self.keep(&bytes, &manifest.config.digest, env)?;
                bytes
            }
        };
        let config = ImageConfig::parse(&config, Some(manifest.layers.len()), &name)?;
        let size = total(&manifest.layers);
        let origin = Origin::RegistryClient(Arc::new(registry), manifest.layers);
        Ok(Resolved { reference: name, digest, config, size, origin })
    }

    /// A small blob of the cache, checked; a damaged one is taken away.
    fn cached(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(entry) = self.cache.find(CacheKind::Blob, digest)?.filter(|entry| entry.len() <= limit)
        else {
            return Ok(None);
        };
        let mut bytes = vec![0; entry.len() as usize];
        entry.file().read_exact_at(&mut bytes, 0).map_err(Error::io("read", entry.path()))?;
        if Digest::of(&bytes) == *digest {
            return Ok(Some(bytes));
        }
        entry.discard()?;
        Ok(None)
    }

    fn keep(&self, bytes: &[u8], digest: &Digest, env: Env<'_>) -> Result<()> {
        if let CacheSlot::Free(mut writer) = self.cache.find_or_create(CacheKind::Blob, digest, env)? {
            writer.restart()?;
            writer.write_at(bytes, 0)?;
            writer.commit()?;
        }
        Ok(())
    }
}

type Read = (Vec<u8>, Digest, Option<String>);

/// From what lies under a name to the manifest for a platform.
fn descend(
    first: Read,
    platform: &Platform,
    what: &str,
    read: impl Fn(&Descriptor) -> Result<Read>,
) -> Result<(Digest, Manifest)> {
    let (mut bytes, mut digest, mut content_type) = first;
    for _ in 0..MAX_DEPTH {
        match parse(&bytes, content_type.as_deref(), what)? {
            Document::Manifest(manifest) => return Ok((digest, manifest)),
            Document::Index(list) => {
                (bytes, digest, content_type) = read(choose(&list, platform, what)?)?;
            }
        }
    }
    Err(Error::new(Kind::Integrity, format!("{what}: indexes in indexes, more than {MAX_DEPTH} deep")))
}

fn in_layout(layout: &Layout, tag: Option<&str>, name: &str, platform: &Platform) -> Result<Resolved> {
    let list = layout.find(tag)?;
    let chosen = match list.as_slice() {
        [only] if only.platform.as_ref().is_none_or(|own| platform.accepts(own)) => only,
        list => choose(list, platform, name)?,
    };
    of_layout(layout, read_document(layout, chosen)?, name, platform)
}

fn read_document(layout: &Layout, document: &Descriptor) -> Result<Read> {
    let content_type = Some(document.media_type.clone()).filter(|t| !t.is_empty());
    Ok((layout.read(document, MAX_MANIFEST)?, document.digest, content_type))
}

/// The image that a document of a layout leads to.
fn of_layout(layout: &Layout, first: Read, name: &str, platform: &Platform) -> Result<Resolved> {
    let (digest, manifest) = descend(first, platform, name, |d| read_document(layout, d))?;
    let config = layout.read(&manifest.config, MAX_CONFIG)?;
    let config = ImageConfig::parse(&config, Some(manifest.layers.len()), name)?;
    let layers = manifest.layers.iter().map(|layer| Ok((layout.blob(layer)?, Some(layer.digest))));
    let origin = Origin::Here(layers.collect::<Result<_>>()?);
    let size = total(&manifest.layers);
    Ok(Resolved { reference: name.to_owned(), digest, config, size, origin })
}

fn total(layers: &[Descriptor]) -> u64 {
    layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size))
}

/// Whether a layer of a docker archive is compressed: few tools do that.
fn is_compressed(part: &Part) -> bool {
    let mut magic = [0; 4];
    part.len >= 4
        && part.file.read_exact_at(&mut magic, part.offset).is_ok()
        && (magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd])
}

fn hash(part: &Part, env: Env<'_>) -> Result<Digest> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    while at < part.len {
        env.cancel.check()?;
        let room = usize::try_from(part.len - at).unwrap_or(usize::MAX).min(buffer.len());
        let outcome = part.file.read_exact_at(&mut buffer[..room], part.offset + at);
        outcome.map_err(|e| Error::new(Kind::Integrity, format!("{}: cannot be read: {e}", part.name)))?;
        hasher.update(&buffer[..room]);
        at += room as u64;
    }
    Ok(hasher.finish())
}
