//! Snapshots whose files are known as blobs, and the release of one of them.

use crate::error::{Error, Kind, Result};
use crate::pack::draft::complete_edges;
use crate::pack::input::PackInput;
use crate::pack::paged::page_source::PageSource;
use crate::pack::paged::write::as_source;
use crate::release::compose::ReleaseParts;
use crate::release::link::KnownFile;
use crate::release::link_note::{LinkNote, NoteBase};
use crate::release::options::ReleaseOptions;
use crate::release::told::TOLD;
use crate::store::stored::StoredSnapshot;
use forkd_format::manifest::{Base, BaseKind, FileEntry, IndexEntry, Link};
use forkd_format::paged::FileRoot;
use forkd_format::release::{
    Annotations, Descriptor, FileBlob, LinkFiles, PagedFile, ReleaseConfig, ReleaseIndex, ReleaseManifest,
    media,
};
use forkd_format::{Digest, Manifest};
use std::collections::{BTreeSet, HashMap};

/// A snapshot whose files are known.
pub(crate) struct BuiltLink {
    pub(crate) stored: StoredSnapshot,
    pub(crate) key: Digest,
    pub(crate) entries: Vec<FileEntry>,
    /// Its files among the known ones.
    pub(crate) files: Vec<usize>,
    set: Option<usize>,
}

/// What a known file is.
enum Part {
    File(Base),
    Set,
}

/// Files so far, each behind those that it refers to.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) files: Vec<KnownFile>,
    parts: Vec<Part>,
    pub(crate) links: Vec<BuiltLink>,
}

impl BuiltLink {
    /// Its files.
    pub(crate) fn all(&self) -> impl Iterator<Item = usize> + '_ {
        self.files.iter().copied().chain(self.set)
    }
}

impl Known {
    /// Takes over what is noted of a link.
    pub(crate) fn add(
        &mut self,
        stored: &StoredSnapshot,
        key: Digest,
        note: LinkNote,
        inputs: &[PackInput],
    ) -> Result<usize> {
        for NoteBase { base, file } in note.bases {
            if !self.files.iter().any(|known| known.file == file) {
                self.parts.push(base.map_or(Part::Set, Part::File));
                self.files.push(KnownFile { file, source: PageSource::none("base") });
            }
        }
        let set = note.set.map(|file| {
            self.parts.push(Part::Set);
            self.files.push(KnownFile { file, source: PageSource::none("working set") });
            self.files.len() - 1
        });
        let mut files = Vec::new();
        for ((entry, file), input) in note.entries.iter().zip(note.files).zip(inputs) {
            files.push(self.files.len());
            self.parts.push(Part::File(Base {
                kind: BaseKind::Snapshot,
                name: stored.tag.to_string(),
                path: entry.path.clone(),
                size: entry.size,
                sha256: entry.sha256,
                root: file.root,
                copied_pages: 1,
                similar_pages: 1,
            }));
            self.files.push(KnownFile { file, source: as_source(input)? });
        }
        if let Some(set) = set {
            self.files[set].source = self.set_source(set)?;
        }
        self.links.push(BuiltLink { stored: stored.clone(), key, entries: note.entries, files, set });
        Ok(self.links.len() - 1)
    }

    /// A working set, read from the files of which it is made.
    fn set_source(&self, set: usize) -> Result<PageSource> {
        let of = &self.files[set].file;
        let mut pages = Vec::new();
        for run in &of.map {
            let root = of.sources[run.file];
            let Some(file) = self.files.iter().position(|known| Some(known.file.root) == root) else {
                return Ok(PageSource::none("working set"));
            };
            pages.extend((run.page..run.page + run.count).map(|page| (file, page)));
        }
        PageSource::set(self.files.iter().map(|known| &known.source), pages)
    }

    /// The first file with a root.
    fn find(&self, root: FileRoot) -> Option<usize> {
        self.files.iter().position(|known| known.file.root == root)
    }

    /// The files that some refer to, directly or not, but for the ones given.
    fn closure(&self, of: impl IntoIterator<Item = FileRoot>, but: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut left: Vec<FileRoot> = of.into_iter().collect();
        while let Some(root) = left.pop() {
            let Some(number) = self.find(root).filter(|number| !but.contains(number)) else { continue };
            if found.insert(number) {
                left.extend(referred(&self.files[number].file));
            }
        }
        found
    }

