//! What becomes of each link of a pack: under which tag, and whether it is here.

use crate::cache::folder::Cache;
use crate::error::{Error, Kind, Result};
use crate::store::root::Store;
use crate::store::stored::{StoredSnapshot, parent_of};
use forkd_format::manifest::{FileEntry, Link, ROOTFS, RootfsSidecar, SNAPSHOT_JSON};
use forkd_format::{Digest, Manifest, PackFormat, Snapshot, Tag};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// How to unpack.
#[derive(Debug, Clone, Default)]
pub struct UnpackOptions {
    /// Another tag for the snapshot; for a chain's head in an update only.
    pub tag: Option<Tag>,
    /// Whether a snapshot with other bytes may be replaced; what is here is read instead of believed.
    pub force: bool,
    /// Whether the head may take the place of an earlier version of it.
    pub update: bool,
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
pub(crate) type Opinion = dyn Fn(&Snapshot) -> Result<()> + Send + Sync;

impl std::fmt::Debug for Examine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Examine")
    }
}

/// What became of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was not there before.
    Created,
    /// It took the place of another.
    Replaced,
    /// It was there already, with the same bytes.
    Kept,
}

/// One link.
#[derive(Debug, Clone, Serialize)]
pub struct LinkReport {
    /// Its tag in the pack.
    pub tag: Tag,
    /// Its tag in the store.
    pub local_tag: Tag,
    #[serde(serialize_with = "crate::json::path")]
    pub path: PathBuf,
    /// Its parent in the chain.
    pub parent: Option<Tag>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What was unpacked.
#[derive(Debug, Clone, Serialize)]
pub struct UnpackReport {
    /// The head's tag in the store.
    pub head: Tag,
    /// The links, root first.
    pub links: Vec<LinkReport>,
    #[serde(skip)]
    pub chain: bool,
    /// Bytes that the pack unpacks to.
    #[serde(rename = "unpacked_bytes")]
    pub unpacked_size: u64,
}

impl UnpackReport {
    /// Whether every link was there already.
    #[must_use]
    pub fn nothing_new(&self) -> bool {
        self.links.iter().all(|link| link.outcome == Outcome::Kept)
    }

