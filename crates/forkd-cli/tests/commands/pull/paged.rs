//! Hubs whose versions have several packs: which one is taken, what of it comes, and what a hub may not get away with.

use crate::common::User;
use crate::common::shop::{Shop, frames, noise};
use forkd_testing::{sha256, tree};
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// A publisher of `base`, and of `py`, which is like it but for one page of each MiB and a MiB of its own.
fn shop() -> Shop {
    let shop = Shop::new();
    noise(&shop.user, "base", &[1, 2, 3, 4]);
    noise(&shop.user, "py", &[1, 2, 3, 4, 5]);
    let memory = File::options().write(true).open(shop.user.snapshot("py", "memory.bin")).unwrap();
    for mib in 0..4 {
        memory.write_all_at(format!("changed {mib}").as_bytes(), (mib << 20) + 77).unwrap();
    }
    shop.pack("base", "base.zst", &["--format", "3"]);
    shop.pack("py", "one.zst", &[]);
    shop.pack("py", "full.zst", &["--format", "3"]);
    shop.pack("py", "delta.zst", &["--format", "3", "--base", "base"]);
    let artifacts = [shop.artifact("full.zst"), shop.artifact("delta.zst")];
    shop.list(&[("v1", shop.version("one.zst", &artifacts))]);
    shop
}

/// Changes the registry's artifacts.
fn change(shop: &Shop, change: impl Fn(&mut Vec<Value>)) {
    let mut artifacts = vec![shop.artifact("full.zst"), shop.artifact("delta.zst")];
    change(&mut artifacts);
    shop.list(&[("v1", shop.version("one.zst", &artifacts))]);
}

fn with_base(shop: &Shop) -> User {
    let user = User::new();
    user.ok(&["pull", &shop.pinned("", "base.zst")]);
    user
}

/// Which packs were asked for, and whether by range.
fn asked(shop: &Shop, from: usize) -> Vec<String> {
    let mut asked: Vec<String> = shop.hub.requests()[from..].iter().map(|asked| asked.uri.clone()).collect();
    asked.dedup();
    asked
}

#[test]
fn the_pack_of_which_least_must_come_is_taken_and_why_is_said() {
    let shop = shop();
    let registry = shop.hub.url("registry.json");
    let user = User::new();
    let digest = shop.artifact("full.zst")["manifest_sha256"].as_str().unwrap()[..8].to_owned();
    assert_eq!(
        user.ok(&["pull", "acme/py", "--hub", &registry]),
        user.plain(&format!(
            "→ resolves via {registry}
→ format 3: 4.4 MiB to fetch (the pack that all hosts read: 4.4 MiB)
✓ downloaded 4.4 MiB
✓ sha256 verified ({digest}...)
✓ unpacked tag 'py' at ~/data/forkd/snapshots/py/
  next: forkd fork --tag py -n <N>
"
        ))
    );
    shop.check(&user, "py");
    let user = with_base(&shop);
    let from = shop.hub.requests().len();
    let report = user.json(&["pull", "acme/py", "--hub", &registry]);
    let choice = user.plain(report["choice"].as_str().unwrap());
    assert_eq!(
        choice,
        "format # against 'base': # MiB to fetch (format #: # MiB; the pack that all hosts read: # MiB)"
    );
    // Of the full pack only the head comes.
    assert_eq!(asked(&shop, from), ["/registry.json", "/delta.zst", "/full.zst", "/delta.zst"]);
    let heads = shop.head("full.zst") + shop.head("delta.zst");
    assert!(report["downloaded_bytes"].as_u64().unwrap() <= shop.size("delta.zst") + heads);
    shop.check(&user, "py");
    // A kernel that is not here must come too.
    change(&shop, |artifacts| {
        let kernel = json!({ "kind": "kernel", "name": "6.1.0", "path": "vmlinux", "size": 40 << 20,
            "sha256": "1".repeat(64), "root": "2".repeat(64), "copied_pages": 1, "similar_pages": 0 });
        artifacts[1] = artifacts[0].clone();
        artifacts[1]["bases"] = json!([kernel]);
    });
    let user = User::new();
    let report = user.json(&["pull", "acme/py", "--hub", &registry]);
    let choice = user.plain(report["choice"].as_str().unwrap());
    assert_eq!(
        choice,
        "format #: # MiB to fetch (the pack that all hosts read: # MiB; format # against the guest's kernel: # MiB)"
    );
}

