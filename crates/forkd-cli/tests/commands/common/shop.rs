//! A publisher with packs of all formats in a hub's folder, and what its server sent of them.

use super::User;
use forkd_format::Manifest;
use forkd_testing::{TestHub, pseudo_random, sha256};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A publisher, and the server of its `hub` folder.
pub struct Shop {
    pub user: User,
    pub hub: TestHub,
}

impl Shop {
    pub fn new() -> Self {
        let user = User::new();
        std::fs::create_dir(user.path("hub")).unwrap();
        let hub = TestHub::start(&user.path("hub"));
        Self { user, hub }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.user.path("hub").join(name)
    }

    pub fn size(&self, name: &str) -> u64 {
        self.file(name).metadata().unwrap().len()
    }

    /// Packs a snapshot of the publisher's into the hub's folder.
    pub fn pack(&self, tag: &str, name: &str, args: &[&str]) -> &Self {
        let out = format!("hub/{name}");
        self.user.ok(&[&["pack", "--tag", tag, "--out", &out], args].concat());
        self
    }

    /// Bytes before the first frame with content: the manifest and the index have one each.
    pub fn head(&self, name: &str) -> u64 {
        frames(&self.file(name))[2].0 as u64
    }

    /// What a registry says of a version whose first pack this is.
    pub fn version(&self, name: &str, artifacts: &[Value]) -> Value {
        let sha256 = sha256(&self.file(name));
        json!({ "url": name, "sha256": sha256, "size_bytes": self.size(name), "artifacts": artifacts })
    }

    /// What a registry says of a pack of version 3.
    pub fn artifact(&self, name: &str) -> Value {
        let text = manifest_of(&self.file(name));
        let manifest = Manifest::parse(&text).unwrap();
        json!({
            "format": 3,
            "url": name,
            "manifest_sha256": forkd_testing::digest(&text),
            "size_bytes": self.size(name),
            "head_bytes": self.head(name),
            "bases": manifest.bases,
        })
    }

    /// Writes the registry: versions of `acme/py`, of which the last is the latest.
    pub fn list(&self, versions: &[(&str, Value)]) -> String {
        let mut all = serde_json::Map::new();
        for (name, version) in versions {
            all.insert((*name).to_owned(), version.clone());
            all.insert("latest".to_owned(), version.clone());
        }
        let registry = json!({ "schema_version": 1, "packages": { "acme/py": { "versions": all } } });
        std::fs::write(self.file("registry.json"), registry.to_string()).unwrap();
        self.hub.url("registry.json")
    }

    /// A URL of a pack of version 3 with the digest that names it.
    pub fn pinned(&self, prefix: &str, name: &str) -> String {
        let digest = match Manifest::parse(&manifest_of(&self.file(name))).unwrap().version {
            3 => forkd_testing::digest(&manifest_of(&self.file(name))),
            _ => sha256(&self.file(name)),
        };
        format!("{}#sha256={digest}", self.hub.url(&format!("{prefix}{name}")))
    }

    /// Bytes of bodies that the server sent, of requests from one on, for paths that end so.
    pub fn sent(&self, from: usize, end: &str) -> u64 {
        let requests = self.hub.requests();
        requests[from..]
            .iter()
            .filter(|asked| asked.uri.ends_with(end))
            .map(forkd_testing::LoggedRequest::bytes)
            .sum()
    }

    /// Whether a user has the bytes of one of the publisher's snapshots.
    #[track_caller]
    pub fn check(&self, user: &User, tag: &str) {
        self.check_as(user, tag, tag);
    }

    #[track_caller]
    pub fn check_as(&self, user: &User, tag: &str, local: &str) {
        for name in ["memory.bin", "vmstate"] {
            let (ours, theirs) = (self.user.snapshot(tag, name), user.snapshot(local, name));
            assert!(sha256(&ours) == sha256(&theirs), "{local}/{name} differs");
        }
        let disk = |user: &User, tag: &str| user.snapshot(tag, "rootfs.ext4").exists();
        assert_eq!(disk(&self.user, tag), disk(user, local), "{local}: a root disk");
    }
}

/// The manifest of a pack, as another tool would take it out.
pub fn manifest_of(pack: &Path) -> Vec<u8> {
    let decoder = zstd::stream::read::Decoder::new(File::open(pack).unwrap()).unwrap();
    let mut archive = tar::Archive::new(decoder);
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.path().unwrap().to_str(), Some("manifest.toml"));
    let mut text = Vec::new();
    entry.read_to_end(&mut text).unwrap();
    text
}

/// The places of a pack's zstd frames.
pub fn frames(pack: &Path) -> Vec<(usize, usize)> {
    let bytes = std::fs::read(pack).unwrap();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let len = zstd::zstd_safe::find_frame_compressed_size(&bytes[at..]).unwrap();
        found.push((at, len));
        at += len;
    }
    found
}

/// The longest of a pack's frames, in bytes.
pub fn longest_frame(pack: &Path) -> u64 {
    frames(pack).iter().map(|(_, len)| *len as u64).max().unwrap()
}

/// A snapshot whose memory is MiBs of noise, each made from its own seed; 0 for one of zeros.
pub fn noise(user: &User, tag: &str, mib: &[u64]) {
    let dir = user.snapshot(tag, "");
    std::fs::create_dir_all(&dir).unwrap();
    let file = File::create(dir.join("memory.bin")).unwrap();
    file.set_len((mib.len() as u64) << 20).unwrap();
    for (n, seed) in mib.iter().enumerate().filter(|(_, seed)| **seed != 0) {
        let mut random = pseudo_random(*seed);
        let bytes: Vec<u8> = (0..(1 << 20) / 8).flat_map(|_| random().to_le_bytes()).collect();
        // Not every page: the others are what stale bytes would show in.
        for page in (0..256).filter(|page| page % 8 != 7) {
            file.write_all_at(&bytes[page * 4096..][..4096], ((n << 20) + page * 4096) as u64).unwrap();
        }
    }
    std::fs::write(dir.join("vmstate"), tag.repeat(1000)).unwrap();
    let at = dir.display();
    let json = format!(r#"{{"vmstate":"{at}vmstate","memory":"{at}memory.bin","volumes":[]}}"#);
    std::fs::write(dir.join("snapshot.json"), json).unwrap();
}

/// Starts a command with nothing on the terminal.
pub fn spawn(user: &User, args: &[&str]) -> Child {
    user.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until something is so, or the child has ended.
pub fn until(child: &mut Child, ready: impl Fn() -> bool) {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() && !ready() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never came so far");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills at once (SIGKILL) and waits for the end.
pub fn kill(mut child: Child) {
    let _ = child.kill();
    child.wait().unwrap();
}
