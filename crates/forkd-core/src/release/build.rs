//! From snapshots of the store to a release: which blobs it has, made where they are nowhere yet.

use crate::cache::folder::Cache;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::computed_id::ComputedId;
use crate::pack::input::{InputBody, PackInput, open_link_inputs};
use crate::pipeline::each::for_each_of;
use crate::release::known::Known;
use crate::release::link::LinkWrite;
use crate::release::link_note::{LinkNote, link_key};
use crate::release::options::ReleaseOptions;
use crate::release::told::engine_of;
use crate::store::record::HashedFile;
use crate::store::root::Store;
use crate::store::stored::StoredSnapshot;
use crate::store::workdir::WorkDir;
use forkd_format::manifest::{FileEntry, SNAPSHOT_JSON};
use forkd_format::paged::FileRoot;
use forkd_format::release::{FileBlob, ReleaseManifest};
use forkd_format::{Digest, Snapshot, Tag};
use std::collections::BTreeSet;

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
    /// The engine and the processor that it is for.
    pub(crate) engine: String,
    /// What its links are noted under.
    pub(crate) keys: Vec<Digest>,
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
        let engine = engine_of(&Snapshot::new(parts.config.told.clone()));
        let keys = known.links.iter().map(|link| link.key).collect();
        let manifest = parts.manifest.clone();
        let bytes = manifest.to_bytes();
        let id = ComputedId::of_release(&bytes);
        // What no forkd would read is not passed on.
        let name = format!("'{}' cannot be published", options.tag);
        parts.compose(id, &name)?;
        Ok(BuiltRelease { id, bytes, manifest, config, index, unpacked_size, links, engine, keys })
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
