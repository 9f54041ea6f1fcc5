//! Hubs of all kinds, with real servers: Debian's docker-registry without and with tokens, SeaweedFS, skopeo, PyPI's oras. Where one of them
//! is missing its tests count as ignored, unless `FORKD_TEST_GUESTS` says that `./test` has installed all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test")]

#[path = "../commands/common/mod.rs"]
mod common;

mod bucket;
mod concurrent;
mod cuts;
mod folder;
mod login;
mod publish;
mod registry;

use common::User;
use forkd_testing::{DockerRegistry, SeaweedFs, frozen_chain};
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let all = std::env::var_os("FORKD_TEST_GUESTS").is_some();
    let skopeo = Command::new("skopeo").arg("--version").output().is_ok_and(|output| output.status.success());
    let with_registry = all || (DockerRegistry::is_there() && skopeo);
    let with_bucket = all || SeaweedFs::is_there();
    let trial = |(name, test): &(&'static str, fn()), ready: bool| {
        let test = *test;
        Trial::test(*name, move || std::panic::catch_unwind(test).map_err(|_| Failed::from("see above")))
            .with_ignored_flag(!ready)
    };
    let mut trials: Vec<Trial> = folder::TESTS.iter().map(|test| trial(test, true)).collect();
    for tests in [registry::TESTS, login::TESTS, cuts::TESTS] {
        trials.extend(tests.iter().map(|test| trial(test, with_registry)));
    }
    trials.extend(bucket::TESTS.iter().map(|test| trial(test, with_bucket)));
    trials.extend(
        concurrent::TESTS.iter().chain(publish::TESTS).map(|test| trial(test, with_bucket && with_registry)),
    );
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A user whose cache is their own, with a chain of made-up snapshots.
fn publisher(depth: usize, memory: u64) -> (User, Vec<String>) {
    let user = User::new();
    std::fs::create_dir_all(user.path("cache")).unwrap();
    let (tags, _) = frozen_chain(&user.store(), "link", depth, memory);
    (user, tags)
}

/// Another user, who has nothing.
fn other() -> User {
    let user = User::new();
    std::fs::create_dir_all(user.path("cache")).unwrap();
    user
}

/// What a user's snapshot holds, but for its description and its record, which name places.
fn content(user: &User, tag: &str) -> Vec<String> {
    ["vmstate", "memory.bin", "rootfs.ext4"]
        .map(|name| forkd_testing::sha256(&user.snapshot(tag, name)))
        .to_vec()
}
