//! Pulls that break off and go on (test catalogue, item 6).

use crate::common::User;
use crate::common::shop::{Shop, kill, longest_frame, noise, spawn, until};
use forkd_format::paged::HEADER_GUESS;
use forkd_testing::pseudo_random;
use std::process::Stdio;
use std::time::{Duration, Instant};

const PERCENT: [u64; 5] = [0, 10, 50, 90, 99];

/// What waits for the network most of the time need not wait in turn.
fn each_percent(test: impl Fn(u64) + Sync) {
    std::thread::scope(|scope| {
        for percent in PERCENT {
            let test = &test;
            scope.spawn(move || test(percent));
        }
    });
}

/// A publisher of one snapshot, as version 3: eight frames and a hole.
fn shop() -> Shop {
    let shop = Shop::new();
    noise(&shop.user, "py", &[1, 2, 3, 0, 4, 5]);
    shop.pack("py", "p.zst", &["--format", "3"]);
    shop
}

/// What may come in all by one connection, where a pull was broken off so many times: the pack, at each end of a connection one frame, and the head
/// for each run.
fn bound(shop: &Shop, broken: u64, runs: u64) -> u64 {
    shop.size("p.zst") + broken * longest_frame(&shop.file("p.zst")) + runs * HEADER_GUESS
}

/// Runs a broken pull, which must leave nothing that others see, then one that must finish; gives the bytes that came.
fn broken_then(shop: &Shop, broken: &str, then: &str) -> u64 {
    let (user, from) = (User::new(), shop.hub.requests().len());
    user.fails(5, &["pull", "--jobs", "1", &shop.pinned(broken, "p.zst")]);
    assert!(!user.snapshot("py", "").exists(), "{broken}");
    user.ok_noted(&["pull", "--jobs", "1", &shop.pinned(then, "p.zst")]);
    finished(shop, &user, "py");
    shop.sent(from, "/p.zst")
}

