//! From the documents of a release to a header as a paged pack has one: every frame gets a number and an address, every name of a file is
//! resolved, and what cannot be is refused (`docs/format/release.md`).

use crate::error::{Error, Result};
use crate::pack::computed_id::ComputedId;
use crate::pack::paged::header::PagedHeader;
use crate::pack::paged::header_parts::{BaseBody, HeaderFile, HeaderParts, SourceMap};
use crate::pull::frame_place::BLOB_GAP;
use forkd_format::manifest::{MAX_UNPACKED, SNAPSHOT_JSON};
use forkd_format::paged::{FRAME_PAGES, FileFrames, FileRoot, StoredFrame};
use forkd_format::release::{FileBlob, FrameRef, PagedFile, ReleaseConfig, ReleaseIndex, ReleaseManifest};
use forkd_format::{Digest, FormatError, PAGE_SIZE};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// How deep frames of a release may need each other.
pub(crate) const MAX_DEPTH: u8 = 64;

/// The documents of a release, each checked by itself.
#[derive(Debug, Clone)]
pub(crate) struct ReleaseParts {
    pub(crate) manifest: ReleaseManifest,
    pub(crate) config: ReleaseConfig,
    pub(crate) index: ReleaseIndex,
}

/// A release whose documents fit together.
pub(crate) struct ComposedRelease {
    pub(crate) header: PagedHeader,
    /// The blobs and where their frames lie by the header's offsets, ascending.
    pub(crate) blobs: Vec<(Digest, Range<u64>)>,
}

/// What a file of the index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// A file of a link, by its number in the manifest.
    File(usize),
    /// The head's working set.
    Set,
    /// A base, by its number among those.
    Base(usize),
}

impl ReleaseParts {
    /// Puts the documents together. `name` is the release in messages.
    pub(crate) fn compose(self, id: ComputedId, name: &str) -> Result<ComposedRelease> {
        let refused =
            |why: String| Error::Malformed { file: name.to_owned(), source: FormatError::Release(why) };
        self.check_blobs().map_err(&refused)?;
        let roles = self.roles().map_err(&refused)?;
        let Self { config, index, .. } = self;
        let composer =
            Composer { config: &config, all: &index.files, roles: &roles, first: first_of(&index.files) };
        let (parts, blobs) = composer.run(id).map_err(&refused)?;
        Ok(ComposedRelease { header: PagedHeader::new(parts), blobs })
    }

    /// The index's blobs are those of the manifest.
    fn check_blobs(&self) -> std::result::Result<(), String> {
        let named: HashMap<Digest, u64> =
            self.manifest.blobs.iter().map(|blob| (blob.digest, blob.size)).collect();
        let mut used = HashSet::new();
        for FileBlob { digest, len } in self.index.files.iter().flat_map(|file| &file.blobs) {
            match named.get(digest) {
                Some(size) if size == len => used.insert(digest),
                Some(size) => {
                    let message =
                        format!("blob {digest} has {size} bytes in the manifest and {len} in the index");
                    return Err(message);
                }
                None => return Err(format!("the index names blob {digest}, which the manifest does not")),
            };
        }
        match named.keys().find(|digest| !used.contains(digest)) {
            Some(digest) => Err(format!("the manifest names blob {digest}, which the index does not")),
            None => Ok(()),
        }
    }

