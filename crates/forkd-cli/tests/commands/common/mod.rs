//! Runs the command as a user would and shows what the user sees.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub mod shop;

use forkd_testing::{Fixture, fixture};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A user with a home, a store and a working folder of their own.
pub struct User {
    pub dir: tempfile::TempDir,
}

/// What a command printed and how it ended.
pub struct Seen {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl User {
    pub fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    /// In memory where the machine has such a filesystem: syncs cost nothing there.
    pub fn in_memory() -> Self {
        let shm = Path::new("/dev/shm");
        Self::at(if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap())
    }

    fn at(dir: tempfile::TempDir) -> Self {
        let user = Self { dir };
        std::fs::create_dir(user.store()).unwrap();
        std::fs::create_dir(user.tmp()).unwrap();
        user
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn snapshot(&self, tag: &str, name: &str) -> PathBuf {
        self.path("data/forkd/snapshots").join(tag).join(name)
    }

    /// Whether there is nothing in the data folder, not even empty folders.
    pub fn is_untouched(&self) -> bool {
        forkd_testing::tree(&self.store()).is_empty()
    }

    pub fn store(&self) -> PathBuf {
        self.path("data")
    }

    /// A snapshot as another tool would have left it.
    pub fn with(&self, tag: &str, seed: u64) -> &Self {
        fixture(
            &self.store(),
            &Fixture { tag: tag.into(), seed, memory: 1 << 20, rootfs: Some(100_000), parent: None },
        );
        self
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forkd"));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.dir.path()).env("XDG_DATA_HOME", self.store()).env("TMPDIR", self.tmp());
        // What is fetched or found out once serves all tests but those with a cache of their own.
        if let Some(guests) = std::env::var_os("FORKD_TEST_GUESTS") {
            let own = self.path("cache");
            let cache = if own.exists() { own } else { Path::new(&guests).join("cache") };
            command.env("XDG_CACHE_HOME", cache);
        }
        command.env("FORKD_BACKOFF_MS", "5").env("FORKD_STALL_TIMEOUT_MS", "700");
        command
    }

    pub fn tmp(&self) -> PathBuf {
        self.path("tmp")
    }

    pub fn run(&self, args: &[&str]) -> Seen {
        self.seen(&self.command(args).output().unwrap())
    }

    pub fn seen(&self, output: &Output) -> Seen {
        let text = |bytes: &[u8]| self.plain(&String::from_utf8_lossy(bytes));
        // Made-up snapshots cannot be forked; what their users are told is looked at in one place.
        let told = text(&output.stderr);
        let about_forks = |line: &&str| line.contains("' cannot be forked here: ");
        let err = told.split_inclusive('\n').filter(|line| !about_forks(line)).collect();
        Seen { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err }
    }

    /// Without what differs from run to run: numbers become `#`, the user's folder `~`.
    pub fn plain(&self, text: &str) -> String {
        let text = text.replace(&self.dir.path().display().to_string(), "~");
        let mut out = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if !c.is_ascii_digit() {
                out.push(c);
                continue;
            }
            while chars.next_if(|c| c.is_ascii_digit() || *c == '.').is_some() {}
            out.push('#');
        }
        out
    }

    /// Runs, expects success and nothing on standard error; gives standard output.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let seen = self.run(args);
        assert_eq!((seen.code, seen.err.as_str()), (0, ""), "{args:?}\n{}", seen.out);
        seen.out
    }

    /// Runs, expects success, whatever is noted on standard error; gives both.
    #[track_caller]
    pub fn ok_noted(&self, args: &[&str]) -> (String, String) {
        let seen = self.run(args);
        assert_eq!(seen.code, 0, "{args:?}\n{}\n{}", seen.out, seen.err);
        (seen.out, seen.err)
    }

    /// The names of the children that run detached.
    #[track_caller]
    pub fn ids(&self) -> Vec<String> {
        let output = self.command(&["ls", "--ids"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// Runs, expects this exit code; gives standard error.
    #[track_caller]
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let seen = self.run(args);
        assert_eq!(seen.code, code, "{args:?}\n{}\n{}", seen.out, seen.err);
        seen.err
    }

    /// Runs with `--format json`; gives the document.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.command(&[&["--format", "json"], args].concat()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// A chain of three in a user's store: `base`, `mid`, `top`.
pub fn three_links(user: &User) {
    let mut parent: Option<(String, String)> = None;
    for (seed, tag) in ["base", "mid", "top"].into_iter().enumerate() {
        let memory = 1 << 20;
        let fixture =
            Fixture { tag: tag.into(), seed: seed as u64 + 1, memory, rootfs: None, parent: parent.take() };
        let dir = forkd_testing::fixture(&user.store(), &fixture);
        parent = Some((tag.into(), forkd_testing::sha256(&dir.join("memory.bin"))));
    }
}

/// What a command printed before its last line, which is a digest and a size.
#[track_caller]
pub fn before_digest(out: &str) -> &str {
    let last = out.trim_end().rfind('\n').map_or(0, |at| at + 1);
    assert!(out[last..].contains("sha#") && out.ends_with(", # bytes\n"), "{out}");
    &out[..last]
}

/// Files in a folder whose name begins so.
pub fn names(dir: &Path, prefix: &str) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).count()
}