    /// A chain that is here already, as it lies in the store.
    pub(crate) fn kept(chain: &[StoredSnapshot]) -> Option<Self> {
        let head = chain.last()?.tag.clone();
        let links = chain.iter().map(|link| LinkReport {
            tag: link.tag.clone(),
            local_tag: link.tag.clone(),
            path: link.dir.clone(),
            parent: parent_of(Some(link)).ok().flatten(),
            outcome: Outcome::Kept,
        });
        let files = chain.iter().filter_map(|link| link.record.as_ref()).flat_map(|record| &record.files);
        Some(Self {
            links: links.collect(),
            chain: chain.len() > 1,
            head,
            unpacked_size: files.map(|file| file.size).sum(),
        })
    }
}

/// What will become of each link of a pack, decided before anything is written.
#[derive(Debug, Clone)]
pub(crate) struct UnpackPlan {
    /// The tags of the links in the store.
    pub(crate) tags: Vec<Tag>,
    pub(crate) outcomes: Vec<Outcome>,
}

impl UnpackPlan {
    /// Compares a pack with what is in the store. The caller holds the locks of the tags.
    ///
    /// # Errors
    /// [`Kind::General`] where a tag is taken by other bytes and may not be replaced.
    pub(crate) fn new(
        store: &Store,
        manifest: &Manifest,
        tags: &[Tag],
        options: &UnpackOptions,
    ) -> Result<Self> {
        let mut outcomes = Vec::new();
        let head = tags.last();
        for (link, tag) in manifest.links.iter().zip(tags) {
            if !store.contains(tag) {
                outcomes.push(Outcome::Created);
                continue;
            }
            let difference = match store.load(tag) {
                Ok(stored) => match difference(&stored, link, manifest.rootfs.as_ref(), options.force)? {
                    None => other_parent(&stored, local_parent(manifest, tags, link)),
                    found => found,
                },
                Err(e) => Some(format!("it cannot be read ({e})")),
            };
            outcomes.push(match difference {
                None => Outcome::Kept,
                Some(_) if options.update && Some(tag) == head => Outcome::Replaced,
                Some(_) if options.force && (Some(tag) == head || is_same(store, tag, link)) => {
                    Outcome::Replaced
                }
                // Somebody else's, under the very name that a parent was to have instead of one that is taken.
                Some(how) if options.force => {
                    let dir = store.dir(tag).display().to_string();
                    let message = format!("'{tag}', for a parent in this pack, is already at {dir}: {how}");
                    return Err(Error::new(Kind::General, message).hint(format!("`forkd rmi {tag}` first")));
                }
                Some(how) => {
                    let dir = store.dir(tag);
                    let message = format!(
                        "'{tag}' is already at {} with other bytes: {how}. Use --force to replace it{}",
                        dir.display(),
                        if manifest.links.len() == 1 {
                            ", or --tag to unpack under another name"
                        } else {
                            ""
                        }
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
                let message = format!("'{child}' is chained to '{parent}', which this pack would replace");
                return Err(Error::new(Kind::General, message).hint(format!("`forkd rmi {child}` first")));
            }
        }
        Ok(Self { tags: tags.to_vec(), outcomes })
    }

    /// All links as if nothing were here.
    pub(crate) fn anew(manifest: &Manifest) -> Self {
        let tags: Vec<Tag> = manifest.links.iter().map(|link| link.tag.clone()).collect();
        Self { outcomes: vec![Outcome::Created; tags.len()], tags }
    }

    /// Whether all links are here already, with the same bytes.
    pub(crate) fn changes_nothing(&self) -> bool {
        self.outcomes.iter().all(|outcome| *outcome == Outcome::Kept)
    }

    /// What will be in the store.
    pub(crate) fn report(&self, store: &Store, manifest: &Manifest) -> UnpackReport {
        let links = manifest.links.iter().zip(&self.tags).zip(&self.outcomes);
        let links = links.map(|((link, tag), outcome)| LinkReport {
            tag: link.tag.clone(),
            local_tag: tag.clone(),
            path: store.dir(tag),
            parent: local_parent(manifest, &self.tags, link).cloned(),
            outcome: *outcome,
        });
        UnpackReport {
            links: links.collect(),
            head: self.tags[self.tags.len() - 1].clone(),
            chain: manifest.format() == PackFormat::Chain || manifest.links.len() > 1,
            unpacked_size: manifest.unpacked_size(),
        }
    }
}

/// Whether a snapshot was a link with these digests when it was put there, whatever became of its bytes since.
fn is_same(store: &Store, tag: &Tag, link: &Link) -> bool {
    let record = store.load(tag).ok().and_then(|stored| stored.record);
    let recorded = |file: &FileEntry| {
        let packed = record.as_ref().and_then(|record| record.packed_snapshot_json);
        if file.path == SNAPSHOT_JSON {
            packed
        } else {
            record.as_ref()?.file(&file.path).map(|file| file.sha256)
        }
    };
    link.files.iter().all(|file| recorded(file) == Some(file.sha256))
}

/// The tag that a link's parent has in the store.
pub(crate) fn local_parent<'a>(manifest: &Manifest, tags: &'a [Tag], link: &Link) -> Option<&'a Tag> {
    let parent = link.parent_tag.as_ref()?;
    tags.get(manifest.links.iter().position(|other| other.tag == *parent)?)
}

/// How a stored link differs whose parent is another one.
fn other_parent(stored: &StoredSnapshot, wanted: Option<&Tag>) -> Option<String> {
    let found = parent_of(Some(stored)).ok().flatten();
    if found.as_ref() == wanted {
        None
    } else {
        Some(found.map_or("it has no parent".into(), |tag| format!("its parent is '{tag}'")))
    }
}

/// The tags that the links of a pack get in the store.
///
/// Whoever makes packs chooses their links' names. One that was not asked for takes nobody's place: where its name is somebody else's, it
/// gets one that tells its content.
pub(crate) fn local_tags(store: &Store, manifest: &Manifest, options: &UnpackOptions) -> Result<Vec<Tag>> {
    let Some((head, parents)) = manifest.links.split_last() else { return Ok(Vec::new()) };
    let chain = |tag: &Tag| -> Result<Vec<Tag>> {
        let parents = parents.iter().map(|link| parent_tag(store, link, tag));
        parents.chain([Ok(tag.clone())]).collect()
    };
    match &options.tag {
        None => chain(&head.tag),
        Some(tag) if options.update => chain(tag),
        Some(tag) if parents.is_empty() => Ok(vec![tag.clone()]),
        Some(_) => Err(Error::new(
            Kind::Usage,
            format!(
                "--tag renames one snapshot, and this pack holds a chain of {}: its links name each other",
                manifest.links.len()
            ),
        )),
    }
}

/// The tag of a link that is not the head, which has a tag of its own.
fn parent_tag(store: &Store, link: &Link, head: &Tag) -> Result<Tag> {
    let is_free = |tag: &Tag| !store.contains(tag);
    let is_this = |tag: &Tag| {
        let same =
            |stored: StoredSnapshot| difference(&stored, link, None, false).is_ok_and(|how| how.is_none());
        is_same(store, tag, link) || store.load(tag).is_ok_and(same)
    };
    let told: String = link.files.iter().map(|file| format!("{} {}\n", file.path, file.sha256)).collect();
    let name = link.tag.as_str();
    let content = &Digest::of(told.as_bytes()).to_string()[..12];
    let other: Tag = format!("{}-{content}", &name[..name.len().min(51)])
        .parse()
        .map_err(Error::malformed(name.to_owned()))?;
    // Where an earlier run gave it that name, it keeps it.
    let own = link.tag != *head && is_free(&other) && (is_free(&link.tag) || is_this(&link.tag));
    Ok(if own { link.tag.clone() } else { other })
}

/// How a stored snapshot differs from a link, or `None` where it has the same bytes.
/// Where `read` is set no record is believed: that is how damage is found and replaced.
pub(crate) fn difference(
    stored: &StoredSnapshot,
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