#[test]
fn a_dry_run_tells_and_changes_nothing() {
    let shop = shop();
    let registry = shop.hub.url("registry.json");
    let user = with_base(&shop);
    let before = tree(&user.store());
    let out = user.ok(&["pull", "acme/py", "--hub", &registry, "--dry-run"]);
    assert_eq!(
        out,
        "→ resolves via http://#:#/registry.json
→ format # against 'base': # MiB to fetch (format #: # MiB; the pack that all hosts read: # MiB)
would fetch # MiB from http://#:#/delta.zst
"
    );
    let (planned, _) = user.ok_noted(&["pull", &shop.pinned("", "full.zst"), "--dry-run"]);
    assert!(planned.contains("would fetch # MiB from http://#:#/full.zst"), "{planned}");
    let plan = user.json(&["pull", &shop.pinned("", "base.zst"), "--tag", "again", "--dry-run"]);
    let bytes = plan["fetch_bytes"].as_u64().unwrap();
    assert!(bytes < 2000, "only the description: {plan}");
    assert_eq!((&plan["here"], &plan["format"]), (&Value::Null, &json!(3)));
    assert_eq!(plan["reused"][0]["tag"], "base");
    assert!(plan["reused"][0]["bytes"].as_u64().unwrap() > 4 << 20, "{plan}");
    assert!(user.ok(&["pull", &shop.pinned("", "base.zst"), "--dry-run"]).contains("nothing to fetch"));
    assert_eq!(tree(&user.store()), before);
    // What is promised is what comes.
    let from = shop.hub.requests().len();
    user.ok(&["pull", &shop.pinned("", "base.zst"), "--tag", "again"]);
    assert!(shop.sent(from, "base.zst") <= (64 << 10) + bytes);
    shop.check_as(&user, "base", "again");
}

#[test]
fn a_base_is_known_by_its_bytes_and_not_by_its_name() {
    let shop = shop();
    let registry = shop.hub.url("registry.json");
    // Other bytes under the base's name, and its bytes under another.
    let user = User::new();
    noise(&user, "base", &[6, 7, 8, 9]);
    user.ok(&["pack", "--tag", "base", "--out", "x.zst"]);
    user.ok(&["rmi", "base"]);
    user.ok(&["unpack", "x.zst"]);
    let from = shop.hub.requests().len();
    user.ok(&["pull", "acme/py", "--hub", &registry]);
    assert!(!asked(&shop, from).contains(&"/delta.zst".to_owned()));
    shop.check(&user, "py");
    let error = user.fails(3, &["pull", &shop.pinned("", "delta.zst"), "--tag", "x"]);
    assert!(error.contains("is packed against 'base'") && error.contains("take the full pack"), "{error}");
    assert!(!user.path("data/forkd/partial").exists());
    let user = User::new();
    user.ok(&["pull", &shop.pinned("", "base.zst"), "--tag", "mine"]);
    let from = shop.hub.requests().len();
    user.ok(&["pull", "acme/py", "--hub", &registry]);
    assert!(asked(&shop, from).contains(&"/delta.zst".to_owned()));
    shop.check(&user, "py");
    // One that was altered since is none either.
    let user = with_base(&shop);
    let memory = File::options().write(true).open(user.snapshot("base", "memory.bin")).unwrap();
    memory.write_all_at(b"altered", 1 << 20).unwrap();
    user.ok(&["pull", "acme/py", "--hub", &registry]);
    shop.check(&user, "py");
}

