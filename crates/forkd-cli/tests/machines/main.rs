//! Virtual machines that are baked, moved and forked for real (`FORKD_TEST_GUESTS`: a folder with the root disks that
//! `demo/build-rootfs` made, the image of `demo/build-image`, and a cache). Without it these tests count as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test")]

#[path = "../commands/common/mod.rs"]
mod common;

mod bake;
mod detached;
mod doctor;
mod fork;
mod from_image;
mod from_image_refused;
mod isolation;
mod lazy;
mod lazy_faults;
mod python;
mod snapshot;
mod snapshot_diff;
mod transcript;

use common::{Seen, User};
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

/// The guests' folder.
fn guests() -> PathBuf {
    PathBuf::from(std::env::var_os("FORKD_TEST_GUESTS").expect("set by ./test"))
}

fn main() -> ExitCode {
    let kernel = std::env::var_os("FORKD_TEST_GUESTS").is_some();
    let ready = kernel && guests().join("python-numpy/complete").exists();
    if kernel {
        let cache = guests().join("cache/forkd");
        if let Err(error) = forkd_engine::Kernel::find(&cache, &forkd_core::Silent) {
            println!("no kernel: {error}");
            return ExitCode::FAILURE;
        }
    }
    let trial = |(name, test): (&str, fn()), ready: bool| {
        Trial::test(name, move || std::panic::catch_unwind(test).map_err(|_| Failed::from("see above")))
            .with_ignored_flag(!ready)
    };
    let tests = [
        snapshot::TESTS,
        snapshot_diff::TESTS,
        fork::TESTS,
        detached::TESTS,
        doctor::TESTS,
        isolation::TESTS,
        lazy::TESTS,
        lazy_faults::TESTS,
        python::TESTS,
        transcript::TESTS,
    ];
    let guests = tests.concat().into_iter().map(|test| trial(test, ready));
    let with_images = kernel && from_image::ready();
    let root = rustix::process::geteuid().is_root();
    let images = [from_image::TESTS, from_image_refused::TESTS, bake::TESTS]
        .concat()
        .into_iter()
        .map(|test| trial(test, with_images));
    let as_root = from_image::AS_ROOT.iter().map(|test| trial(*test, with_images && root));
    let others = fork::AS_ROOT.iter().chain(lazy::AS_ROOT).map(|test| trial(*test, ready && root));
    let trials = as_root.chain(others).chain(images).chain(guests).collect();
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    from_image::end();
    conclusion.exit_code()
}

/// Bakes a guest; `more` are further arguments.
fn bake(user: &User, tag: &str, rootfs: &str, more: &[&str]) -> Seen {
    user.run(&[&["snapshot", "--tag", tag, "--rootfs", rootfs, "--mem-size-mib", "96"], more].concat())
}

fn busybox() -> String {
    guests().join("busybox/rootfs.ext4").display().to_string()
}

/// A user who has pulled the small guest, as `demo`: it is baked once, elsewhere.
fn user_with_demo() -> User {
    static PACK: OnceLock<(User, PathBuf)> = OnceLock::new();
    let (_, pack) = PACK.get_or_init(|| {
        let user = User::new();
        let seen = bake(&user, "demo", &busybox(), &["--warm", "echo warm > /run/warm"]);
        assert_eq!(seen.code, 0, "{}", seen.err);
        user.ok(&["pack", "--tag", "demo", "--out", "demo.pack"]);
        let pack = user.path("demo.pack");
        (user, pack)
    });
    let user = User::new();
    user.ok(&["unpack", pack.to_str().unwrap()]);
    user
}

/// QEMU processes of a user's machines.
fn processes(user: &User) -> usize {
    let output = Command::new("pgrep")
        .args(["-f", &format!("qemu-system.*{}", user.dir.path().display())])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().lines().count()
}

/// Nothing runs, nothing is left in the runtime folder or the temporary one.
#[track_caller]
fn nothing_is_left(user: &User) {
    assert_eq!(processes(user), 0);
    let left: Vec<_> =
        forkd_testing::tree(&user.tmp()).into_keys().filter(|path| path.components().count() > 1).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    assert_eq!(common::names(&user.tmp(), "forkd-initrd-"), 0);
}
