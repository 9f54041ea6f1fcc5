//! In which blobs the files of a snapshot lie, noted so that they need not be made again to be named.

use crate::cache::entry::CacheSlot;
use crate::cache::folder::{Cache, CacheKind};
use crate::env::Env;
use crate::error::Result;
use crate::release::compose::ReleaseParts;
use forkd_format::Digest;
use forkd_format::manifest::{Base, FileEntry};
use forkd_format::paged::FileRoot;
use forkd_format::release::{PagedFile, ReleaseConfig, ReleaseIndex};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;

/// The largest note that is read, in bytes.
const MOST: u64 = 256 << 20;
/// Repositories that are remembered.
const MOST_PLACES: usize = 3;

/// A snapshot's files as blobs.
#[derive(Debug, Clone)]
pub(crate) struct LinkNote {
    /// In the order of a pack; the description as it is in one.
    pub(crate) entries: Vec<FileEntry>,
    pub(crate) files: Vec<PagedFile>,
    pub(crate) set: Option<PagedFile>,
    /// What its blobs refer to, directly or not, that is of no ancestor, in order.
    pub(crate) bases: Vec<NoteBase>,
    /// Whether it is not known whether the snapshot has a working set: it came as an ancestor.
    pub(crate) is_partial: bool,
    /// Repositories that are known to have had the blobs, the last one first.
    pub(crate) places: Vec<String>,
}

/// A file of a snapshot that is no ancestor, or its working set.
#[derive(Debug, Clone)]
pub(crate) struct NoteBase {
    pub(crate) base: Option<Base>,
    pub(crate) file: PagedFile,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    entries: Vec<FileEntry>,
    has_set: bool,
    bases: Vec<Option<Base>>,
    #[serde(default)]
    is_partial: bool,
    #[serde(default)]
    places: Vec<String>,
}

/// What decides how a link's blobs come out: what its blobs are noted under.
pub(crate) fn link_key<'n>(
    level: Option<i32>,
    parent: Option<Digest>,
    files: impl Iterator<Item = ((&'n str, u64), FileRoot)>,
) -> Digest {
    let mut text = "forkd release 1\n".to_owned();
    text.extend(level.map(|level| format!("at level {level}\n")));
    text.extend(parent.map(|parent| format!("on {parent}\n")));
    for ((name, size), root) in files {
        text += &format!("{name} {size} {root}\n");
    }
    Digest::of(text.as_bytes())
}

/// A release that is pulled, and the repository that has it.
pub(crate) struct ReleaseOrigin {
    pub(crate) parts: ReleaseParts,
    pub(crate) place: String,
}

/// Notes where the blobs of a release lie, so that who builds upon it need not make them again. All of its frames came from there and
/// were checked: that a blob holds what its index says is not believed of a stranger.
pub(crate) fn note_release(cache: &Cache, from: &ReleaseOrigin, env: Env<'_>) -> Result<()> {
    let ReleaseConfig { manifest, links, bases, .. } = &from.parts.config;
    let all = &from.parts.index.files;
    let of_links: BTreeSet<usize> =
        links.iter().flat_map(|link| link.files.iter().copied().chain(link.set)).collect();
    let base_of: BTreeMap<usize, &Base> = bases.iter().copied().zip(&manifest.bases).collect();
    let others = (0..all.len()).filter(|number| !of_links.contains(number));
    let others: Vec<NoteBase> = others
        .map(|number| NoteBase {
            base: base_of.get(&number).map(|base| (*base).clone()),
            file: all[number].clone(),
        })
        .collect();
    let mut parent = None;
    for (number, (link, files)) in manifest.links.iter().zip(links).enumerate() {
        let described =
            link.files.iter().filter_map(|file| Some(((file.path.as_str(), file.size), file.root?)));
        let key = link_key(None, parent, described);
        parent = Some(key);
        if LinkNote::load(cache, &key).is_some() {
            continue;
        }
        let note = LinkNote {
            entries: link.files.clone(),
            files: files.files.iter().map(|number| all[*number].clone()).collect(),
            set: files.set.map(|number| all[number].clone()),
            bases: others.clone(),
            is_partial: files.set.is_none() && number + 1 < links.len(),
            places: vec![from.place.clone()],
        };
        note.save(cache, &key, env)?;
    }
    Ok(())
}

impl LinkNote {
    /// All its files, and those of bases.
    pub(crate) fn all(&self) -> impl Iterator<Item = &PagedFile> {
        self.bases.iter().map(|base| &base.file).chain(&self.set).chain(&self.files)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let wire = Wire {
            entries: self.entries.clone(),
            has_set: self.set.is_some(),
            bases: self.bases.iter().map(|base| base.base.clone()).collect(),
            is_partial: self.is_partial,
            places: self.places.clone(),
        };
        let mut bytes = serde_json::to_vec(&wire).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend(ReleaseIndex { files: self.all().cloned().collect() }.to_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let wire: Wire = serde_json::from_slice(&bytes[..end]).ok()?;
        let mut files = ReleaseIndex::parse(&bytes[end + 1..]).ok()?.files.into_iter();
        let mut bases = Vec::new();
        for base in wire.bases {
            bases.push(NoteBase { base, file: files.next()? });
        }
        let set = if wire.has_set { Some(files.next()?) } else { None };
        let files: Vec<PagedFile> = files.collect();
        let same = |(entry, file): (&FileEntry, &PagedFile)| {
            entry.root == Some(file.root) && entry.size == file.size
        };
        let fits = files.len() == wire.entries.len() && wire.entries.iter().zip(&files).all(same);
        let Wire { entries, is_partial, places, .. } = wire;
        fits.then_some(Self { entries, files, set, bases, is_partial, places })
    }

    /// From now on a repository is known to have the blobs.
    pub(crate) fn add_place(&mut self, place: &str) {
        self.places.retain(|known| known != place);
        self.places.insert(0, place.to_owned());
        self.places.truncate(MOST_PLACES);
    }

    /// What was noted under a key. What cannot be read counts as nothing: it is made again.
    pub(crate) fn load(cache: &Cache, key: &Digest) -> Option<Self> {
        let entry = cache.find(CacheKind::Release, key).ok()??;
        let len = entry.len().min(MOST) as usize;
        let mut bytes = vec![0; len];
        entry.file().read_exact_at(&mut bytes, 0).ok()?;
        Self::parse(&bytes)
    }

    /// Notes it. What was noted before under the key is replaced.
    pub(crate) fn save(&self, cache: &Cache, key: &Digest, env: Env<'_>) -> Result<()> {
        let mut slot = cache.find_or_create(CacheKind::Release, key, env)?;
        if let CacheSlot::Found(entry) = &slot {
            entry.discard()?;
            drop(slot);
            slot = cache.find_or_create(CacheKind::Release, key, env)?;
        }
        if let CacheSlot::Free(mut writer) = slot {
            writer.restart()?;
            writer.write_at(&self.to_bytes(), 0)?;
            writer.commit()?;
        }
        Ok(())
    }
}