#[test]
fn a_repeated_pull_is_one_request_without_a_body() {
    let shop = shop();
    let registry = shop.hub.url("registry.json");
    let user = User::new();
    for (first, second) in [
        (vec!["pull", "acme/py", "--hub", &registry], vec!["pull", "acme/py@v1", "--hub", &registry]),
        (vec!["pull", &shop.hub.url("base.zst")], vec!["pull", &shop.hub.url("base.zst")]),
        (
            vec!["pull", &shop.hub.url("one.zst"), "--tag", "y"],
            vec!["pull", &shop.hub.url("one.zst"), "--tag", "y"],
        ),
    ] {
        user.ok(&first);
        let from = shop.hub.requests().len();
        assert!(user.ok(&second).contains("✓ nothing to download: all of it is here already"));
        let requests = &shop.hub.requests()[from..];
        let seen: Vec<_> = requests.iter().map(|asked| (asked.status, asked.bytes())).collect();
        assert_eq!(seen, [(304, 0)], "{first:?}");
    }
    // A pinned URL needs none.
    let from = shop.hub.requests().len();
    user.ok(&["pull", &shop.pinned("", "base.zst")]);
    assert_eq!(shop.hub.requests().len(), from);
    // What is no longer there is fetched, though the server's copy is known.
    user.ok(&["rmi", "base"]);
    user.ok(&["pull", &shop.hub.url("base.zst")]);
    shop.check(&user, "base");
}

#[test]
fn the_next_version_costs_what_changed() {
    let shop = shop();
    let registry = shop.hub.url("registry.json");
    let user = with_base(&shop);
    let from = shop.hub.requests().len();
    user.ok(&["pull", "acme/py", "--hub", &registry]);
    let (sent, delta) = (shop.sent(from, ".zst"), shop.size("delta.zst"));
    assert!(sent * 10 <= delta * 11, "{sent} of {delta} bytes");
    assert!(delta * 3 < shop.size("full.zst"), "{delta}");
    shop.check(&user, "py");
    // Without a delta, MiBs that are the same are taken from where they are.
    noise(&shop.user, "later", &[1, 2, 3, 4, 6]);
    shop.pack("later", "later.zst", &["--format", "3"]);
    let from = shop.hub.requests().len();
    let report = user.json(&["pull", &shop.pinned("", "later.zst")]);
    assert!(shop.sent(from, "later.zst") <= (1 << 20) + (64 << 10), "one MiB and the head");
    assert_eq!(report["reused"][0], json!({ "tag": "base", "bytes": 4 << 20 }));
    shop.check(&user, "later");
    user.ok(&["verify", "later"]);
}

#[test]
fn a_pack_that_is_gone_leaves_the_others() {
    let shop = shop();
    let registry = shop.hub.url("registry.json");
    let gone = |name: &str| std::fs::rename(shop.file(name), shop.file(&format!("{name}.gone"))).unwrap();
    let user = with_base(&shop);
    gone("delta.zst");
    let (_, err) = user.ok_noted(&["pull", "acme/py", "--hub", &registry]);
    assert!(err.contains("/delta.zst") && err.contains("Not Found"), "{err}");
    shop.check(&user, "py");
    gone("full.zst");
    let user = User::new();
    let (out, _) = user.ok_noted(&["pull", "acme/py", "--hub", &registry]);
    assert!(out.contains("→ the pack that all hosts read: # MiB to fetch\n"), "{out}");
    shop.check(&user, "py");
    std::fs::rename(shop.file("full.zst.gone"), shop.file("full.zst")).unwrap();
    gone("one.zst");
    let user = User::new();
    user.ok_noted(&["pull", "acme/py", "--hub", &registry]);
    shop.check(&user, "py");
    gone("full.zst");
    let user = User::new();
    user.fails(3, &["pull", "acme/py", "--hub", &registry]);
    assert!(user.is_untouched(), "{:?}", tree(&user.store()));
}

