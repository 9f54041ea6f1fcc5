//! Random stacks of layers, compared with what an overlay would show.
#![allow(clippy::unwrap_used, reason = "a test")]

use forkd_core::{Cancel, Env, Silent};
use forkd_format::Digest;
use forkd_image::{DiskOptions, LayerSource, build_disk};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use tar::{Builder, EntryType, Header};

fn add(tar: &mut Builder<Vec<u8>>, path: &str, kind: EntryType, mode: u32, link: &str, bytes: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_path(path).unwrap();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(bytes.len() as u64);
    if !link.is_empty() {
        header.set_link_name_literal(link).unwrap();
    }
    header.set_cksum();
    tar.append(&header, bytes).unwrap();
}

fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    (0..len)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as u8 | 1
        })
        .collect()
}

/// What a layer or an image holds under a path: a file's content, or a folder's permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Thing {
    File(Vec<u8>),
    Link(String),
    Dir(u32),
}

type Tree = BTreeMap<String, Thing>;

fn is_under(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// One layer: its own things, what it hides, and in what order the tar has that.
#[derive(Debug, Clone)]
struct Change {
    things: Tree,
    hidden: Vec<String>,
    opaque: Vec<String>,
    seed: u64,
}

impl Change {
    fn layer(&self) -> LayerSource {
        let mut tar = Builder::new(Vec::new());
        let mut rest: Vec<(u64, String, Option<&Thing>)> = Vec::new();
        let key = |path: &str| {
            (self.seed ^ path.len() as u64).wrapping_mul(path.bytes().map(u64::from).sum::<u64>() * 2 + 1)
        };
        for (path, thing) in &self.things {
            match thing {
                Thing::Dir(mode) => add(&mut tar, path, EntryType::Directory, *mode, "", b""),
                other => rest.push((key(path), path.clone(), Some(other))),
            }
        }
        let whiteouts = self.hidden.iter().map(|path| {
            let (dir, name) = path
                .rsplit_once('/')
                .map_or((String::new(), path.as_str()), |(dir, name)| (format!("{dir}/"), name));
            format!("{dir}.wh.{name}")
        });
        let opaque = self.opaque.iter().map(|dir| format!("{dir}/.wh..wh..opq"));
        rest.extend(whiteouts.chain(opaque).map(|path| (key(&path), path, None)));
        rest.sort_by_key(|(key, ..)| *key);
        for (_, path, thing) in rest {
            match thing {
                Some(Thing::File(bytes)) => add(&mut tar, &path, EntryType::Regular, 0o644, "", bytes),
                Some(Thing::Link(to)) => add(&mut tar, &path, EntryType::Symlink, 0o777, to, b""),
                _ => add(&mut tar, &path, EntryType::Regular, 0o644, "", b""),
            }
        }
        let bytes = tar.into_inner().unwrap();
        let diff_id = Some(Digest::of(&bytes));
        let open =
            move || -> forkd_core::Result<Box<dyn Read + Send>> { Ok(Box::new(Cursor::new(bytes.clone()))) };
        LayerSource { open: Box::new(open), diff_id, name: "x".into() }
    }

    /// As an overlay would show it.
    fn over(&self, lower: &mut Tree) {
        lower.retain(|path, _| {
            !self.opaque.iter().any(|dir| is_under(path, dir))
                && !self.hidden.iter().any(|gone| path == gone || is_under(path, gone))
                && !self
                    .things
                    .iter()
                    .any(|(upper, thing)| is_under(path, upper) && !matches!(thing, Thing::Dir(_)))
        });
        lower.extend(self.things.iter().map(|(path, thing)| (path.clone(), thing.clone())));
    }
}

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        (0..9000usize, any::<u64>()).prop_map(|(len, seed)| Thing::File(noise(len, seed))),
        "[xy/]{1,80}".prop_map(Thing::Link),
        (0..8u32).prop_map(|mode| Thing::Dir(0o700 | mode)),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let path = || "[abc](/[abc]){0,3}";
    let things = proptest::collection::btree_map(path(), thing(), 0..8);
    (things, proptest::collection::vec(path(), 0..3), proptest::collection::vec(path(), 0..2), any::<u64>())
        .prop_map(|(wanted, hidden, opaque, seed)| {
            let mut things = Tree::new();
            for (path, thing) in
                wanted.into_iter().chain(opaque.iter().map(|path| (path.clone(), Thing::Dir(0o711))))
            {
                let above: Vec<String> =
                    path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect();
                let fits =
                    above.iter().all(|dir| !matches!(things.get(dir), Some(Thing::File(_) | Thing::Link(_))));
                if fits && !things.contains_key(&path) {
                    above.into_iter().for_each(|dir| _ = things.entry(dir).or_insert(Thing::Dir(0o755)));
                    things.insert(path, thing);
                }
            }
            let is_dir = |path: &str| matches!(things.get(path), Some(Thing::Dir(_)));
            let hidden = hidden
                .into_iter()
                .filter(|path| path.rsplit_once('/').is_none_or(|(dir, _)| is_dir(dir)))
                .collect();
            let opaque = opaque.into_iter().filter(|path| is_dir(path)).collect();
            Change { things, hidden, opaque, seed }
        })
}

fn read_back(root: &Path, at: &Path, into: &mut Tree) {
    for entry in std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap()) {
        let path = entry.path();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let found = path.symlink_metadata().unwrap();
        if name == "lost+found" {
            continue;
        } else if found.is_dir() {
            into.insert(name, Thing::Dir(found.permissions().mode() & 0o7777));
            read_back(root, &path, into);
        } else if found.is_symlink() {
            into.insert(name, Thing::Link(path.read_link().unwrap().to_str().unwrap().to_owned()));
        } else {
            into.insert(name, Thing::File(std::fs::read(&path).unwrap()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn stacks_of_layers_are_what_an_overlay_shows(changes in proptest::collection::vec(change(), 1..5)) {
        let layers: Vec<_> = changes.iter().map(Change::layer).collect();
        let mut expected = Tree::new();
        changes.iter().for_each(|change| change.over(&mut expected));
        let dir = tempfile::tempdir().unwrap();
        let (disk, root) = (dir.path().join("disk"), dir.path().join("tree"));
        let file = std::fs::File::options().read(true).write(true).create_new(true).open(&disk).unwrap();
        let options = DiskOptions { size: Some(64 << 20), ..DiskOptions::default() };
        build_disk(&layers, &file, &options, Env { progress: &Silent, cancel: &Cancel::default(), jobs: 2 }).unwrap();
        let checked = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&disk).output().unwrap();
        prop_assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
        std::fs::create_dir(&root).unwrap();
        let request = format!("rdump / {}", root.display());
        Command::new("/usr/sbin/debugfs").args(["-R", &request]).arg(&disk).output().unwrap();
        let mut found = Tree::new();
        read_back(&root, &root, &mut found);
        prop_assert_eq!(found, expected);
    }
}
