//! Many at once, and ends at any moment (test catalogue, items 8 and 12).

use crate::common::User;
use crate::common::shop::{Shop, kill, noise, spawn, until};
use forkd_testing::pseudo_random;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A publisher of `base`, and of `py` which is like it.
fn shop() -> Shop {
    let shop = Shop::new();
    noise(&shop.user, "base", &[1, 2, 0]);
    noise(&shop.user, "py", &[1, 2, 0, 3]);
    noise(&shop.user, "other", &[7, 8]);
    shop.pack("base", "base.zst", &["--format", "3"]).pack("other", "other.zst", &["--format", "3"]);
    shop.pack("py", "one.zst", &[]).pack("py", "full.zst", &["--format", "3"]);
    shop.pack("py", "delta.zst", &["--format", "3", "--base", "base"]);
    let artifacts = [shop.artifact("full.zst"), shop.artifact("delta.zst")];
    shop.list(&[("v1", shop.version("one.zst", &artifacts))]);
    shop
}

fn heard(user: &User, args: &[&str]) -> Child {
    user.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Nothing of interrupted runs is left after gc.
fn nothing_left(user: &User) {
    user.run(&["gc"]);
    for name in ["partial", "staging", "locks"] {
        let path = user.path("data/forkd").join(name);
        assert!(!path.exists(), "{name}: {:?}", forkd_testing::tree(&path));
    }
}

#[test]
fn fifty_at_once_download_once() {
    let shop = shop();
    let registry = shop.hub.url("registry.json");
    let user = User::in_memory();
    let children: Vec<_> = (0..50).map(|_| heard(&user, &["pull", "acme/py", "--hub", &registry])).collect();
    for child in children {
        let seen = user.seen(&child.wait_with_output().unwrap());
        assert_eq!(seen.code, 0, "{}", seen.err);
    }
    shop.check(&user, "py");
    user.ok(&["verify", "py"]);
    let sent = shop.sent(0, ".zst");
    assert!(sent <= shop.size("full.zst") + shop.head("full.zst"), "{sent}");
    nothing_left(&user);
}

#[test]
fn pulls_against_gc_and_rmi() {
    const ROUNDS: usize = 15;
    let shop = shop();
    let registry = shop.hub.url("registry.json");
    let user = User::in_memory();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let background = |args: Vec<Vec<String>>| {
            let (user, done) = (&user, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    for args in &args {
                        let seen = user.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
                        // A tag that is not there at the moment is no failure.
                        assert!(matches!(seen.code, 0 | 3), "{args:?}: {} {}", seen.code, seen.err);
                    }
                }
            });
        };
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        background(vec![words("gc")]);
        background(vec![
            words(&format!("pull {}", shop.pinned("", "base.zst"))),
            words("rmi base"),
            words(&format!("pull {}", shop.pinned("", "other.zst"))),
            words("rmi other"),
        ]);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..ROUNDS {
                let seen = user.run(&["pull", "acme/py", "--hub", &registry]);
                assert_eq!(seen.code, 0, "{round}: {}", seen.err);
                shop.check(&user, "py");
                user.ok(&["verify", "py"]);
                user.ok(&["rmi", "py"]);
            }
        }));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    nothing_left(&user);
}

#[test]
fn gc_leaves_a_running_pull_alone() {
    let shop = shop();
    for name in ["full.zst", "one.zst"] {
        let user = User::new();
        let (size, from) = (shop.size(name), shop.hub.requests().len());
        let mut child = heard(&user, &["pull", &shop.pinned(&format!("slow/{size}/"), name)]);
        for percent in [20, 40, 60, 80] {
            until(&mut child, || shop.sent(from, name) >= size * percent / 100);
            user.ok_noted(&["gc"]);
        }
        let seen = user.seen(&child.wait_with_output().unwrap());
        assert_eq!((seen.code, seen.err.as_str()), (0, ""));
        assert!(shop.sent(from, name) <= size + (64 << 10));
        shop.check(&user, "py");
    }
}

#[test]
fn killed_at_a_hundred_moments() {
    let shop = shop();
    let registry = shop.hub.url("registry.json");
    // Two packs of one tag, so that a forced pull or unpack has an old and a new.
    let old = shop.user.path("old.zst");
    let user = User::in_memory();
    noise(&user, "py", &[9, 9]);
    user.ok(&["pack", "--tag", "py", "--out", old.to_str().unwrap(), "--format", "3"]);
    let bytes = |user: &User| forkd_testing::sha256(&user.snapshot("py", "memory.bin"));
    let allowed = [bytes(&user), bytes(&shop.user)];
    let full = shop.file("full.zst").display().to_string();
    let (old, pinned) = (old.display().to_string(), shop.pinned("", "full.zst"));
    let operations: [&[&str]; 7] = [
        &["pull", "acme/py", "--hub", &registry, "--force"],
        &["unpack", &old, "--force"],
        &["pull", &pinned, "--force"],
        &["pack", "--tag", "py", "--out", "out.zst", "--format", "3"],
        &["unpack", &full, "--force"],
        &["rmi", "py"],
        &["gc"],
    ];
    let mut random = pseudo_random(42);
    for n in 0..forkd_testing::often(100, 1000) {
        let operation = operations[n % operations.len()];
        let child = spawn(&user, operation);
        std::thread::sleep(Duration::from_micros(random() % 60_000));
        kill(child);
        if user.snapshot("py", "").exists() {
            assert!(allowed.contains(&bytes(&user)), "{n}: {operation:?}");
            user.ok(&["verify", "py"]);
        }
        if user.path("out.zst").exists() {
            user.ok_noted(&["verify", "out.zst"]);
            std::fs::remove_file(user.path("out.zst")).unwrap();
        }
        // The next run works, now and then one after another that was killed.
        if random().is_multiple_of(3) {
            let seen = user.run(&["pull", &pinned, "--force"]);
            assert_eq!(seen.code, 0, "{n}: after {operation:?}: {}", seen.err);
            shop.check(&user, "py");
        }
    }
    user.ok_noted(&["pull", "acme/py", "--hub", &registry, "--force"]);
    shop.check(&user, "py");
    user.ok(&["verify", "py"]);
    nothing_left(&user);
}