    /// What files that are not known yet refer to, but for the ancestors'.
    pub(crate) fn needed_by<'b>(
        &self,
        files: impl Iterator<Item = &'b PagedFile>,
        ancestors: &BTreeSet<usize>,
    ) -> Vec<NoteBase> {
        let roots: Vec<FileRoot> = files.flat_map(referred).collect();
        let note = |number: usize| NoteBase {
            base: match &self.parts[number] {
                Part::File(base) => Some(base.clone()),
                Part::Set => None,
            },
            file: self.files[number].file.clone(),
        };
        self.closure(roots, ancestors).into_iter().map(note).collect()
    }

    /// The documents of the release of a chain.
    pub(crate) fn release(&self, chain: &[usize], options: &ReleaseOptions) -> Result<ReleaseParts> {
        let links: Vec<&BuiltLink> = chain.iter().map(|link| &self.links[*link]).collect();
        let Some(head) = links.last() else {
            return Err(Error::new(Kind::General, "internal error: a chain of no links"));
        };
        let files: BTreeSet<usize> = links.iter().flat_map(|link| link.files.iter().copied()).collect();
        let mut wanted: BTreeSet<usize> = files.iter().copied().chain(head.set).collect();
        let roots: Vec<FileRoot> =
            wanted.iter().flat_map(|number| referred(&self.files[*number].file)).collect();
        wanted.extend(self.closure(roots, &files));
        let is_set = |number: &usize| self.files[*number].file.is_set();
        let (sets, rest): (Vec<usize>, Vec<usize>) = wanted.into_iter().partition(is_set);
        let order: Vec<usize> = sets.into_iter().chain(rest).collect();
        let places: HashMap<usize, usize> =
            order.iter().enumerate().map(|(at, number)| (*number, at)).collect();
        let mut manifest = self.manifest(&links, options)?;
        let place = |number: &usize| places.get(number).copied();
        let link_files: Vec<LinkFiles> = links
            .iter()
            .map(|link| LinkFiles {
                files: link.files.iter().filter_map(place).collect(),
                set: link.set.as_ref().and_then(place),
            })
            .collect();
        let of_links: BTreeSet<usize> =
            link_files.iter().flat_map(|link| link.files.iter().copied().chain(link.set)).collect();
        let (mut bases, mut sets) = (Vec::new(), Vec::new());
        for (at, number) in order.iter().enumerate().filter(|(at, _)| !of_links.contains(at)) {
            match &self.parts[*number] {
                Part::Set => sets.push(at),
                Part::File(base) => {
                    bases.push(at);
                    manifest.bases.push(base.clone());
                }
            }
        }
        let index =
            ReleaseIndex { files: order.iter().map(|number| self.files[*number].file.clone()).collect() };
        let bytes = index.to_bytes();
        manifest.index = Some(IndexEntry { size: bytes.len() as u64, sha256: Digest::of(&bytes) });
        let snapshot = &head.stored.snapshot;
        let told =
            TOLD.into_iter().filter_map(|key| Some((key.to_owned(), snapshot.get(key)?.clone()))).collect();
        let config = ReleaseConfig { manifest, links: link_files, bases, sets, told };
        let mut named = BTreeSet::new();
        let mut blobs = Vec::new();
        for number in &order {
            for FileBlob { digest, len } in &self.files[*number].file.blobs {
                if named.insert(*digest) {
                    let media_type = media::FRAMES.to_owned();
                    let title = format!("{}.{}.frames", self.title(*number), digest.short());
                    let annotations = Annotations::new();
                    let blob = Descriptor { media_type, digest: *digest, size: *len, annotations };
                    blobs.push(blob.titled(title));
                }
            }
        }
        let manifest = ReleaseManifest {
            config: Descriptor::of(media::CONFIG, &config.to_bytes()),
            index: Descriptor::of(media::INDEX, &bytes).titled("index"),
            blobs,
            annotations: annotations(&config.manifest),
        };
        Ok(ReleaseParts { manifest, config, index })
    }

    /// A file name for other tools: each blob has its own.
    fn title(&self, number: usize) -> String {
        let of = self.links.iter().find(|link| link.all().any(|file| file == number));
        match (&self.parts[number], of) {
            (Part::File(base), _) => format!("{}.{}", base.name, base.path),
            (Part::Set, Some(link)) => format!("{}.working-set", link.stored.tag),
            (Part::Set, None) => "working-set".to_owned(),
        }
    }

    fn manifest(&self, links: &[&BuiltLink], options: &ReleaseOptions) -> Result<Manifest> {
        let unknown = Digest::of(b"");
        let mut manifest_links = Vec::new();
        for link in links {
            let stored = &link.stored;
            let parent =
                stored.snapshot.parent().map_err(Error::malformed(stored.dir.display().to_string()))?;
            manifest_links.push(Link {
                tag: stored.tag.clone(),
                parent_tag: parent.as_ref().map(|parent| parent.tag.clone()),
                parent_content_hash: parent.map(|parent| parent.content_hash.unwrap_or(unknown)),
                files: link.entries.clone(),
            });
        }
        let record = links.last().and_then(|head| head.stored.record.clone()).unwrap_or_default();
        let mut manifest = Manifest {
            version: 3,
            tag: options.tag.clone(),
            description: options.description.clone().or(record.description),
            base_image: options.base_image.clone().or(record.base_image),
            // Of the snapshot, not of the push: who pushes again pushes the same.
            created_at: record.created_at,
            forkd_version: None,
            links: manifest_links,
            rootfs: None,
            index: None,
            bases: Vec::new(),
        };
        complete_edges(&mut manifest)?;
        Ok(manifest)
    }
}

/// The files that the frames of one refer to. Its own root among them may be that of another file with the same bytes.
fn referred(file: &PagedFile) -> impl Iterator<Item = FileRoot> + '_ {
    let mut used = vec![false; file.sources.len()];
    for need in file.frames.iter().flatten().flat_map(|frame| &frame.needs) {
        used[need.source as usize] = true;
    }
    let sources = file.sources.iter().zip(used).filter(|(_, used)| *used);
    sources.filter_map(|(root, _)| *root)
}

fn annotations(manifest: &Manifest) -> Annotations {
    let standard = |key: &str| format!("org.opencontainers.image.{key}");
    let pairs = [
        ("title", Some(manifest.tag.to_string())),
        ("description", manifest.description.clone()),
        ("created", manifest.created_at.clone()),
        ("base.name", manifest.base_image.clone()),
    ];
    pairs.into_iter().filter_map(|(key, value)| Some((standard(key), value?))).collect()
}
