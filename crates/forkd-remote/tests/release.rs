//! Releases: pushed to a folder in the OCI image layout, and pulled from there.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use forkd_core::cache::Cache;
use forkd_core::hub::{ManifestName, Repository};
use forkd_core::{
    Cancel, Env, Kind, PullOptions, PullReport, PullTarget, ReleaseOptions, ReleaseReport, ReleaseTarget,
    Result, Silent, Store, UnpackOptions, pull, push_release,
};
use forkd_format::Digest;
use forkd_format::release::ReleaseManifest;
use forkd_remote::{AnyRemote, HttpOptions, LayoutRepository};
use forkd_testing::{Fixture, fixture, frozen_chain};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

static NEVER: LazyLock<Cancel> = LazyLock::new(Cancel::default);

const MEMORY: u64 = 6 << 20;

fn env() -> Env<'static> {
    Env { progress: &Silent, cancel: &NEVER, jobs: 2 }
}

struct Host {
    dir: tempfile::TempDir,
    store: Store,
    cache: Cache,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("forkd"), "a test");
        let cache = Cache::new(&dir.path().join("cache"));
        Self { dir, store, cache }
    }

    /// Made-up snapshots that know what a fork of theirs needs.
    fn chain(&self, depth: usize) -> Vec<String> {
        let (tags, _) = frozen_chain(self.dir.path(), "link", depth, MEMORY);
        tags.iter()
            .for_each(|tag| self.need(tag, &[("memory", 3, 200), ("memory", 900, 30), ("rootfs", 1, 4)]));
        tags
    }

    fn need(&self, tag: &str, runs: &[(&str, u64, u64)]) {
        let path = self.store.dir(&tag.parse().unwrap()).join("snapshot.json");
        let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let runs: Vec<_> =
            runs.iter().map(|(file, first, count)| serde_json::json!([file, first, count])).collect();
        json["working_set"] = runs.into();
        fs::write(&path, json.to_string()).unwrap();
    }

    fn push(&self, tag: &str, to: &dyn Repository) -> Result<ReleaseReport> {
        self.push_on(tag, &[], to)
    }

    fn push_on(&self, tag: &str, bases: &[&str], to: &dyn Repository) -> Result<ReleaseReport> {
        let options = ReleaseOptions {
            tag: tag.parse().unwrap(),
            description: Some("a test".into()),
            base_image: None,
            level: Some(1),
            bases: bases.iter().map(|base| base.parse().unwrap()).collect(),
            replace: true,
            variant: false,
        };
        let remote = AnyRemote::new(&HttpOptions::default()).unwrap();
        let target = ReleaseTarget { repository: to, remote: &remote, name: tag, connections: 4 };
        push_release(&self.store, Some(&self.cache), &options, target, env())
    }

    fn pull(&self, name: ManifestName, from: &dyn Repository) -> Result<PullReport> {
        let remote = AnyRemote::new(&HttpOptions::default()).unwrap();
        let target = PullTarget::Release { repository: from, name };
        let unpack = UnpackOptions { cache: Some(self.cache.clone()), ..UnpackOptions::default() };
        let options = PullOptions { target, unpack, connections: Some(3), arrivals: None };
        pull(&self.store, &remote, &options, env())
    }

    fn tag(&self, name: &str, from: &dyn Repository) -> Result<PullReport> {
        self.pull(ManifestName::Tag(name.into()), from)
    }

    /// The bytes of a snapshot's files, but for its description, which has paths.
    fn files(&self, tag: &str) -> BTreeMap<PathBuf, String> {
        let mut tree = forkd_testing::tree(&self.store.dir(&tag.parse().unwrap()));
        tree.retain(|path, _| {
            ["vmstate", "memory.bin", "rootfs.ext4"].iter().any(|name| path.ends_with(name))
        });
        // Without modes: what was pulled is sealed.
        tree.into_iter().map(|(path, found)| (path, found[found.len() - 64..].to_owned())).collect()
    }
}

