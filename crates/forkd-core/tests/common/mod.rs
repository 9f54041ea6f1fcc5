//! What the tests of the store share.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use forkd_core::{Cancel, Env, PackOptions, Result, Silent, Store, UnpackOptions, UnpackReport};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

static NEVER: LazyLock<Cancel> = LazyLock::new(Cancel::default);

pub fn env() -> Env<'static> {
    Env { progress: &Silent, cancel: &NEVER, jobs: 2 }
}

/// A store in a folder of its own.
pub struct Home {
    pub dir: tempfile::TempDir,
    pub store: Store,
}

impl Home {
    /// In memory where the machine has such a filesystem: syncs cost nothing there.
    pub fn new() -> Self {
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
        let store = Store::new(&dir.path().join("forkd"), "a test");
        Self { dir, store }
    }

    pub fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join("pack.tar.zst");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn unpack(&self, bytes: &[u8]) -> Result<UnpackReport> {
        forkd_core::unpack_file(&self.store, &self.file(bytes), &UnpackOptions::default(), env())
    }

    pub fn tree(&self) -> std::collections::BTreeMap<PathBuf, String> {
        let mut tree = forkd_testing::tree(self.dir.path());
        tree.remove(Path::new("pack.tar.zst"));
        tree
    }

    pub fn pack(&self, tag: &str, name: &str) -> Vec<u8> {
        let out = self.dir.path().join(name);
        forkd_core::pack(&self.store, &options(tag), &out, env()).unwrap();
        let bytes = std::fs::read(&out).unwrap();
        std::fs::remove_file(out).unwrap();
        bytes
    }
}

pub fn options(tag: &str) -> PackOptions {
    PackOptions {
        tag: tag.parse().unwrap(),
        description: None,
        base_image: None,
        level: 1,
        depth: PackOptions::DEPTH,
        created_at: "2026-01-02T03:04:05Z".into(),
        format: None,
        bases: Vec::new(),
        kernel: None,
    }
}
