//! From snapshots of the store to a release: which blobs it has, made where they are nowhere yet.

use crate::cache::folder::Cache;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::computed_id::ComputedId;
use crate::pack::draft::complete_edges;
use crate::pack::input::{InputBody, PackInput, open_link_inputs};
use crate::pack::paged::page_source::PageSource;
use crate::pack::paged::write::as_source;
use crate::pipeline::each::for_each_of;
use crate::release::compose::ReleaseParts;
use crate::release::link::{KnownFile, LinkWrite};
use crate::release::link_note::{LinkNote, NoteBase, link_key};
use crate::store::record::HashedFile;
use crate::store::root::Store;
use crate::store::stored::StoredSnapshot;
use crate::store::workdir::WorkDir;
use forkd_format::manifest::{Base, BaseKind, FileEntry, IndexEntry, Link, SNAPSHOT_JSON};
use forkd_format::paged::FileRoot;
use forkd_format::release::{
    Annotations, Descriptor, FileBlob, LinkFiles, PagedFile, ReleaseConfig, ReleaseIndex, ReleaseManifest,
    media,
};
use forkd_format::{Digest, Manifest, Tag};
use std::collections::{BTreeSet, HashMap};

/// What goes into a release.
#[derive(Debug, Clone)]
pub struct ReleaseOptions {
    /// The snapshot; with it go its ancestors.
    pub tag: Tag,
    /// For people; where none is given, what the snapshot came with.
    pub description: Option<String>,
    /// The container image behind the rootfs; where none is given, what the snapshot came with.
    pub base_image: Option<String>,
    /// zstd's level, 1 to 22; where none is given, what was made at any level is taken.
    pub level: Option<i32>,
    /// Other snapshots of the store whose files frames may refer to; what they refer to goes along.
    pub bases: Vec<Tag>,
}

/// Questions that a server is asked at a time.
const AT_A_TIME: usize = 8;

/// zstd's level where none is given.
const LEVEL: i32 = 3;

/// Says whether a blob need not be made: whoever gets the release has it, or can have it from one of these repositories.
pub(crate) type HasBlob<'a> = &'a (dyn Fn(&FileBlob, &[String]) -> Result<bool> + Sync);

/// Where blobs come from and go to.
pub(crate) struct ReleaseBuilder<'a> {
    pub(crate) store: &'a Store,
    pub(crate) cache: Option<&'a Cache>,
    pub(crate) work: &'a WorkDir,
    pub(crate) has: HasBlob<'a>,
    pub(crate) level: Option<i32>,
    pub(crate) env: Env<'a>,
}

/// A release whose blobs are in the work folder or where they are to go.
pub(crate) struct BuiltRelease {
    pub(crate) id: ComputedId,
    pub(crate) bytes: Vec<u8>,
    pub(crate) manifest: ReleaseManifest,
    pub(crate) config: Vec<u8>,
    pub(crate) index: Vec<u8>,
    pub(crate) unpacked_size: u64,
    pub(crate) links: usize,
    /// What its links are noted under.
    pub(crate) keys: Vec<Digest>,
}

/// A snapshot whose files are known.
struct BuiltLink {
    stored: StoredSnapshot,
    key: Digest,
    entries: Vec<FileEntry>,
    /// Its files among the known ones.
    files: Vec<usize>,
    set: Option<usize>,
}

/// What a known file is.
enum Part {
    File(Base),
    Set,
}

/// Files so far, each behind those that it refers to.
#[derive(Default)]
struct Known {
    files: Vec<KnownFile>,
    parts: Vec<Part>,
    links: Vec<BuiltLink>,
}

