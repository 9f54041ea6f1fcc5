//! Releases that lie: each is refused with exit code 6, and nothing of it is visible.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use forkd_core::hub::{ManifestName, Repository};
use forkd_core::{
    Cancel, Env, Kind, PullOptions, PullTarget, ReleaseOptions, ReleaseTarget, Silent, Store, UnpackOptions,
    pull, push_release,
};
use forkd_format::Digest;
use forkd_format::manifest::IndexEntry;
use forkd_format::paged::{FileRoot, SetRun};
use forkd_format::release::{
    Descriptor, FileBlob, FrameRef, PagedFile, ReleaseConfig, ReleaseIndex, ReleaseManifest, media,
};
use forkd_remote::{AnyRemote, HttpOptions, LayoutRepository};
use forkd_testing::frozen_chain;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

static NEVER: LazyLock<Cancel> = LazyLock::new(Cancel::default);

fn env() -> Env<'static> {
    Env { progress: &Silent, cancel: &NEVER, jobs: 2 }
}

/// A release whose documents can be changed.
struct Forger {
    dir: tempfile::TempDir,
    layout: LayoutRepository,
}

#[derive(Clone)]
struct Parts {
    manifest: ReleaseManifest,
    config: ReleaseConfig,
    index: ReleaseIndex,
}

impl Forger {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (tags, _) = frozen_chain(dir.path(), "link", 2, 3 << 20);
        for tag in &tags {
            let path = dir.path().join("forkd/snapshots").join(tag).join("snapshot.json");
            let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            json["working_set"] = serde_json::json!([["memory", 3, 60], ["rootfs", 0, 5]]);
            fs::write(&path, json.to_string()).unwrap();
        }
        let layout = LayoutRepository::new(&dir.path().join("layout")).unwrap();
        let options = ReleaseOptions {
            tag: tags[1].parse().unwrap(),
            description: None,
            base_image: None,
            level: Some(1),
            bases: Vec::new(),
            replace: true,
            variant: false,
        };
        let store = Store::new(&dir.path().join("forkd"), "a test");
        let remote = AnyRemote::new(&HttpOptions::default()).unwrap();
        let target = ReleaseTarget { repository: &layout, remote: &remote, name: "v1", connections: 1 };
        push_release(&store, None, &options, target, env()).unwrap();
        Self { dir, layout }
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.path().join("layout/blobs/sha256").join(digest.to_string())
    }

    fn parts(&self) -> Parts {
        let bytes = self.layout.manifest(&ManifestName::Tag("v1".into()), &NEVER).unwrap();
        let manifest = ReleaseManifest::parse(&bytes).unwrap();
        let read = |blob: &Descriptor| fs::read(self.blob(&blob.digest)).unwrap();
        let entry = IndexEntry { size: manifest.index.size, sha256: manifest.index.digest };
        let config = ReleaseConfig::parse(&read(&manifest.config), &entry).unwrap();
        let index = ReleaseIndex::parse(&read(&manifest.index)).unwrap();
        Parts { manifest, config, index }
    }

    fn put(&self, bytes: &[u8]) {
        fs::write(self.blob(&Digest::of(bytes)), bytes).unwrap();
    }

    /// Publishes documents that fit each other by their digests.
    fn publish(&self, parts: &Parts) {
        let (config, index) = (parts.config.to_bytes(), parts.index.to_bytes());
        let mut manifest = parts.manifest.clone();
        manifest.config = Descriptor::of(media::CONFIG, &config);
        manifest.index = Descriptor::of(media::INDEX, &index);
        self.put(&config);
        self.put(&index);
        self.layout.put_manifest(&ManifestName::Tag("forged".into()), &manifest.to_bytes(), &NEVER).unwrap();
    }

    #[track_caller]
    fn is_refused(&self, expected: &str) {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(&home.path().join("forkd"), "a test");
        let remote = AnyRemote::new(&HttpOptions::default()).unwrap();
        let name = ManifestName::Tag("forged".into());
        let target = PullTarget::Release { repository: &self.layout, name };
        let unpack = UnpackOptions::default();
        let options = PullOptions { target, unpack, connections: Some(3), arrivals: None };
        let error = pull(&store, &remote, &options, env()).expect_err("a release that lies was accepted");
        assert_eq!(error.kind(), Kind::Integrity, "{error}");
        assert!(error.to_string().contains(expected), "expected '{expected}' in: {error}");
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
        store.gc(&Silent).unwrap();
        assert!(forkd_testing::tree(home.path()).is_empty(), "{error}");
    }

    #[track_caller]
    fn refused(&self, expected: &str, edit: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts();
        edit(&mut parts);
        self.publish(&parts);
        self.is_refused(expected);
    }
}