fn bytes_below(dir: &Path) -> u64 {
    let list = fs::read_dir(dir.join("blobs/sha256")).unwrap();
    list.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn what_is_there_is_neither_sent_nor_stored_nor_fetched_again() {
    let (from, to, fresh) = (Host::new(), Host::new(), Host::new());
    let hub = tempfile::tempdir().unwrap();
    let layout = LayoutRepository::new(hub.path()).unwrap();
    let tags = from.chain(4);
    let mut sizes = Vec::new();
    for tag in &tags {
        let report = from.push(tag, &layout).unwrap();
        let grown = bytes_below(hub.path());
        sizes.push((report.sent, report.size, grown));
    }
    assert_eq!(layout.tags(&NEVER).unwrap(), tags);
    // Each push sent what the folder grew by, its manifest apart.
    for (before, (sent, size, after)) in sizes.iter().zip(&sizes[1..]) {
        assert!(*sent < size / 2, "{sizes:?}");
        assert!((*sent..sent + 20_000).contains(&(after - before.2)), "{sizes:?}");
    }
    let again = from.push(&tags[3], &layout).unwrap();
    assert_eq!((again.sent, again.size), (0, sizes[3].1));
    // Without the notes all is made again, and comes out as it was.
    fs::remove_dir_all(from.cache.root()).unwrap();
    let again = from.push(&tags[3], &layout).unwrap();
    assert_eq!((again.sent, again.size), (0, sizes[3].1));

    let base = to.tag(&tags[0], &layout).unwrap();
    assert_eq!(
        base.verified.unwrap().id().digest(),
        Digest::of(&layout.manifest(&ManifestName::Tag(tags[0].clone()), &NEVER).unwrap())
    );
    let head = to.tag(&tags[3], &layout).unwrap();
    let delta: u64 = sizes[1..].iter().map(|(sent, ..)| sent).sum();
    assert!(head.downloaded <= delta + delta / 20, "{} of {delta}", head.downloaded);
    fresh.tag(&tags[3], &layout).unwrap();
    for tag in &tags {
        assert_eq!(to.files(tag), from.files(tag), "{tag}");
        assert_eq!(fresh.files(tag), from.files(tag), "{tag}");
    }
    assert_eq!(fresh.tag(&tags[3], &layout).unwrap().downloaded, 0);
}

#[test]
fn a_release_may_refer_to_a_snapshot_that_is_no_ancestor() {
    let (from, to) = (Host::new(), Host::new());
    let made =
        |tag: &str| Fixture { tag: tag.into(), seed: 7, memory: MEMORY, rootfs: Some(90_000), parent: None };
    let one = fixture(from.dir.path(), &made("one"));
    let two = fixture(from.dir.path(), &made("two"));
    from.need("one", &[("memory", 0, 100)]);
    from.need("two", &[("memory", 50, 100)]);
    // The other one is the same with a few pages moved.
    let bytes = fs::read(one.join("memory.bin")).unwrap();
    let moved = [&bytes[40 * 4096..], &bytes[..40 * 4096]].concat();
    fs::write(two.join("memory.bin"), moved).unwrap();
    let hubs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let layouts = [0, 1].map(|n: usize| LayoutRepository::new(hubs[n].path()).unwrap());
    let alone = from.push("two", &layouts[0]).unwrap();
    let base = from.push("one", &layouts[1]).unwrap();
    let on = from.push_on("two", &["one"], &layouts[1]).unwrap();
    assert!(on.sent < alone.sent / 4, "{} of {}", on.sent, alone.sent);
    assert!(on.size < alone.size + base.size);
    let report = to.tag("two", &layouts[1]).unwrap();
    assert_eq!(to.files("two"), from.files("two"));
    assert!(report.downloaded <= on.size, "{report:?}");
    assert_eq!(to.store.tags().unwrap().len(), 1);
    // Where the base is here, only the difference comes.
    let has_base = Host::new();
    has_base.tag("one", &layouts[1]).unwrap();
    let report = has_base.tag("two", &layouts[1]).unwrap();
    assert!(report.downloaded < on.sent + on.sent / 20 + 2000, "{} of {}", report.downloaded, on.sent);
    assert_eq!(has_base.files("two"), from.files("two"));
}

#[test]
fn two_links_may_have_the_same_root_disk() {
    let (from, to) = (Host::new(), Host::new());
    let tags = from.chain(3);
    for tag in &tags[1..] {
        let dir = from.store.dir(&tag.parse().unwrap());
        fs::copy(from.store.dir(&tags[0].parse().unwrap()).join("rootfs.ext4"), dir.join("rootfs.ext4"))
            .unwrap();
    }
    let hub = tempfile::tempdir().unwrap();
    let layout = LayoutRepository::new(hub.path()).unwrap();
    from.push(&tags[2], &layout).unwrap();
    to.tag(&tags[2], &layout).unwrap();
    for tag in &tags {
        assert_eq!(to.files(tag), from.files(tag), "{tag}");
    }
}

#[test]
fn what_was_pulled_is_pushed_elsewhere_and_built_upon() {
    let (from, to) = (Host::new(), Host::new());
    let tags = from.chain(2);
    let hubs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let layouts = [0, 1].map(|n: usize| LayoutRepository::new(hubs[n].path()).unwrap());
    let first = from.push(&tags[1], &layouts[0]).unwrap();
    to.tag(&tags[1], &layouts[0]).unwrap();
    let second = to.push(&tags[1], &layouts[1]).unwrap();
    assert_eq!((second.sent, second.size), (first.size, first.size));
    // And nothing is sent to where it came from.
    let again = to.push(&tags[1], &layouts[0]).unwrap();
    assert!(again.sent < 20_000, "{}", again.sent);
}

#[test]
fn pins_hold_and_missing_or_other_blobs_are_refused() {
    let (from, to) = (Host::new(), Host::new());
    let tags = from.chain(1);
    let hub = tempfile::tempdir().unwrap();
    let layout = LayoutRepository::new(hub.path()).unwrap();
    from.push(&tags[0], &layout).unwrap();
    let bytes = layout.manifest(&ManifestName::Tag(tags[0].clone()), &NEVER).unwrap();
    let missing = to.pull(ManifestName::Digest(Digest::of(b"other")), &layout).unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound, "{missing}");
    let missing = to.tag("nothing", &layout).unwrap_err();
    assert!(missing.to_string().contains("there are: link0"), "{missing}");
    let manifest = ReleaseManifest::parse(&bytes).unwrap();
    let blobs: BTreeSet<_> =
        manifest.blobs.iter().chain([&manifest.config, &manifest.index]).map(|blob| blob.digest).collect();
    let before = forkd_testing::tree(to.store.root());
    for digest in blobs {
        let path = hub.path().join("blobs/sha256").join(digest.to_string());
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(to.tag(&tags[0], &layout).unwrap_err().kind(), Kind::NotFound);
        let mut other = kept.clone();
        other[kept.len() / 2] ^= 1;
        fs::write(&path, &other).unwrap();
        let error = to.tag(&tags[0], &layout).unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity, "{error}");
        fs::write(&path, &kept[..kept.len() - 1]).unwrap();
        let error = to.tag(&tags[0], &layout).unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity, "{error}");
        fs::write(&path, &kept).unwrap();
    }
    to.store.gc(&Silent).unwrap();
    assert_eq!(forkd_testing::tree(to.store.root()), before);
    to.pull(ManifestName::Digest(Digest::of(&bytes)), &layout).unwrap();
    assert_eq!(to.files(&tags[0]), from.files(&tags[0]));
}