impl ReleaseBuilder<'_> {
    /// Builds the release of a tag whose chain is locked.
    pub(crate) fn build(&self, options: &ReleaseOptions) -> Result<BuiltRelease> {
        let mut known = Known::default();
        for base in &options.bases {
            self.chain(&mut known, base)?;
        }
        let chain = self.chain(&mut known, &options.tag)?;
        let parts = known.release(&chain, options)?;
        let (config, index) = (parts.config.to_bytes(), parts.index.to_bytes());
        let (unpacked_size, links) = (parts.config.manifest.unpacked_size(), chain.len());
        let keys = known.links.iter().map(|link| link.key).collect();
        let manifest = parts.manifest.clone();
        let bytes = manifest.to_bytes();
        let id = ComputedId::of_release(&bytes);
        // What no forkd would read is not passed on.
        let name = format!("'{}' cannot be published", options.tag);
        parts.compose(id, &name)?;
        Ok(BuiltRelease { id, bytes, manifest, config, index, unpacked_size, links, keys })
    }

    /// The links of a chain, each of which is known from then on.
    fn chain(&self, known: &mut Known, tag: &Tag) -> Result<Vec<usize>> {
        let chain = self.store.chain(tag)?;
        let mut links: Vec<usize> = Vec::new();
        for end in 1..=chain.len() {
            self.env.cancel.check()?;
            let link = self.link(known, &chain[..end], (&links, end == chain.len()))?;
            links.push(link);
        }
        Ok(links)
    }

    /// The last link of a chain, whose others are known.
    fn link(
        &self,
        known: &mut Known,
        chain: &[StoredSnapshot],
        (above, is_head): (&[usize], bool),
    ) -> Result<usize> {
        let stored = &chain[chain.len() - 1];
        let inputs = open_link_inputs(stored, 0)?;
        let names: Vec<&str> =
            std::iter::once(SNAPSHOT_JSON).chain(stored.bodies().into_iter().map(|(name, _)| name)).collect();
        let roots = self.roots(stored, &inputs, &names)?;
        let parent = above.last().map(|link| known.links[*link].key);
        let sizes = inputs.iter().map(|input| input.size);
        let files = names.iter().copied().zip(sizes).zip(roots.iter().copied());
        let key = link_key(self.level, parent, files);
        if let Some(found) = known.links.iter().position(|link| link.key == key) {
            return Ok(found);
        }
        let noted = self.cache.and_then(|cache| LinkNote::load(cache, &key));
        if let Some(note) = noted
            && note.entries.len() == names.len()
            && !(is_head && note.is_partial)
            && self.are_there(&note)?
        {
            return known.add(stored, key, note, &inputs);
        }
        self.env
            .progress
            .start(&format!("packing {}", stored.tag), Some(inputs.iter().map(|i| i.size).sum()));
        let place = |link: usize, name: &str| match above.get(link) {
            Some(above) => {
                let link = &known.links[*above];
                let file = link.entries.iter().position(|file| file.path == name)?;
                Some(link.files[file])
            }
            None => Some(known.files.len() + names.iter().position(|found| *found == name)?),
        };
        let write = LinkWrite {
            chain,
            inputs: &inputs,
            known: &known.files,
            place: &place,
            level: self.level.unwrap_or(LEVEL),
            work: self.work,
        };
        let written = write.run(self.env);
        self.env.progress.finish();
        let written = written?;
        let mut entries = Vec::new();
        for (((name, file), digest), expected) in
            names.iter().zip(&written.files).zip(&written.digests).zip(&roots)
        {
            if file.root != *expected {
                let path = stored.dir.join(name);
                let message = format!("{}: it is not what was recorded", path.display());
                return Err(Error::new(Kind::Integrity, message)
                    .hint(format!("`forkd verify {}` shows where it is damaged", stored.tag)));
            }
            let path = (*name).to_owned();
            entries.push(FileEntry { path, size: file.size, sha256: *digest, root: Some(file.root) });
        }
        let ancestors: BTreeSet<usize> = above.iter().flat_map(|link| known.links[*link].all()).collect();
        let bases = known.needed_by(written.files.iter().chain(&written.set), &ancestors);
        let (set, files) = (written.set, written.files);
        let note = LinkNote { entries, files, set, bases, is_partial: false, places: Vec::new() };
        if let Some(cache) = self.cache {
            note.save(cache, &key, self.env)?;
        }
        known.add(stored, key, note, &inputs)
    }

    /// Whether no blob of a link need be made.
    fn are_there(&self, note: &LinkNote) -> Result<bool> {
        let blobs: Vec<FileBlob> = note.all().flat_map(|file| file.blobs.iter().copied()).collect();
        let there = for_each_of(&blobs, AT_A_TIME, |blob| self.is_there(blob, &note.places))?;
        Ok(there.into_iter().all(|there| there))
    }

    fn is_there(&self, blob: &FileBlob, places: &[String]) -> Result<bool> {
        let path = self.work.path().join(blob.digest.to_string());
        // What a run left that was cut off may not be what its name says.
        if path.metadata().is_ok_and(|found| found.len() == blob.len)
            && HashedFile::read(&path, &mut |_| self.env.cancel.check())?.sha256 == blob.digest
        {
            return Ok(true);
        }
        (self.has)(blob, places)
    }

    /// The root of each file, from its record where it is untouched.
    fn roots(&self, stored: &StoredSnapshot, inputs: &[PackInput], names: &[&str]) -> Result<Vec<FileRoot>> {
        let root = |(input, name): (&PackInput, &&str)| match &input.body {
            InputBody::Bytes(bytes) => Ok(HashedFile::of(bytes, 0).root),
            InputBody::File(_) => stored.root(name, &input.path, false),
        };
        inputs.iter().zip(names).map(root).collect()
    }
}

impl BuiltLink {
    /// Its files.
    fn all(&self) -> impl Iterator<Item = usize> + '_ {
        self.files.iter().copied().chain(self.set)
    }
}

impl Known {
    /// Takes over what is noted of a link.
    fn add(
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
    fn needed_by<'b>(
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
    fn release(&self, chain: &[usize], options: &ReleaseOptions) -> Result<ReleaseParts> {
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
        let config = ReleaseConfig { manifest, links: link_files, bases, sets };
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