/// The file with this path of a link.
fn file(parts: &Parts, link: usize, path: &str) -> usize {
    let number = parts.config.manifest.links[link].files.iter().position(|file| file.path == path).unwrap();
    parts.config.links[link].files[number]
}

fn rename(parts: &mut Parts, at: usize) {
    let root = parts.index.files[at].computed_root();
    let old = std::mem::replace(&mut parts.index.files[at].root, root);
    for link in &mut parts.config.manifest.links {
        link.files.iter_mut().filter(|file| file.root == Some(old)).for_each(|file| file.root = Some(root));
    }
}

#[test]
fn an_honest_one_is_taken() {
    let forger = Forger::new();
    let parts = forger.parts();
    forger.publish(&parts);
    let home = tempfile::tempdir().unwrap();
    let store = Store::new(&home.path().join("forkd"), "a test");
    let remote = AnyRemote::new(&HttpOptions::default()).unwrap();
    let name = ManifestName::Tag("forged".into());
    let target = PullTarget::Release { repository: &forger.layout, name };
    let options =
        PullOptions { target, unpack: UnpackOptions::default(), connections: Some(3), arrivals: None };
    pull(&store, &remote, &options, env()).unwrap();
}

#[test]
fn blobs_that_are_not_what_they_are_called() {
    let forger = Forger::new();
    forger.refused("bytes in the manifest and", |parts| parts.manifest.blobs[0].size += 1);
    forger.refused("the index names blob", |parts| drop(parts.manifest.blobs.pop()));
    forger.refused("which the index does not", |parts| {
        parts.manifest.blobs.push(Descriptor::of(media::FRAMES, b"more"));
    });
    forger.refused("of type 'text/plain'", |parts| parts.manifest.blobs[0].media_type = "text/plain".into());
    forger.refused("of type '\\u{1b}[2J", |parts| parts.manifest.blobs[0].media_type = "\u{1b}[2J".into());
    forger.refused("layers; at most", |parts| {
        let more = (0..10_000_u32).map(|n| Descriptor::of(media::FRAMES, &n.to_le_bytes()));
        parts.manifest.blobs.extend(more);
    });
    forger.refused("twice", |parts| {
        let again = parts.manifest.blobs[0].clone();
        parts.manifest.blobs.push(again);
    });
    // Other frames under a digest of their own.
    forger.refused("", |parts| {
        let at = file(parts, 0, "memory.bin");
        let FileBlob { digest, len } = parts.index.files[at].blobs[0];
        let mut bytes = fs::read(forger.blob(&digest)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        forger.put(&bytes);
        let forged = Digest::of(&bytes);
        parts.index.files[at].blobs[0] = FileBlob { digest: forged, len };
        let named = parts.manifest.blobs.iter_mut().find(|blob| blob.digest == digest).unwrap();
        named.digest = forged;
    });
    // A manifest that is no JSON, or too long.
    for bytes in [b"{".to_vec(), b"[]".to_vec(), vec![b' '; 5 << 20]] {
        forger.layout.put_manifest(&ManifestName::Tag("forged".into()), &bytes, &NEVER).unwrap();
        forger.is_refused("");
    }
}

#[test]
fn files_that_refer_to_what_does_not_stand_before_them() {
    let forger = Forger::new();
    let need = |file: &mut PagedFile, source: u32, frame: u32| {
        let frames = file.frames.iter_mut().flatten();
        frames.last().unwrap().needs = [FrameRef { source, frame }].into();
    };
    // A circle: the base's memory needs that of the link above it.
    forger.refused("does not stand before it", |parts| {
        let (base, head) = (file(parts, 0, "memory.bin"), file(parts, 1, "memory.bin"));
        let root = parts.index.files[head].root;
        let source = parts.index.files[base].sources.len() as u32;
        parts.index.files[base].sources.push(Some(root));
        need(&mut parts.index.files[base], source, 0);
    });
    // A file of nobody.
    forger.refused("does not stand before it", |parts| {
        let at = file(parts, 1, "memory.bin");
        let source = parts.index.files[at].sources.len() as u32;
        parts.index.files[at].sources.push(Some(FileRoot::from_bytes([7; 32])));
        need(&mut parts.index.files[at], source, 0);
    });
    // Itself, and a frame that is not there.
    for frame in [2, 1000] {
        forger.refused("does not stand before it", |parts| {
            let at = file(parts, 0, "memory.bin");
            let root = parts.index.files[at].root;
            let source = parts.index.files[at].sources.len() as u32;
            parts.index.files[at].sources.push(Some(root));
            need(&mut parts.index.files[at], source, frame);
        });
    }
    // A frame that does not name what its plan refers to.
    forger.refused("that the index does not name for it", |parts| {
        // Of the head: what refers to the base.
        let at = file(parts, 1, "rootfs.ext4");
        let frames = parts.index.files[at].frames.iter_mut().flatten();
        frames.for_each(|frame| frame.needs = Box::default());
    });
    // A plan that names a source which is none by then.
    forger.refused("which is none", |parts| {
        let at = file(parts, 1, "rootfs.ext4");
        let file = &mut parts.index.files[at];
        file.frames.iter_mut().flatten().for_each(|frame| frame.needs = Box::default());
        file.sources.fill(None);
    });
}

#[test]
fn documents_that_do_not_fit() {
    let forger = Forger::new();
    forger.refused("is not the memory.bin of", |parts| {
        let memory = &mut parts.config.manifest.links[0].files.last_mut().unwrap();
        memory.size += 4096;
    });
    forger.refused("named never or twice", |parts| {
        parts.config.links[1].files[0] = parts.config.links[0].files[0];
    });
    forger.refused("which the index does not", |parts| drop(parts.index.files.pop()));
    forger.refused("is no working set", |parts| {
        let (set, text) = (parts.config.links[1].set, parts.config.links[0].files[0]);
        parts.config.links[0].files[0] = set.unwrap();
        parts.config.links[1].set = Some(text);
        // What was the set's is the description's now, by its root too.
        let root = parts.index.files[set.unwrap()].root;
        let entry = &mut parts.config.manifest.links[0].files[0];
        (entry.root, entry.size) = (Some(root), parts.index.files[set.unwrap()].size);
        parts.index.files[set.unwrap()].map.clear();
    });
    forger.refused("must stand before", |parts| {
        let last = parts.index.files.len() - 1;
        parts.index.files.swap(0, last);
        let swap = |number: &mut usize| {
            *number = match *number {
                0 => last,
                number if number == last => 0,
                number => number,
            };
        };
        for link in &mut parts.config.links {
            link.files.iter_mut().chain(&mut link.set).for_each(swap);
        }
    });
    forger.refused("parent", |parts| parts.config.manifest.links[1].parent_content_hash = None);
    forger.refused("names the parent", |parts| {
        parts.config.manifest.links[1].parent_tag = Some("other".parse().unwrap());
    });
    forger.refused("256", |parts| {
        let at = file(parts, 0, "memory.bin");
        parts.index.files[at].size = 1 << 50;
    });
}

#[test]
fn working_sets_that_lie() {
    let forger = Forger::new();
    let set = |parts: &Parts| parts.config.links[1].set.unwrap();
    let edit = |parts: &mut Parts, run: SetRun| {
        let at = set(parts);
        let file = &mut parts.index.files[at];
        let pages = file.map.iter().map(|run| run.count).sum::<u64>();
        file.map = vec![SetRun { count: pages, ..run }];
    };
    forger.refused("not there, or zero", |parts| {
        let file = parts.index.files[set(parts)].map[0].file;
        edit(parts, SetRun { file, page: 1 << 20, count: 0 });
    });
    forger.refused("no part of the snapshot", |parts| {
        // Pages of a description.
        let text = parts.config.links[1].files[0];
        let root = parts.index.files[text].root;
        let at = set(parts);
        let file = parts.index.files[at].sources.len();
        parts.index.files[at].sources.push(Some(root));
        edit(parts, SetRun { file, page: 0, count: 0 });
    });
    forger.refused("a file that is not there", |parts| {
        let at = set(parts);
        let file = parts.index.files[at].sources.len();
        parts.index.files[at].sources.push(Some(FileRoot::from_bytes([9; 32])));
        edit(parts, SetRun { file, page: 0, count: 0 });
    });
    // Other pages than those that it holds.
    forger.refused("", |parts| {
        let file = parts.index.files[set(parts)].map[0].file;
        edit(parts, SetRun { file, page: 100, count: 0 });
        let at = set(parts);
        rename(parts, at);
    });
}