#[test]
fn a_manifest_may_be_pinned() {
    let shop = shop();
    let registry = shop.hub.url("registry.json");
    for name in ["full.zst", "one.zst"] {
        let artifact = shop.artifact(name);
        let digest = match name {
            "full.zst" => artifact["manifest_sha256"].as_str().unwrap().to_owned(),
            _ => sha256(&shop.file(name)),
        };
        let user = with_base(&shop);
        let from = shop.hub.requests().len();
        let pinned = format!("acme/py@v1@sha256:{digest}");
        let out = user.ok(&["pull", &pinned, "--hub", &registry]);
        assert!(out.contains("✓ sha# verified"), "{out}");
        assert_eq!(asked(&shop, from), ["/registry.json".to_owned(), format!("/{name}")]);
        shop.check(&user, "py");
        assert!(user.ok(&["pull", &pinned, "--hub", &registry]).contains("nothing to download"));
        user.ok(&["rmi", "py"]);
        user.ok(&["pull", &shop.pinned("", name)]);
        shop.check(&user, "py");
    }
    // A pack of version 3 is not named by the digest of its file.
    let user = User::new();
    let url = format!("{}#sha256={}", shop.hub.url("full.zst"), sha256(&shop.file("full.zst")));
    assert!(user.fails(6, &["pull", &url]).contains("is named by its manifest"));
    let none = format!("acme/py@v1@sha256:{}", "0".repeat(64));
    assert!(user.fails(6, &["pull", &none, "--hub", &registry]).contains("the reference pins"));
    assert!(user.is_untouched());
}

#[test]
fn a_hub_that_lies_is_not_believed() {
    let shop = shop();
    let registry = shop.hub.url("registry.json");
    let user = User::new();
    for (field, wrong, told) in [
        ("manifest_sha256", json!("3".repeat(64)), "the manifest has sha#"),
        ("size_bytes", json!(7), "the registry declares #"),
        ("url", json!("base.zst"), "the registry declares #"),
        ("url", json!("file:///etc/passwd"), "names a file of this host"),
    ] {
        change(&shop, |artifacts| artifacts[0][field] = wrong.clone());
        let error = user.fails(6, &["pull", "acme/py", "--hub", &registry]);
        assert!(error.contains(told), "{field} = {wrong}: {error}");
        assert!(user.is_untouched(), "{field} = {wrong}: {:?}", tree(&user.store()));
    }
    // What is not understood is passed over.
    for (field, wrong) in
        [("manifest_sha256", json!(5)), ("head_bytes", json!(-1)), ("bases", json!([{"kind": "moon"}]))]
    {
        change(&shop, |artifacts| {
            artifacts.truncate(1);
            artifacts[0][field] = wrong.clone();
        });
        let user = User::new();
        user.ok(&["pull", "acme/py", "--hub", &registry]);
        shop.check(&user, "py");
    }
    // What only makes it slower does no harm.
    for head in [0, 1, 300, 40 << 20, u64::MAX] {
        change(&shop, |artifacts| artifacts[0]["head_bytes"] = json!(head));
        let user = User::new();
        let (out, err) = user.ok_noted(&["pull", "acme/py", "--hub", &registry]);
        assert!(out.contains("✓ sha# verified"), "{head}: {out}{err}");
        shop.check(&user, "py");
    }
    // A base that it does not need, or does not name.
    change(&shop, |artifacts| artifacts[1]["bases"] = json!([]));
    let (_, err) = User::new().ok_noted(&["pull", "acme/py", "--hub", &registry]);
    assert!(err.contains("taking another pack of acme/py"), "{err}");
    // Formats of the future are passed over.
    change(&shop, |artifacts| *artifacts = vec![json!({ "format": 4, "url": 5 }), json!("x"), json!(null)]);
    User::new().ok(&["pull", "acme/py", "--hub", &registry]);
}