/// The snapshot is right, and nothing else is there.
fn finished(shop: &Shop, user: &User, tag: &str) {
    shop.check(user, tag);
    user.ok(&["verify", tag]);
    let left: Vec<_> = std::fs::read_dir(user.path("data/forkd")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_connection_that_closes_or_stalls_or_finds_the_server_busy() {
    each_percent(|percent| {
        let shop = shop();
        let size = shop.size("p.zst");
        let at = size * percent / 100;
        for (broken, then) in [
            (format!("cut/{at}/"), ""),
            (format!("stall/{at}/"), ""),
            (format!("cut/{at}/"), "flaky/2/once-cut/1000/"),
        ] {
            let sent = broken_then(&shop, &broken, then);
            assert!(sent <= bound(&shop, 2, 2), "{broken}: {sent} of {size} bytes");
        }
        // In one run.
        let (user, from) = (User::new(), shop.hub.requests().len());
        user.ok(&["pull", "--jobs", "1", &shop.pinned(&format!("once-cut/{}/", at.max(1)), "p.zst")]);
        finished(&shop, &user, "py");
        let sent = shop.sent(from, "/p.zst");
        assert!(sent <= bound(&shop, 1, 1), "once, {percent} %: {sent} of {size} bytes");
    });
}

#[test]
fn a_server_that_gives_no_ranges_any_more() {
    let shop = shop();
    let size = shop.size("p.zst");
    for percent in PERCENT {
        let at = size * percent / 100;
        let sent = broken_then(&shop, &format!("cut/{at}/"), "noranges/");
        assert!(sent <= at + HEADER_GUESS + size, "{percent} %: {sent} of {size} bytes");
        let sent = broken_then(&shop, &format!("noranges/cut/{at}/"), "");
        assert!(sent <= bound(&shop, 1, 2) + 5 * at, "{percent} %: {sent} of {size} bytes");
    }
}

#[test]
fn a_client_that_is_killed() {
    let shop = shop();
    let size = shop.size("p.zst");
    // What the server counts as sent and still has in its hands.
    let held = 2 * size / 20;
    for percent in PERCENT {
        let (user, from) = (User::new(), shop.hub.requests().len());
        let mut child =
            spawn(&user, &["pull", "--jobs", "1", &shop.pinned(&format!("slow/{size}/"), "p.zst")]);
        until(&mut child, || {
            shop.hub.requests().len() > from && shop.sent(from, "/p.zst") >= size * percent / 100
        });
        kill(child);
        let before = shop.sent(from, "/p.zst");
        user.ok(&["pull", &shop.pinned("", "p.zst")]);
        user.ok(&["verify", "py"]);
        shop.check(&user, "py");
        user.run(&["gc"]);
        finished(&shop, &user, "py");
        let sent = shop.sent(from, "/p.zst");
        assert!(sent <= bound(&shop, 1, 2) + held, "{percent} %: {before}, then {sent} of {size} bytes");
    }
}

#[test]
fn another_copy_on_the_server() {
    each_percent(|percent| {
        let shop = shop();
        noise(&shop.user, "new", &[9, 2, 3, 0, 4, 5, 6]);
        shop.pack("new", "new.zst", &["--format", "3"]);
        let size = shop.size("p.zst");
        let at = (size * percent / 100).max(1);
        // Between two runs: what came of the old one helps where it is the same.
        let user = User::new();
        let url = shop.hub.url("p.zst");
        user.fails(5, &["pull", &shop.hub.url(&format!("cut/{at}/p.zst"))]);
        // During one: the first answer is of the old copy, and is cut off after the new one has come. (More connections have so little each
        // that none is cut off.)
        let (other, from) = (User::new(), shop.hub.requests().len());
        let each = at.max(size / 5);
        let slow = shop.hub.url(&format!("cut-each/{each}/slow/{size}/p.zst"));
        let mut child = other
            .command(&["pull", "--jobs", "2", &slow])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        until(&mut child, || shop.hub.requests().len() > from && shop.sent(from, "/p.zst") >= each / 2);
        std::fs::rename(shop.file("new.zst"), shop.file("p.zst")).unwrap();
        let seen = other.seen(&child.wait_with_output().unwrap());
        assert_eq!(seen.code, 0, "{percent} %: {}", seen.err);
        // What came of the old copy may still be wanted, under its own URL; gc takes it.
        other.run(&["gc"]);
        finished(&shop, &other, "new");
        let from = shop.hub.requests().len();
        user.ok(&["pull", &url]);
        shop.check(&user, "new");
        assert!(!user.snapshot("py", "").exists());
        let sent = shop.sent(from, "/p.zst");
        assert!(sent <= shop.size("p.zst") + HEADER_GUESS, "{percent} %: {sent}");
        user.ok(&["gc"]);
        finished(&shop, &user, "new");
    });
}

#[test]
fn a_copy_that_changes_with_every_answer_is_given_up() {
    let shop = shop();
    let user = User::new();
    let error = user.fails(5, &["pull", &shop.hub.url("changing/p.zst")]);
    assert!(error.contains("the server's copy changed; starting over"), "{error}");
    user.ok(&["pull", &shop.hub.url("noetag/p.zst")]);
    finished(&shop, &user, "py");
}

#[test]
fn lives_too_short_for_it_add_up() {
    let shop = Shop::new();
    noise(&shop.user, "big", &(1..=12).collect::<Vec<u64>>());
    shop.pack("big", "p.zst", &["--format", "3"]).pack("big", "one.zst", &[]);
    for name in ["p.zst", "one.zst"] {
        let (user, size, from) = (User::new(), shop.size(name), shop.hub.requests().len());
        let url = shop.pinned(&format!("slow/{}/", size / 3), name);
        let (mut random, mut lives) = (pseudo_random(7), 0);
        loop {
            let mut child = spawn(&user, &["pull", &url]);
            let life = Instant::now() + Duration::from_millis(300 + random() % 700);
            until(&mut child, || Instant::now() > life);
            let ended = child.try_wait().unwrap();
            kill(child);
            lives += 1;
            assert!(lives < 60, "{name}: it never ends");
            if let Some(status) = ended {
                assert!(status.success(), "{name}");
                break;
            }
        }
        user.run(&["gc"]);
        finished(&shop, &user, "big");
        // Each life may lose a frame and a piece a connection, and asks for the head again.
        let lost = longest_frame(&shop.file("p.zst")) + 2 * (64 << 10);
        let sent = shop.sent(from, name);
        assert!(
            sent <= size + lives * (2 * lost + HEADER_GUESS),
            "{name}: {sent} of {size} in {lives} lives"
        );
    }
}

#[test]
fn an_interrupted_pull_is_gone_on_with() {
    let shop = shop();
    shop.pack("py", "one.zst", &[]);
    for (name, signal) in [("p.zst", "-INT"), ("one.zst", "-TERM")] {
        let (user, size, from) = (User::new(), shop.size(name), shop.hub.requests().len());
        let mut child = spawn(&user, &["pull", "--jobs", "1", &shop.pinned(&format!("slow/{size}/"), name)]);
        until(&mut child, || shop.sent(from, name) >= size / 2);
        std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert!(!user.path("data/forkd/staging").exists() && !user.path("data/forkd/locks").exists());
        let from = shop.hub.requests().len();
        user.ok_noted(&["pull", &shop.pinned("", name)]);
        finished(&shop, &user, "py");
        assert!(shop.sent(from, name) < size * 8 / 10, "{name}");
    }
}

#[test]
fn several_connections_killed_twice() {
    let shop = Shop::new();
    noise(&shop.user, "big", &(1..=20).collect::<Vec<u64>>());
    shop.pack("big", "p.zst", &["--format", "3"]);
    let (size, user) = (shop.size("p.zst"), User::new());
    let rate = size / 3;
    for percent in [30, 60] {
        let from = shop.hub.requests().len();
        let url = shop.pinned(&format!("slow/{rate}/"), "p.zst");
        let mut child = spawn(&user, &["pull", &url, "--jobs", "3"]);
        until(&mut child, || shop.sent(0, "/p.zst") >= size * percent / 100);
        assert!(shop.hub.requests().len() > from + 2, "several at a time");
        kill(child);
    }
    let report = user.json(&["pull", &shop.pinned("", "p.zst")]);
    assert!(report["resumed_bytes"].as_u64().unwrap() > size / 4, "{report}");
    shop.check(&user, "big");
    user.ok(&["verify", "big"]);
    let (sent, held) = (shop.sent(0, "/p.zst"), 2 * 3 * 2 * (64 << 10));
    assert!(sent <= bound(&shop, 2 * 3, 3) + held, "{sent} of {size}");
}

#[test]
fn streams_go_on_where_they_were_killed() {
    let shop = Shop::new();
    noise(&shop.user, "py", &[1, 2, 0, 3]);
    shop.pack("py", "p.zst", &[]);
    crate::common::three_links(&shop.user);
    shop.pack("top", "chain.zst", &[]);
    for (name, tag) in [("p.zst", "py"), ("chain.zst", "top")] {
        let (size, slack) = (shop.size(name), 2 * shop.size(name) / 20 + (128 << 10));
        for percent in [0, 50, 99] {
            for pinned in [true, false] {
                let (user, from) = (User::new(), shop.hub.requests().len());
                // Only a digest tells that another URL has the same pack.
                let prefix = format!("slow/{size}/");
                let url = |pinned: bool, prefix: &str| match pinned {
                    true => shop.pinned(prefix, name),
                    false => shop.hub.url(&format!("{prefix}{name}")),
                };
                let mut child = spawn(&user, &["pull", &url(pinned, &prefix)]);
                until(&mut child, || {
                    shop.hub.requests().len() > from && shop.sent(from, name) >= size * percent / 100
                });
                kill(child);
                let then = if pinned { "" } else { &prefix };
                user.ok_noted(&["pull", &url(pinned, then)]);
                user.run(&["gc"]);
                finished(&shop, &user, tag);
                let sent = shop.sent(from, name);
                assert!(sent <= size + slack, "{name}, {percent} %: {sent} of {size} bytes");
            }
        }
    }
}
