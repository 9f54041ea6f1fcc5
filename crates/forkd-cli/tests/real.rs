//! The packs that an existing 0.5.3 host wrote (`FORKD_FIXTURES`). Without them these tests count as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

#[path = "commands/common/mod.rs"]
mod common;

use common::User;
use forkd_testing::{fixtures_dir, sha256};
use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let fixtures = fixtures_dir();
    let trial = |name: &str, test: fn(&Path)| {
        let dir = fixtures.clone();
        Trial::test(name, move || {
            test(&dir.ok_or_else(|| Failed::from("its part is missing"))?);
            Ok(())
        })
        .with_ignored_flag(fixtures.is_none())
    };
    let trials = vec![
        trial("fixture_packs_unpack_to_their_digests", fixture_packs_unpack_to_their_digests),
        trial("fixture_packs_packed_again_hold_the_same", fixture_packs_packed_again_hold_the_same),
        trial("a_fixture_without_engine_record_is_not_forked", a_fixture_without_engine_record_is_not_forked),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn contents(fixtures: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(fixtures.join("forkd-0.5.3/CONTENTS.sha256")).unwrap();
    text.lines()
        .map(|line| line.split_once("  ").unwrap())
        .map(|(digest, path)| (path.into(), digest.into()))
        .collect()
}

fn unpack_all(user: &User, fixtures: &Path) {
    for name in ["mini-chain", "mini-base", "mini-side"] {
        user.ok(&[
            "unpack",
            fixtures.join(format!("forkd-0.5.3/{name}.forkd-snapshot.tar.zst")).to_str().unwrap(),
        ]);
    }
}

/// Every body in the store has the digest that the fixtures list. (snapshot.json has other paths.)
fn check_contents(user: &User, fixtures: &Path) {
    for (path, digest) in contents(fixtures).iter().filter(|(path, _)| !path.ends_with("snapshot.json")) {
        let (tag, name) = path.split_once('/').unwrap_or((path, ""));
        if !name.is_empty() {
            assert_eq!(&sha256(&user.snapshot(tag, name)), digest, "{path}");
        }
    }
    let rootfs = &contents(fixtures)["mini-base/rootfs.ext4"];
    assert_eq!(&sha256(&user.snapshot("mini-side", "rootfs.ext4")), rootfs, "the sidecar");
}

fn fixture_packs_unpack_to_their_digests(fixtures: &Path) {
    let user = User::new();
    unpack_all(&user, fixtures);
    check_contents(&user, fixtures);
    for tag in ["mini-two", "mini-side"] {
        user.ok(&["verify", tag]);
    }
}

fn fixture_packs_packed_again_hold_the_same(fixtures: &Path) {
    let user = User::new();
    unpack_all(&user, fixtures);
    for (tag, prefix) in [("mini-two", ""), ("mini-base", "mini-base/")] {
        user.ok(&["pack", "--tag", tag, "--out", "p"]);
        let script = "rm -rf x && mkdir x && zstd -qdc p | tar x -C x && cd x && find . -type f | sed 's,^./,,' | sort | xargs sha256sum";
        let output = Command::new("sh").args(["-c", script]).current_dir(user.dir.path()).output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let mut members = 0;
        for (digest, path) in text.lines().map(|line| line.split_once("  ").unwrap()) {
            if path.ends_with("snapshot.json") || path == "manifest.toml" {
                continue;
            }
            assert_eq!(digest, contents(fixtures)[&format!("{prefix}{path}")], "{path}");
            members += 1;
        }
        assert_eq!(members, if prefix.is_empty() { 7 } else { 3 });
    }
    // And back into an empty store.
    let other = User::new();
    for tag in ["mini-two", "mini-side"] {
        user.ok(&["pack", "--tag", tag, "--out", "p"]);
        other.ok(&["unpack", user.path("p").to_str().unwrap()]);
    }
    check_contents(&other, fixtures);
}

fn a_fixture_without_engine_record_is_not_forked(fixtures: &Path) {
    let user = User::new();
    unpack_all(&user, fixtures);
    if Command::new("qemu-system-x86_64").arg("--version").output().is_ok() {
        assert!(user.fails(8, &["fork", "--tag", "mini-base"]).contains("has no 'engine'"));
    }
    assert!(user.fails(8, &["fork", "--tag", "mini-one"]).contains("forkd: "));
}