    /// What each file of the index is; sizes and roots are as the configuration has them.
    fn roles(&self) -> std::result::Result<Vec<Role>, String> {
        let ReleaseConfig { manifest, links, bases, sets, .. } = &self.config;
        let all = &self.index.files;
        if self.config.files().len() != all.len() {
            return Err(format!(
                "the configuration names {} files; the index has {}",
                self.config.files().len(),
                all.len()
            ));
        }
        let mut roles = vec![None; all.len()];
        let files = links.iter().flat_map(|link| &link.files);
        for (number, (place, (link, file))) in files.zip(manifest.files()).enumerate() {
            let found = &all[*place];
            if (found.size, Some(found.root)) != (file.size, file.root) || found.is_set() {
                return Err(format!("file {place} is not the {} of '{}'", file.path, link.tag));
            }
            roles[*place] = Some(Role::File(number));
        }
        for (number, (place, base)) in bases.iter().zip(&manifest.bases).enumerate() {
            let found = &all[*place];
            if (found.size, found.root) != (base.size, base.root) || found.is_set() {
                return Err(format!("file {place} is not the base that the configuration names"));
            }
            roles[*place] = Some(Role::Base(number));
        }
        let last = links.len() - 1;
        let of_links = links.iter().enumerate().filter_map(|(l, link)| Some((l == last, link.set?)));
        let mut next = bases.len();
        for (is_head, place) in of_links.chain(sets.iter().map(|place| (false, *place))) {
            if !all[place].is_set() {
                return Err(format!("file {place} is no working set"));
            }
            roles[place] = Some(if is_head { Role::Set } else { Role::Base(next) });
            next += usize::from(!is_head);
        }
        let roles: Vec<Role> = roles.into_iter().flatten().collect();
        let sets = all.iter().take_while(|file| file.is_set()).count();
        if all[sets..].iter().any(PagedFile::is_set) {
            return Err("working sets must stand before all other files".into());
        }
        let total = all.iter().fold(0_u64, |sum, file| sum.saturating_add(file.size));
        if total > 2 * MAX_UNPACKED {
            return Err(format!("{total} bytes with all bases; at most {} are read", 2 * MAX_UNPACKED));
        }
        Ok(roles)
    }
}

/// The first file that has a root.
fn first_of(all: &[PagedFile]) -> HashMap<FileRoot, usize> {
    let mut first = HashMap::new();
    for (number, file) in all.iter().enumerate() {
        first.entry(file.root).or_insert(number);
    }
    first
}

struct Composer<'a> {
    config: &'a ReleaseConfig,
    all: &'a [PagedFile],
    roles: &'a [Role],
    first: HashMap<FileRoot, usize>,
}

type Composed = (HeaderParts, Vec<(Digest, Range<u64>)>);

