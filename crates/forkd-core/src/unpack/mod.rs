//! From a pack to snapshots in the store.

mod beside;
pub(crate) mod framed;
pub(crate) mod kernel;
pub(crate) mod writing;

use crate::cache::Cache;
use crate::receive::Incoming;
use crate::store::{LockKind, Source, Stored};
use crate::{Env, Error, Kind, Result, Store};
pub(crate) use beside::{open_beside, read_sidecar};
use forkd_format::manifest::{Link, MEMORY, ROOTFS, RootfsSidecar, SNAPSHOT_JSON};
use forkd_format::{Digest, Manifest, Snapshot, Tag};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use writing::Unpacking;

/// How to unpack.
#[derive(Debug, Clone, Default)]
pub struct UnpackOptions {
    /// Another tag for the snapshot; not for chains.
    pub tag: Option<Tag>,
    /// Whether a snapshot with other bytes may be replaced.
    pub force: bool,
    /// Says whether this host can fork it.
    pub examine: Option<Examine>,
    /// Where kernels that packs refer to are kept; without it they are fetched each time.
    pub cache: Option<Cache>,
}

/// Looks at the head's description as soon as that has come, before its memory; where it finds fault the user is told, and the
/// unpacking goes on: a snapshot may be kept and passed on where it cannot be forked.
#[derive(Clone)]
pub struct Examine(pub Arc<Opinion>);

/// What a host thinks of a description.
type Opinion = dyn Fn(&Snapshot) -> Result<()> + Send + Sync;

impl std::fmt::Debug for Examine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Examine")
    }
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
    /// Whether it was a chain.
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
    /// Opens a file beside the pack.
    pub(crate) sidecar: framed::Beside<'a>,
    /// Whether to stop after the manifest where all it names is here already.
    pub(crate) trust_manifest: bool,
    /// Whether progress counts unpacked bytes (else the input counts its own).
    pub(crate) count_content: bool,
}

/// Unpacks a file.
///
/// # Errors
/// [`Kind::NotFound`], [`Kind::Integrity`], [`Kind::General`] for a tag that is taken, and what the disk says.
pub fn unpack_file(
    store: &Store,
    file: &Path,
    options: &UnpackOptions,
    env: Env<'_>,
) -> Result<UnpackReport> {
    let name = file.display().to_string();
    let input = open_pack(file)?;
    let incoming = Incoming::open(input, &name, env)?;
    if incoming.manifest().version == 3 {
        return framed::unpack_file(store, file, incoming, options, env);
    }
    let mut sidecar = |name: &str| open_beside(file, name);
    let source = Source { name: name.clone(), head: None, sha256: None };
    let mut origin = Origin { source, sidecar: &mut sidecar, trust_manifest: false, count_content: true };
    env.progress.start("unpacking", Some(incoming.manifest().unpacked_size()));
    let report = unpack(store, incoming, options, &mut origin, |_| Ok(None), env);
    env.progress.finish();
    report
}

/// Opens a pack file; anything else (a pipe would never open) is refused.
pub(crate) fn open_pack(file: &Path) -> Result<File> {
    if !file.metadata().map_err(Error::io("open", file))?.is_file() {
        return Err(Error::new(
            Kind::Usage,
            format!("{} is not a regular file; expected a pack", file.display()),
        ));
    }
    File::open(file).map_err(Error::io("open", file))
}

/// Unpacks a stream whose manifest was read. `check` is given the input after its last byte, before anything is published; it may
/// tell the digest of the pack.
pub(crate) fn unpack<R: Read>(
    store: &Store,
    incoming: Incoming<R>,
    options: &UnpackOptions,
    origin: &mut Origin<'_>,
    check: impl FnOnce(R) -> Result<Option<Digest>>,
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
    let unpacking = Unpacking::new(store, &manifest, staging.path(), &outcomes, origin, options, env)?;
    let digest = check(incoming.receive(&unpacking, env)?)?;
    origin.source.sha256 = origin.source.sha256.or(digest);
    if report.nothing_new() {
        return Ok(report);
    }
    if let Some(rootfs) = &manifest.rootfs {
        unpacking.take_sidecar(rootfs, (origin.sidecar)(&rootfs.file_name())?, env)?;
    }
    framed::publish(store, &unpacking, &tags, origin, || Ok(()), env)?;
    Ok(report)
}

