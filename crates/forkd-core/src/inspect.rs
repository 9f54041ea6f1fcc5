use crate::receive::Incoming;
use crate::store::{Source, parent_of};
use crate::{Env, Error, Result, Store};
use forkd_format::manifest::{RootfsSidecar, SNAPSHOT_JSON};
use forkd_format::{Digest, Manifest, Tag};
use std::path::Path;

/// What is known of a snapshot or a pack.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The head's tag.
    pub tag: Tag,
    /// The pack format; `None` for a snapshot in the store.
    pub pack_version: Option<u32>,
    /// Size of the pack file in bytes.
    pub pack_size: Option<u64>,
    /// For people.
    pub description: Option<String>,
    /// The container image behind the rootfs.
    pub base_image: Option<String>,
    /// RFC 3339.
    pub created_at: Option<String>,
    /// The forkd that packed.
    pub forkd_version: Option<String>,
    /// The pack that a snapshot in the store came in.
    pub source: Option<Source>,
    /// A root disk beside the pack.
    pub rootfs: Option<RootfsSidecar>,
    /// The links, root first.
    pub links: Vec<LinkFacts>,
}

/// One link.
#[derive(Debug, Clone)]
pub struct LinkFacts {
    /// Its tag.
    pub tag: Tag,
    /// Its parent.
    pub parent: Option<Tag>,
    /// The digest that its parent's memory must have.
    pub parent_content_hash: Option<Digest>,
    /// Its files.
    pub files: Vec<FileFacts>,
}

/// One file.
#[derive(Debug, Clone)]
pub struct FileFacts {
    /// Its name.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes that it takes on the disk, for a snapshot in the store.
    pub disk_size: Option<u64>,
    /// Its digest; `None` where nobody has recorded one.
    pub sha256: Option<Digest>,
}

/// Reads the manifest of a pack file, and nothing behind it.
///
/// # Errors
/// [`crate::Kind::NotFound`], [`crate::Kind::Integrity`].
pub fn inspect_file(file: &Path, env: Env<'_>) -> Result<Inspection> {
    let input = crate::unpack::open_pack(file)?;
    let size = input.metadata().map_err(Error::io("open", file))?.len();
    let incoming = Incoming::open(input, &file.display().to_string(), env)?;
    Ok(of_manifest(incoming.manifest(), Some(size)))
}

fn of_manifest(manifest: &Manifest, pack_size: Option<u64>) -> Inspection {
    let links = manifest.links.iter().map(|link| LinkFacts {
        tag: link.tag.clone(),
        parent: link.parent_tag.clone(),
        parent_content_hash: link.parent_content_hash,
        files: link
            .files
            .iter()
            .map(|file| FileFacts {
                path: file.path.clone(),
                size: file.size,
                disk_size: None,
                sha256: Some(file.sha256),
            })
            .collect(),
    });
    Inspection {
        tag: manifest.tag.clone(),
        pack_version: Some(manifest.version),
        pack_size,
        description: manifest.description.clone(),
        base_image: manifest.base_image.clone(),
        created_at: manifest.created_at.clone(),
        forkd_version: manifest.forkd_version.clone(),
        source: None,
        rootfs: manifest.rootfs.clone(),
        links: links.collect(),
    }
}

/// Tells what the store knows of a snapshot and its ancestors, without reading their bytes.
///
/// # Errors
/// [`crate::Kind::NotFound`], [`crate::Kind::Integrity`].
pub fn inspect_tag(store: &Store, tag: &Tag) -> Result<Inspection> {
    let chain = store.chain(tag)?;
    let mut links = Vec::new();
    for stored in &chain {
        let mut paths = vec![(SNAPSHOT_JSON, stored.dir.join(SNAPSHOT_JSON))];
        paths.extend(stored.bodies());
        let files = paths.into_iter().map(|(name, path)| {
            let metadata = path.metadata().map_err(Error::io("read", &path))?;
            let recorded = stored.record.as_ref().and_then(|record| record.file(name));
            Ok(FileFacts {
                path: name.to_owned(),
                size: metadata.len(),
                disk_size: Some(forkd_sys::allocated(&metadata)),
                sha256: recorded.map(|file| file.sha256),
            })
        });
        let parent = stored.snapshot.parent().map_err(Error::malformed(stored.dir.display().to_string()))?;
        links.push(LinkFacts {
            tag: stored.tag.clone(),
            parent: parent_of(Some(stored))?,
            parent_content_hash: parent.and_then(|parent| parent.content_hash),
            files: files.collect::<Result<_>>()?,
        });
    }
    let record = chain.into_iter().last().and_then(|stored| stored.record).unwrap_or_default();
    Ok(Inspection {
        tag: tag.clone(),
        pack_version: None,
        pack_size: None,
        description: record.description,
        base_image: record.base_image,
        created_at: record.created_at,
        forkd_version: None,
        source: record.source,
        rootfs: None,
        links,
    })
}