impl Composer<'_> {
    fn run(self, id: ComputedId) -> std::result::Result<Composed, String> {
        let count = self.config.manifest.files().count();
        let bases = self.roles.iter().filter(|role| matches!(role, Role::Base(_))).count();
        let mut files: Vec<Option<HeaderFile>> = (0..count + 1 + bases).map(|_| None).collect();
        let (mut places, mut order) = (Vec::new(), Vec::new());
        // Of each file so far: the number of each of its frames over the release.
        let mut numbers: Vec<Vec<Option<u32>>> = Vec::new();
        let mut depths: Vec<u8> = Vec::new();
        let mut at = 0;
        for (number, paged) in self.all.iter().enumerate() {
            let wrong = |why: String| format!("file {number} of the index: {why}");
            let sources = self.sources(number);
            let (mut frames, mut own, mut offset) = (Vec::with_capacity(paged.frames.len()), Vec::new(), at);
            let mut end = 0;
            let mut cuts = paged.blobs.iter().map(|blob| (end += blob.len, end).1).peekable();
            let mut begun = at;
            for frame in &paged.frames {
                let Some(frame) = frame else {
                    frames.push(None);
                    own.push(None);
                    continue;
                };
                let mut needs = Vec::with_capacity(frame.needs.len());
                for FrameRef { source, frame: needed } in &frame.needs {
                    let of = sources[*source as usize];
                    let table = of.and_then(|of| if of == number { Some(&own) } else { numbers.get(of) });
                    let found = table.and_then(|table| table.get(*needed as usize).copied().flatten());
                    needs.push(found.ok_or_else(|| {
                        wrong(format!(
                            "a frame needs frame {needed} of source {source}, which does not stand before it"
                        ))
                    })?);
                }
                needs.sort_unstable();
                needs.dedup();
                let depth = needs.iter().map(|need| depths[*need as usize] + 1).max().unwrap_or(0);
                if depth > MAX_DEPTH {
                    return Err(wrong(format!(
                        "frames that need each other {depth} deep; at most {MAX_DEPTH} are read"
                    )));
                }
                own.push(Some(depths.len() as u32));
                depths.push(depth);
                let (hash, sum, len) = (frame.hash, frame.sum, frame.len);
                frames.push(Some(StoredFrame { hash, sum, offset, len, needs: needs.into() }));
                offset += u64::from(len);
                // Blobs lie apart, so that no stretch is of two.
                if cuts.next_if_eq(&(offset - begun)).is_some() {
                    offset += BLOB_GAP;
                    begun += BLOB_GAP;
                }
            }
            let file = self.file(number, count);
            let sources =
                sources.into_iter().map(|of| Some(self.source(of?, count, bases))).collect::<SourceMap>();
            files[file] =
                Some(HeaderFile { frames: FileFrames { size: paged.size, frames }, sources: Some(sources) });
            order.push(file);
            for FileBlob { digest, len } in &paged.blobs {
                places.push((*digest, at..at + len));
                at += len + BLOB_GAP;
            }
            numbers.push(own);
        }
        let set_pages = self.set_pages(count)?;
        let none = || HeaderFile { frames: FileFrames { size: 0, frames: Vec::new() }, sources: None };
        let mut files: Vec<HeaderFile> = files.into_iter().map(|file| file.unwrap_or_else(none)).collect();
        let base_files = files.split_off(count + 1);
        let set = files.pop().unwrap_or_else(none);
        let bodies = self.base_bodies(count, bases);
        let parts = HeaderParts {
            manifest: self.config.manifest.clone(),
            id,
            header_len: 0,
            files,
            set,
            set_pages,
            bases: bodies.into_iter().zip(base_files).collect(),
            order,
            set_is_implied: false,
        };
        Ok((parts, places))
    }

    /// The number among a header's files of one of the index.
    fn file(&self, number: usize, count: usize) -> usize {
        match self.roles[number] {
            Role::File(file) => file,
            Role::Set => count,
            Role::Base(base) => count + 1 + base,
        }
    }

    /// The number among a header's sources.
    fn source(&self, number: usize, count: usize, bases: usize) -> usize {
        match self.roles[number] {
            Role::File(file) => bases + file,
            Role::Set => bases + count,
            Role::Base(base) => base,
        }
    }

    /// The files that the sources of one are, as far as they do not stand behind it.
    fn sources(&self, number: usize) -> Vec<Option<usize>> {
        let found = |root: &Option<FileRoot>| {
            self.first.get(root.as_ref()?).copied().filter(|found| *found <= number)
        };
        self.all[number].sources.iter().map(found).collect()
    }

    /// The pages of which a working set is made, as files of the header; `None` where one of the files is not in the release.
    fn pages(&self, set: usize, count: usize) -> Option<Vec<(usize, u64)>> {
        let paged = &self.all[set];
        let mut pages = Vec::new();
        for run in &paged.map {
            let root = paged.sources[run.file]?;
            // Of several files with the same bytes the last one: the head's.
            let of = (0..self.all.len()).rev().find(|other| self.all[*other].root == root)?;
            let file = self.file(of, count);
            pages.extend((run.page..run.page + run.count).map(|page| (file, page)));
        }
        Some(pages)
    }

    /// The pages of the head's working set.
    fn set_pages(&self, count: usize) -> std::result::Result<Vec<(usize, u64)>, String> {
        let Some(set) = self.roles.iter().position(|role| *role == Role::Set) else { return Ok(Vec::new()) };
        let wrong = |why: &str| format!("the working set has a page {why}");
        let pages = self.pages(set, count).ok_or_else(|| wrong("of a file that is not there"))?;
        let mut tables: Vec<Option<&PagedFile>> = vec![None; count];
        for (paged, role) in self.all.iter().zip(self.roles) {
            if let Role::File(file) = role {
                tables[*file] = Some(paged);
            }
        }
        let texts: Vec<bool> =
            self.config.manifest.files().map(|(_, file)| file.path == SNAPSHOT_JSON).collect();
        let mut seen = HashSet::new();
        for (file, page) in &pages {
            let Some(paged) = tables.get(*file).copied().flatten().filter(|_| !texts[*file]) else {
                return Err(wrong("of a file that is no part of the snapshot"));
            };
            if *page >= paged.size / PAGE_SIZE as u64 || paged.frames[*page as usize / FRAME_PAGES].is_none()
            {
                return Err(wrong("that is not there, or zero"));
            }
            if !seen.insert((*file, *page)) {
                return Err(wrong("twice"));
            }
        }
        Ok(pages)
    }

    fn base_bodies(&self, count: usize, bases: usize) -> Vec<BaseBody> {
        let named = self.config.manifest.bases.iter().map(|base| BaseBody::File(base.clone()));
        let mut bodies: Vec<BaseBody> = named.collect();
        bodies.resize_with(bases, || BaseBody::Set(Vec::new()));
        for (number, role) in self.roles.iter().enumerate() {
            if let Role::Base(base) = role
                && let BaseBody::Set(pages) = &mut bodies[*base]
            {
                *pages = self.pages(number, count).unwrap_or_default();
            }
        }
        bodies
    }
}