#[test]
fn a_damaged_frame_is_refused_and_nothing_of_it_kept() {
    let shop = shop();
    let places = frames(&shop.file("full.zst"));
    let file = File::options().write(true).read(true).open(shop.file("full.zst")).unwrap();
    let user = User::new();
    // The manifest, the index, the first and the last frame that hold content.
    for (at, len) in [places[0], places[1], places[2], places[places.len() - 2]] {
        let mut byte = [0];
        let middle = (at + len / 2) as u64;
        file.read_exact_at(&mut byte, middle).unwrap();
        file.write_all_at(&[byte[0] ^ 16], middle).unwrap();
        let error = user.fails(6, &["pull", &shop.hub.url("full.zst")]);
        assert!(error.contains("full.zst"), "{error}");
        assert!(user.is_untouched(), "{at}: {:?}", tree(&user.store()));
        file.write_all_at(&byte, middle).unwrap();
    }
    user.ok(&["pull", &shop.hub.url("full.zst")]);
    shop.check(&user, "py");
}

#[test]
fn a_rate_is_held_over_all_connections() {
    let shop = shop();
    let user = User::new();
    let begun = Instant::now();
    user.ok(&["pull", &shop.pinned("", "base.zst"), "--limit-rate", "2M", "--jobs", "3"]);
    let least = shop.size("base.zst") as f64 / f64::from(2 << 20);
    assert!(begun.elapsed() > Duration::from_secs_f64(least * 0.85), "{:?}", begun.elapsed());
    for wrong in ["0", "-1", "fast", "5x", "nan", ""] {
        let rate = format!("--limit-rate={wrong}");
        let error = user.fails(2, &["pull", &shop.pinned("", "full.zst"), &rate]);
        assert!(error.contains("rate") && !user.snapshot("py", "").exists(), "{wrong}: {error}");
    }
}

#[test]
fn a_folder_is_a_hub_with_several_packs_too() {
    let shop = shop();
    let registry = format!("file://{}", shop.file("registry.json").display());
    let user = User::new();
    let url = format!("file://{}", shop.file("base.zst").display());
    user.ok(&["pull", &url]);
    let report = user.json(&["pull", "acme/py", "--hub", &registry]);
    assert!(report["choice"].as_str().unwrap().starts_with("format 3 against 'base'"), "{report}");
    assert!(report["downloaded_bytes"].as_u64().unwrap() < shop.size("full.zst") / 2);
    shop.check(&user, "py");
    assert!(user.ok(&["pull", &url]).contains("nothing to download"));
    assert!(user.ok(&["pull", "acme/py", "--hub", &registry]).contains("nothing to download"));
    std::fs::remove_file(shop.file("full.zst")).unwrap();
    let other = User::new();
    let (_, err) = other.ok_noted(&["pull", "acme/py", "--hub", &registry]);
    assert!(err.contains("full.zst"), "{err}");
    shop.check(&other, "py");
}

#[test]
fn a_base_whose_damage_no_time_shows() {
    let shop = shop();
    let registry = shop.hub.url("registry.json");
    let user = with_base(&shop);
    let path = user.snapshot("base", "memory.bin");
    let memory = File::options().write(true).open(&path).unwrap();
    let time = path.metadata().unwrap().modified().unwrap();
    for page in 0..1024 {
        memory.write_all_at(b"damaged", page * 4096 + 99).unwrap();
    }
    memory.set_modified(time).unwrap();
    // The pack is not to blame alone: what it refers to is named, and the full pack needs no base.
    let error = user.fails(6, &["pull", "acme/py", "--hub", &registry]);
    assert!(error.contains("`forkd verify base`"), "{error}");
    assert!(!user.path("data/forkd/partial").exists() && !user.snapshot("py", "").exists());
    user.ok(&["pull", &shop.pinned("", "full.zst")]);
    shop.check(&user, "py");
}
