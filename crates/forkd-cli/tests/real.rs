//! The packs that an existing 0.5.3 host wrote (`FORKD_FIXTURES`) and a virtual machine that is baked and forked for real
//! (`FORKD_TEST_GUEST`: a folder that `demo/build-guest` made). Where a part is missing its tests count as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::User;
use forkd_testing::{fixtures_dir, sha256};
use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let fixtures = fixtures_dir();
    let guest =
        std::env::var_os("FORKD_TEST_GUEST").map(PathBuf::from).filter(|dir| dir.join("complete").exists());
    let trial = |name: &str, part: &Option<PathBuf>, test: fn(&Path)| {
        let dir = part.clone();
        Trial::test(name, move || {
            test(&dir.ok_or_else(|| Failed::from("its part is missing"))?);
            Ok(())
        })
        .with_ignored_flag(part.is_none())
    };
    let trials = vec![
        trial("fixture_packs_unpack_to_their_digests", &fixtures, fixture_packs_unpack_to_their_digests),
        trial(
            "fixture_packs_packed_again_hold_the_same",
            &fixtures,
            fixture_packs_packed_again_hold_the_same,
        ),
        trial(
            "a_fixture_without_engine_record_is_not_forked",
            &fixtures,
            a_fixture_without_engine_record_is_not_forked,
        ),
        trial("a_machine_travels_and_answers", &guest, a_machine_travels_and_answers),
        trial("a_machine_that_never_answers_is_refused", &guest, a_machine_that_never_answers_is_refused),
        trial("an_altered_machine_is_not_forked", &guest, an_altered_machine_is_not_forked),
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

fn bake(user: &User, guest: &Path, rootfs: &Path, more: &[&str]) -> common::Seen {
    let file = |name: &str| guest.join(name).display().to_string();
    let (kernel, initrd, rootfs) = (file("vmlinuz"), file("initrd.img"), rootfs.display().to_string());
    let args = [
        "snapshot",
        "--tag",
        "demo",
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--rootfs",
        &rootfs,
        "--mem-size-mib",
        "96",
    ];
    user.run(&[&args[..], more].concat())
}

fn processes(user: &User) -> usize {
    let output = Command::new("pgrep")
        .args(["-f", &format!("qemu-system.*{}", user.dir.path().display())])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().lines().count()
}

fn a_machine_travels_and_answers(guest: &Path) {
    let (a, b) = (User::new(), User::new());
    let seen = bake(&a, guest, &guest.join("rootfs.ext4"), &[]);
    assert_eq!((seen.code, seen.err.as_str()), (0, ""), "{}", seen.out);
    assert_eq!(
        seen.out,
        "==> baking snapshot 'demo' (# MiB of memory)\n✓ snapshot 'demo' at ~/data/forkd/snapshots/demo/ in #s\n  \
         next: forkd fork --tag demo -n <N>\n"
    );
    a.ok(&["verify", "demo"]);
    assert!(bake(&a, guest, &guest.join("rootfs.ext4"), &[]).err.contains("'demo' is already at"));
    a.ok(&["pack", "--tag", "demo", "--out", "p"]);
    let pack = b.path("p");
    std::fs::rename(a.path("p"), &pack).unwrap();
    drop(a);
    b.ok(&["unpack", "p"]);
    let before = forkd_testing::tree(&b.snapshot("demo", ""));
    let report = b.json(&["fork", "--tag", "demo", "-n", "4"]);
    let answers: Vec<&str> =
        report["children"].as_array().unwrap().iter().map(|c| c["answer"].as_str().unwrap()).collect();
    assert_eq!(answers.len(), 4);
    let boot = answers[0].split(',').next().unwrap();
    assert!(
        boot.starts_with("boot ") && answers.iter().all(|answer| answer.starts_with(boot)),
        "{answers:?}"
    );
    let text = b.ok(&["fork", "--tag", "demo"]);
    assert!(
        text.starts_with("child # answered in #s: boot ")
            && text.ends_with("✓ # child of 'demo' answered in #s\n"),
        "{text}"
    );
    assert_eq!(forkd_testing::tree(&b.snapshot("demo", "")), before, "no fork changes the snapshot");
    b.ok(&["verify", "demo"]);
    assert_eq!((processes(&b), common::names(&b.tmp(), "forkd-run-")), (0, 0));
    // A fork that is killed takes its children with it.
    let mut fork =
        b.command(&["fork", "--tag", "demo", "-n", "3"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    while processes(&b) < 3 {
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(fork.try_wait().unwrap().is_none(), "it ended before it could be killed");
    }
    fork.kill().unwrap();
    fork.wait().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(processes(&b), 0);
    // The next run clears away what the killed one could not, once it is clear that nobody has just begun to use it.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    b.ok(&["fork", "--tag", "demo"]);
    assert_eq!(common::names(&b.tmp(), "forkd-run-"), 0);
}

fn a_machine_that_never_answers_is_refused(guest: &Path) {
    let user = User::new();
    let empty = user.path("empty.ext4");
    std::fs::write(&empty, vec![0; 1 << 20]).unwrap();
    let seen = bake(&user, guest, &empty, &["--boot-wait-secs", "60"]);
    assert_eq!(seen.code, 1, "{}", seen.err);
    assert!(seen.err.contains("console ends with"), "{}", seen.err);
    assert!(user.is_untouched(), "nothing is left: {:?}", forkd_testing::tree(&user.store()));
    assert_eq!(bake(&user, guest, &user.path("none"), &[]).code, 3);
    assert_eq!((processes(&user), common::names(&user.tmp(), "forkd-run-")), (0, 0));
}

fn an_altered_machine_is_not_forked(guest: &Path) {
    let user = User::new();
    assert_eq!(bake(&user, guest, &guest.join("rootfs.ext4"), &[]).code, 0);
    for name in ["memory.bin", "vmstate", "rootfs.ext4"] {
        let path = user.snapshot("demo", name);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bad).unwrap();
        assert!(user.fails(6, &["fork", "--tag", "demo"]).contains("altered since it was stored"), "{name}");
        std::fs::write(&path, good).unwrap();
    }
    std::fs::File::options()
        .write(true)
        .open(user.snapshot("demo", "memory.bin"))
        .unwrap()
        .set_len(4096)
        .unwrap();
    assert_eq!(user.run(&["fork", "--tag", "demo"]).code, 8);
    assert_eq!(processes(&user), 0);
}