pub(crate) fn local_tags(manifest: &Manifest, renamed: Option<&Tag>) -> Result<Vec<Tag>> {
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
pub(crate) fn plan(
    store: &Store,
    manifest: &Manifest,
    tags: &[Tag],
    options: &UnpackOptions,
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for (link, tag) in manifest.links.iter().zip(tags) {
        if !store.contains(tag) {
            outcomes.push(Outcome::Created);
            continue;
        }
        let difference = match store.load(tag) {
            Ok(stored) => difference(&stored, link, manifest.rootfs.as_ref(), options.force)?,
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
            let message = format!(
                "'{child}' is chained to '{parent}', which this pack would replace; `forkd rmi {child}` first"
            );
            return Err(Error::new(Kind::General, message));
        }
    }
    Ok(outcomes)
}

/// How a stored snapshot differs from a link, or `None` where it has the same bytes.
/// Where `read` is set no record is believed: that is how damage is found and replaced.
fn difference(
    stored: &Stored,
    link: &Link,
    sidecar: Option<&RootfsSidecar>,
    read: bool,
) -> Result<Option<String>> {
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
            Ok(metadata) => {
                return Ok(Some(format!("its {name} has {} bytes, the pack's {size}", metadata.len())));
            }
            Err(_) => return Ok(Some(format!("it has no {name}"))),
        }
        let root = link.file(name).and_then(|file| file.root);
        let differs = match root {
            Some(root) => stored.root(name, path, read)? != root,
            None => stored.digest(name, path, read)? != sha256,
        };
        if differs {
            return Ok(Some(format!("its {name} differs")));
        }
    }
    let described = stored.record.as_ref().and_then(|record| record.file(SNAPSHOT_JSON));
    if let Some(recorded) = described.filter(|_| read)
        && stored.digest(SNAPSHOT_JSON, &stored.dir.join(SNAPSHOT_JSON), true)? != recorded.sha256
    {
        return Ok(Some(format!("its {SNAPSHOT_JSON} was altered")));
    }
    let packed = stored.record.as_ref().and_then(|record| record.packed_snapshot_json);
    let wanted = link.file(SNAPSHOT_JSON).map(|file| file.sha256);
    let portable = Digest::of(&stored.snapshot.relocated("", None).to_bytes());
    if packed != wanted && Some(portable) != wanted {
        return Ok(Some(format!("its {SNAPSHOT_JSON} differs")));
    }
    Ok(None)
}

pub(crate) fn report(store: &Store, manifest: &Manifest, tags: &[Tag], outcomes: &[Outcome]) -> UnpackReport {
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
        chain: manifest.version == 2 || manifest.links.len() > 1,
        unpacked_size: manifest.unpacked_size(),
    }
}

/// Reads a link's `snapshot.json`, which must name the same parent as the manifest that was checked.
pub(crate) fn parse_description(link: &Link, bytes: &[u8]) -> Result<Snapshot> {
    let snapshot = Snapshot::parse(bytes).map_err(Error::malformed(link.tag.to_string()))?;
    let named = snapshot.parent().map_err(Error::malformed(link.tag.to_string()))?;
    let tag = named.as_ref().map(|parent| &parent.tag);
    let hash = named.as_ref().and_then(|parent| parent.content_hash);
    if let (Some(hash), Some(declared)) = (hash, link.parent_content_hash)
        && hash != declared
    {
        let message = format!(
            "'{}': snapshot.json has parent_content_hash {hash}; the manifest declares {declared}",
            link.tag
        );
        return Err(Error::new(Kind::Integrity, message));
    }
    if tag != link.parent_tag.as_ref() {
        let words = |tag: Option<&Tag>| {
            tag.map_or_else(|| "no parent".to_owned(), |tag| format!("the parent '{tag}'"))
        };
        let message = format!(
            "'{}': snapshot.json names {}; the manifest names {}",
            link.tag,
            words(tag),
            words(link.parent_tag.as_ref())
        );
        return Err(Error::new(Kind::Integrity, message));
    }
    Ok(snapshot)
}

/// Puts bytes of a `snapshot.json`, at most a MiB by the manifest's rules, at their place.
pub(crate) fn put(text: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    text.resize(text.len().max(end), 0);
    text[offset as usize..end].copy_from_slice(bytes);
}

/// The memory image's digest names a snapshot to its children.
pub(crate) fn memory_digest(stored: &Stored) -> Result<Digest> {
    stored.digest(MEMORY, &stored.dir.join(MEMORY), false)
}
