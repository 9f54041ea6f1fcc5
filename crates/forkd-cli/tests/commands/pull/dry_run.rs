//! `pull --dry-run`: what the pull would meet.

use crate::common::User;
use crate::common::shop::{Shop, noise};

#[test]
fn a_dry_run_says_what_the_pull_would_meet() {
    let shop = Shop::new();
    noise(&shop.user, "one", &[1, 2, 3]);
    shop.pack("one", "v1.zst", &[]).pack("one", "v3.zst", &["--format", "3"]);
    let user = User::new();
    let dry = |url: &str| user.run(&["pull", url, "--dry-run"]);
    let plan = user.json(&["pull", &shop.pinned("noranges/", "v3.zst"), "--dry-run"]);
    let (size, planned) = (shop.size("v3.zst"), plan["fetch_bytes"].as_u64().unwrap());
    assert!(plan["no_ranges"] == true && (size - 100..=size).contains(&planned), "{plan}");
    // Of version 1 too the pack is looked at.
    let registry = shop.list(&[("v1", shop.version("v1.zst", &[]))]);
    let plan = user.json(&["pull", "acme/py", "--hub", &registry, "--dry-run"]);
    assert_eq!((&plan["format"], &plan["fetch_bytes"]), (&1.into(), &shop.size("v1.zst").into()));
    std::fs::write(shop.file("v1.zst"), &std::fs::read(shop.file("v1.zst")).unwrap()[1..]).unwrap();
    user.fails(6, &["pull", "acme/py", "--hub", &registry, "--dry-run"]);
    std::fs::remove_file(shop.file("v1.zst")).unwrap();
    user.fails(3, &["pull", "acme/py", "--hub", &registry, "--dry-run"]);
    // A tag that is taken by other bytes.
    noise(&user, "one", &[9]);
    let before = forkd_testing::tree(&user.store());
    for name in ["v3.zst", "noranges/v3.zst"] {
        let seen = dry(&shop.hub.url(name));
        assert_eq!(seen.code, 1, "{}", seen.err);
        assert!(seen.err.contains("'one' is already at "), "{}", seen.err);
    }
    assert_eq!(forkd_testing::tree(&user.store()), before);
    assert!(
        user.ok(&["pull", &shop.hub.url("v3.zst"), "--tag", "other", "--dry-run"]).contains("would fetch")
    );
}
