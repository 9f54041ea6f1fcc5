//! Pulls from servers that misbehave (test catalogue, item 7).

use crate::common::User;
use crate::common::shop::{Shop, noise};
use forkd_testing::TestHub;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A publisher of `py` as version 1 and 3, and of the chain of `top` as 2 and 3.
fn shop() -> Shop {
    let shop = Shop::new();
    noise(&shop.user, "py", &[1, 0, 2]);
    crate::common::three_links(&shop.user);
    shop.pack("py", "py1.zst", &[]).pack("py", "py3.zst", &["--format", "3"]);
    shop.pack("top", "top2.zst", &[]).pack("top", "top3.zst", &["--format", "3"]);
    shop
}

const PACKS: [(&str, &str); 4] =
    [("py3.zst", "py"), ("top3.zst", "top"), ("py1.zst", "py"), ("top2.zst", "top")];

#[test]
fn two_hundred_pulls_from_a_server_that_fails_half_the_time() {
    const PULLS: usize = 200;
    let shop = shop();
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= PULLS {
                        return;
                    }
                    let (pack, tag) = PACKS[n % 4];
                    let prefix =
                        ["", "redirect/", "cut-each/700000/", "noranges/", "noetag/", "once-cut/3000/"]
                            [n / 4 % 6];
                    let url = shop.hub.url(&format!("random/50/{prefix}{pack}"));
                    let jobs = (n % 4 + 1).to_string();
                    let user = User::in_memory();
                    // What one does not bring the next goes on with.
                    let mut runs = 0;
                    loop {
                        let seen = user.run(&["pull", &url, "--jobs", &jobs]);
                        runs += 1;
                        match seen.code {
                            0 => break,
                            5 => assert!(!user.snapshot(tag, "").exists(), "{prefix}{pack}"),
                            code => panic!("{prefix}{pack}: {code}: {}", seen.err),
                        }
                        failed.fetch_add(1, Ordering::Relaxed);
                        assert!(runs < 50, "{prefix}{pack}: {}", seen.err);
                    }
                    shop.check(&user, tag);
                }
            });
        }
    });
    eprintln!("{PULLS} pulls, {} more runs of them", failed.into_inner());
}

#[test]
fn whatever_a_length_says() {
    let shop = shop();
    for (pack, tag) in PACKS {
        for prefix in [
            "lying/1/",
            "lying/100000/",
            "noranges/lying/1/",
            "noranges/lying/100000/",
            "misranged/",
            "noranges/endless/",
            "endless/",
            "noetag/noranges/endless/",
        ] {
            let user = User::in_memory();
            let from = shop.hub.requests().len();
            let seen = user.run(&["pull", &shop.hub.url(&format!("{prefix}{pack}"))]);
            match seen.code {
                0 => shop.check(&user, tag),
                1 | 5 | 6 => {
                    assert!(!user.snapshot(tag, "").exists(), "{prefix}{pack}");
                    assert!(!seen.err.is_empty());
                }
                code => panic!("{prefix}{pack}: {code}: {}", seen.err),
            }
            // What a client that has enough does not take lies in buffers.
            let sent = shop.sent(from, pack);
            assert!(sent < 6 * shop.size(pack) + (16 << 20), "{prefix}{pack}: {sent}");
            if prefix == "endless/" || prefix == "lying/1/" {
                assert_eq!(seen.code, 0, "{prefix}{pack}: the range says where it ends: {}", seen.err);
            }
            // And from a good server all is well after it.
            user.ok_noted(&["pull", &shop.pinned("", pack)]);
            shop.check(&user, tag);
        }
    }
}

#[test]
fn a_redirect_serves_ranges_too() {
    let shop = shop();
    for (pack, tag) in PACKS {
        let user = User::in_memory();
        let from = shop.hub.requests().len();
        user.ok(&["pull", &shop.pinned("redirect/redirect/once-cut/50000/", pack)]);
        shop.check(&user, tag);
        assert!(shop.sent(from, pack) < shop.size(pack) + (1 << 20));
    }
}

#[test]
fn a_registrys_password_stays_with_its_host() {
    let shop = shop();
    let elsewhere = TestHub::start(&shop.user.path("hub"));
    let mut artifact = shop.artifact("py3.zst");
    artifact["url"] = elsewhere.url("py3.zst").into();
    shop.list(&[("v1", shop.version("py1.zst", &[artifact]))]);
    let registry = shop.hub.url("registry.json").replace("http://", "http://me:secret@");
    let user = User::new();
    let output = user.command(&["pull", "acme/py", "--hub", &registry]).output().unwrap();
    let seen = user.seen(&output);
    assert_eq!(seen.code, 0, "{}", seen.err);
    assert!(!seen.out.contains("secret") && !seen.err.contains("secret"), "{}", seen.out);
    assert!(shop.hub.requests().iter().all(|asked| asked.authorised), "{:?}", shop.hub.requests());
    assert!(!elsewhere.requests().is_empty());
    assert!(elsewhere.requests().iter().all(|asked| !asked.authorised));
    let record = std::fs::read_to_string(user.snapshot("py", "forkd.json")).unwrap();
    assert!(!record.contains("secret"), "{record}");
}

#[test]
fn a_server_that_gives_ranges_and_no_total_serves() {
    let shop = shop();
    for (pack, tag) in PACKS {
        let user = User::in_memory();
        let digest = forkd_testing::sha256(&shop.user.path("hub").join(pack));
        let url = shop.hub.url(&format!("unknown-total/{pack}"));
        // With and without a digest that says when all is here.
        let url = if pack.ends_with("1.zst") { format!("{url}#sha256={digest}") } else { url };
        let seen = user.run(&["pull", &url]);
        assert_eq!(seen.code, 0, "{pack}: {}", seen.err);
        shop.check(&user, tag);
    }
}
