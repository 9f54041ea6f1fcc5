//! `forkd publish`, `unpublish`, `hub init`, `hub check`, `hub gc`: a hub as its publishers see it.

use crate::common::{User, names, three_links};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn registry(user: &User) -> Value {
    serde_json::from_slice(&std::fs::read(user.path("hub/registry.json")).unwrap()).unwrap()
}

fn version<'a>(registry: &'a Value, package: &str, version: &str) -> &'a Value {
    &registry["packages"][package]["versions"][version]
}

#[test]
fn a_version_is_packed_uploaded_and_listed_in_one_step() {
    let user = User::new();
    user.with("py", 1);
    assert_eq!(
        user.ok(&["hub", "init", "hub"]),
        "✓ file://~/hub is a hub now\n  next: forkd publish TAG owner/name@v# --to file://~/hub\n"
    );
    assert_eq!(user.ok(&["hub", "init", "hub"]), "✓ file://~/hub is a hub already; nothing was changed\n");
    let planned = user.ok(&["publish", "py", "acme/py@v1", "--to", "hub", "--dry-run"]);
    assert!(planned.contains("would send # MiB and list acme/py@v#, which is `latest` now"), "{planned}");
    assert_eq!(names(&user.path("hub/packs"), ""), 0);
    let args =
        ["publish", "py", "acme/py@v1", "--to", "hub", "--description", "warm", "--base-image", "debian:12"];
    let out = user.ok(&args);
    let lines: Vec<&str> = out.lines().take(4).map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "==> publishing 'py' as acme/py@v# → file://~/hub",
            "# MiB  for every host",
            "# MiB  format #: only what a host lacks is fetched",
            "✓ published acme/py@v#, which is `latest` now: sent # MiB",
        ]
    );
    assert!(out.ends_with("  next: forkd pull acme/py@v# --hub file://~/hub/registry.json\n"), "{out}");
    let listed = registry(&user);
    let entry = version(&listed, "acme/py", "v1");
    assert_eq!(version(&listed, "acme/py", "latest"), entry);
    assert_eq!((&entry["memory_mib"], &entry["base_image"]), (&json!(1), &json!("debian:12")));
    assert_eq!(listed["packages"]["acme/py"]["description"], "warm");
    let pack = user.path("hub").join(entry["url"].as_str().unwrap());
    assert_eq!(forkd_testing::sha256(&pack), entry["sha256"].as_str().unwrap());
    assert_eq!(pack.metadata().unwrap().len(), entry["size_bytes"].as_u64().unwrap());
    assert_eq!(entry["artifacts"].as_array().unwrap().len(), 1);
    // Nothing is left where it was packed.
    assert_eq!(names(&user.tmp(), ""), 0);
    // The same again is no news, and another snapshot under the same name is refused.
    let again = user.ok(&args);
    assert!(again.contains("✓ acme/py@v# is there already, with the same bytes"), "{again}");
    user.with("other", 2);
    let error = user.fails(1, &["publish", "other", "acme/py@v1", "--to", "hub"]);
    assert!(error.contains("'acme/py@v#' is published already, with other bytes"), "{error}");
    assert_eq!(registry(&user), listed);
    user.ok(&["publish", "other", "acme/py@v1", "--to", "hub", "--replace"]);
    assert_ne!(version(&registry(&user), "acme/py", "v1")["sha256"], entry["sha256"]);
    assert_eq!(user.ok(&["hub", "check", "hub", "--deep"]).lines().count(), 4);
}

#[test]
fn a_second_version_comes_with_an_update_and_a_consumer_moves_to_it() {
    let user = User::new();
    user.with("py", 1).with("py2", 1);
    // A page that changed.
    let memory = user.snapshot("py2", "memory.bin");
    let mut bytes = std::fs::read(&memory).unwrap();
    bytes[300_000..300_100].fill(7);
    std::fs::write(&memory, bytes).unwrap();
    user.ok(&["publish", "py", "acme/py@v1", "--to", "hub"]);
    let consumer = User::new();
    let hub = user.path("hub").display().to_string();
    consumer.ok_noted(&["pull", "acme/py", "--hub", &hub]);
    assert!(consumer.ok(&["update", "--hub", &hub]).contains("✓ 'py' (acme/py) is the newest"));
    let out = user.ok(&["publish", "py2", "acme/py@v2", "--to", "hub"]);
    assert!(out.contains("format #, for hosts that have 'py'"), "{out}");
    let listed = registry(&user);
    assert_eq!(version(&listed, "acme/py", "v2")["artifacts"].as_array().unwrap().len(), 2);
    // Nothing moves without being asked to.
    let told = consumer.ok(&["update", "--hub", &hub]);
    assert!(told.contains("↑ 'py' (acme/py) can move to v#: # MiB to fetch"), "{told}");
    assert!(told.contains("next: forkd update acme/py, or --all"), "{told}");
    let before = std::fs::read(consumer.snapshot("py", "memory.bin")).unwrap();
    let (out, _) = consumer.ok_noted(&["pull", "acme/py", "--update", "--hub", &hub]);
    assert!(out.contains("format # against 'py'"), "{out}");
    assert_eq!(consumer.json(&["images"])["snapshots"].as_array().unwrap().len(), 1);
    assert_ne!(std::fs::read(consumer.snapshot("py", "memory.bin")).unwrap(), before);
    consumer.ok(&["verify", "py"]);
    assert!(consumer.ok(&["update", "--hub", &hub]).contains("is the newest"));
    // And back, by name.
    consumer.ok_noted(&["update", "acme/py@v1", "--hub", &hub]);
    assert_eq!(std::fs::read(consumer.snapshot("py", "memory.bin")).unwrap(), before);
    let error = consumer.fails(3, &["update", "acme/none", "--hub", &hub]);
    assert!(error.contains("nothing here was pulled as 'acme/none'"), "{error}");
    // A version that is taken back leaves the other one as the latest, and its packs until they are collected.
    user.ok(&["unpublish", "acme/py@v2", "--from", "hub", "--dry-run"]);
    assert_eq!(registry(&user), listed);
    assert_eq!(
        user.ok(&["unpublish", "acme/py@v2", "--from", "hub"]),
        "✓ took acme/py@v# off file://~/hub\n  left: v#, latest\n"
    );
    assert!(user.fails(3, &["unpublish", "acme/py@v2", "--from", "hub"]).contains("there are: v#, latest"));
    let files = names(&user.path("hub/packs"), "");
    let told = user.ok(&["hub", "check", "hub"]);
    assert!(told.contains("nothing names it; `forkd hub gc` removes it"), "{told}");
    user.ok(&["hub", "gc", "hub", "--grace", "0"]);
    assert_eq!(names(&user.path("hub/packs"), ""), files);
    user.ok(&["hub", "gc", "hub", "--grace", "0", "--delete"]);
    assert_eq!(names(&user.path("hub/packs"), ""), files - 3);
    assert_eq!(user.ok(&["hub", "check", "hub", "--deep"]).lines().count(), 2);
}

#[test]
fn a_chain_is_moved_too() {
    let user = User::new();
    three_links(&user);
    user.ok(&["publish", "mid", "acme/top@v1", "--to", "hub"]);
    let consumer = User::new();
    let hub = user.path("hub").display().to_string();
    consumer.ok_noted(&["pull", "acme/top", "--hub", &hub]);
    user.ok(&["publish", "top", "acme/top@v2", "--to", "hub"]);
    assert_eq!(version(&registry(&user), "acme/top", "v2")["chain"], json!(["base", "mid", "top"]));
    let show = consumer.ok(&["show", "acme/top", "--hub", &hub]);
    assert!(show.contains("chain       base → mid → top"), "{show}");
    consumer.ok_noted(&["update", "--all", "--hub", &hub]);
    let images = consumer.json(&["images"]);
    let of =
        |tag: &str| images["snapshots"].as_array().unwrap().iter().find(|one| one["tag"] == tag).cloned();
    // Its own tag moved, so the link that had it has another name now.
    assert_eq!(of("mid").unwrap()["chain_links"], 3, "{images}");
    assert!(of("mid").unwrap()["parent"].as_str().unwrap().starts_with("mid-"), "{images}");
    consumer.ok(&["verify", "mid"]);
    assert_eq!(consumer.ok(&["update", "--hub", &hub]), "✓ 'mid' (acme/top) is the newest\n");
}

#[test]
fn files_for_another_host_come_with_their_digests_and_the_next_commands() {
    let user = User::new();
    user.with("py", 1);
    let text = r#"{"_note":"ours","schema_version":1,"packages":{"b/b":{"stars":3,"versions":{"latest":{"url":"https://h/p","sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size_bytes":5}}}}}"#;
    std::fs::write(user.path("registry.json"), text).unwrap();
    let to = user.path("registry.json").display().to_string();
    let out = user.ok(&["publish", "py", "acme/py@v1", "--to", &to, "--release-assets", "dist"]);
    for line in [
        "    gh release create hub-py-v# --repo acme/forkd-snapshots \\",
        "    cp dist/registry.json registry.json",
        "    git commit -m \"Add acme/py@v#\" registry.json && gh pr create --fill",
    ] {
        assert!(out.lines().any(|found| found == line), "{line}\n{out}");
    }
    let changed: Value =
        serde_json::from_slice(&std::fs::read(user.path("dist/registry.json")).unwrap()).unwrap();
    assert_eq!((&changed["_note"], &changed["packages"]["b/b"]["stars"]), (&json!("ours"), &json!(3)));
    let url = changed["packages"]["acme/py"]["versions"]["v1"]["url"].as_str().unwrap();
    let name = url
        .strip_prefix("https://github.com/acme/forkd-snapshots/releases/download/hub-py-v1/")
        .unwrap_or_else(|| panic!("{url}"));
    let sums = std::fs::read_to_string(user.path("dist/SHA256SUMS")).unwrap();
    assert!(
        sums.contains(&format!("{}  {name}\n", forkd_testing::sha256(&user.path("dist").join(name)))),
        "{sums}"
    );
    assert_eq!(std::fs::read_to_string(user.path("registry.json")).unwrap(), text);
}

#[test]
fn what_cannot_be_published_says_so() {
    let user = User::new();
    user.with("py", 1);
    for (args, code, words) in [
        (vec!["publish", "none", "a/b@v1", "--to", "hub"], 3, "no snapshot 'none'"),
        (vec!["publish", "py", "a/b@v1"], 2, "add --to HUB"),
        (vec!["publish", "py", "ab", "--to", "hub"], 2, "ab"),
        (vec!["publish", "py", "a/b@v1", "--to", "https://h/registry.json"], 2, "is read over HTTP only"),
        (vec!["unpublish", "a/b@v1", "--from", "hub"], 3, "no 'a/b'"),
        (vec!["unpublish", "a/b", "--from", "hub"], 2, "names no version"),
        (vec!["publish", "py", "a/b@v1", "--release-assets", "dist"], 2, "--to names none"),
        (vec!["publish", "py", "a/b@v1", "--release-assets", "dist", "--to", "none.json"], 2, "none.json"),
        (vec!["hub", "check", "nowhere"], 2, "HUB ('nowhere')"),
    ] {
        let error = user.fails(code, &args);
        assert!(error.contains(words), "{args:?}: {error}");
    }
    let mut command = user.command(&["publish", "py", "a/b@v1"]);
    let seen = user.seen(&command.env("FORKD_HUB_URL", "/a,/b").output().unwrap());
    assert!(seen.code == 2 && seen.err.contains("# hubs are named"), "{}", seen.err);
    std::fs::create_dir_all(user.path("hub")).unwrap();
    std::fs::write(user.path("hub/registry.json"), "{}").unwrap();
    let error = user.fails(6, &["publish", "py", "a/b@v1", "--to", "hub"]);
    assert!(error.contains("registry.json"), "{error}");
    assert_eq!(std::fs::read(user.path("hub/registry.json")).unwrap(), b"{}");
    assert_eq!(names(&user.path("hub/packs"), ""), 0);
}

/// Looks at a registry all the time: it is whole, and names only what is there.
fn watch(hub: &Path, done: &std::sync::atomic::AtomicBool) -> usize {
    let mut looks = 0;
    while !done.load(std::sync::atomic::Ordering::Relaxed) {
        look(hub);
        looks += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    looks
}

fn look(hub: &Path) -> usize {
    let Ok(bytes) = std::fs::read(hub.join("registry.json")) else { return 0 };
    forkd_format::registry::check(&bytes).unwrap();
    let registry: Value = serde_json::from_slice(&bytes).unwrap();
    let mut versions = 0;
    for package in registry["packages"].as_object().unwrap().values() {
        for version in package["versions"].as_object().unwrap().values() {
            versions += 1;
            let artifacts = version["artifacts"].as_array().cloned().unwrap_or_default();
            for pack in artifacts.iter().chain([version]) {
                let file = hub.join(pack["url"].as_str().unwrap());
                let len = file.metadata().unwrap_or_else(|e| panic!("{}: {e}", file.display())).len();
                assert_eq!(len, pack["size_bytes"].as_u64().unwrap(), "{}", file.display());
            }
        }
    }
    versions
}

#[test]
fn fifty_publishers_at_once_lose_nothing() {
    let user = User::in_memory();
    user.with("a", 1).with("b", 2);
    let hub = user.path("hub");
    let done = std::sync::atomic::AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&hub, &done));
        let children: Vec<_> = (0..50)
            .map(|n| {
                let (tag, name) = (["a", "b"][n % 2], format!("acme/{}@v{n}", ["x", "y", "z"][n % 3]));
                let mut command = user.command(&["-q", "publish", tag, &name, "--to", "hub"]);
                command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        watcher.join().unwrap()
    });
    assert!(looks > 10, "{looks}");
    // Each of them, and `latest` of each of three packages.
    assert_eq!(look(&hub), 53);
    assert_eq!(user.ok(&["hub", "check", "hub", "--deep"]).lines().count(), 2);
}

#[test]
fn a_publisher_that_is_killed_leaves_nothing_worse_than_files_that_nothing_names() {
    let rounds = if std::env::var_os("FORKD_DEEP").is_some() { 100 } else { 20 };
    let user = User::in_memory();
    user.with("a", 1).with("b", 2);
    let hub = user.path("hub");
    let begun = Instant::now();
    user.ok(&["publish", "a", "acme/x@v0", "--to", "hub"]);
    let usual = begun.elapsed();
    let mut whole = 0;
    for round in 1..=rounds {
        let (tag, name) = (["a", "b"][round % 2], format!("acme/x@v{round}"));
        let mut child = user
            .command(&["-q", "publish", tag, &name, "--to", "hub"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // All of the way, the moments at its end more often.
        let part = (round as f64 * 0.618).fract().sqrt();
        std::thread::sleep(usual.mul_f64(part * 1.1));
        child.kill().unwrap();
        whole += usize::from(child.wait().unwrap().success());
        look(&hub);
    }
    assert!(whole < rounds, "nobody was killed");
    let report = user.json(&["hub", "check", "hub", "--deep"]);
    for fault in report["faults"].as_array().unwrap() {
        assert_eq!(fault["severity"], "warning", "{fault}");
    }
    // What it was killed at is published again, whatever is there of it.
    user.ok(&["publish", "a", "acme/x@v2", "--to", "hub", "--replace"]);
    // What a killed publisher announced counts for nothing after a day; a collector that will not wait removes it.
    std::fs::remove_dir_all(hub.join("markers")).unwrap();
    user.ok(&["hub", "gc", "hub", "--grace", "0", "--delete"]);
    let report = user.json(&["hub", "check", "hub", "--deep"]);
    assert_eq!(report["faults"], json!([]));
    look(&hub);
}

#[test]
fn a_hub_that_is_damaged_is_found_out() {
    let user = User::new();
    user.with("py", 1);
    user.ok(&["publish", "py", "acme/py@v1", "--to", "hub"]);
    let listed = registry(&user);
    let pack = user.path("hub").join(version(&listed, "acme/py", "v1")["url"].as_str().unwrap());
    let whole = std::fs::read(&pack).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, &bytes).unwrap();
    user.ok(&["hub", "check", "hub"]);
    let seen = user.run(&["hub", "check", "hub", "--deep"]);
    assert_eq!(seen.code, 6, "{}", seen.out);
    assert!(
        seen.out.contains("✗ acme/py@v#: file://~/hub/packs/") && seen.out.contains("sha# is"),
        "{}",
        seen.out
    );
    std::fs::write(&pack, &whole[1..]).unwrap();
    assert!(user.run(&["hub", "check", "hub"]).out.contains("are declared"));
    std::fs::remove_file(&pack).unwrap();
    assert_eq!(user.run(&["hub", "check", "hub"]).code, 6);
    let mut broken = listed;
    broken["packages"]["acme/py"]["versions"].as_object_mut().unwrap().remove("latest");
    std::fs::write(user.path("hub/registry.json"), broken.to_string()).unwrap();
    let seen = user.run(&["hub", "check", "hub"]);
    assert!(seen.code == 6 && seen.out.contains("has no version 'latest'"), "{}", seen.out);
}

#[test]
fn a_version_that_becomes_the_latest_again_keeps_all_that_it_had() {
    let user = User::new();
    user.with("one", 1).with("two", 2);
    user.ok(&["publish", "one", "acme/x@v1", "--to", "hub"]);
    user.ok(&["publish", "two", "acme/x@v2", "--to", "hub"]);
    let mut listed = registry(&user);
    // What somebody has written by hand stays, and is no reason to take `latest` for another version.
    listed["packages"]["acme/x"]["versions"]["v2"]["release_tag"] = json!("hub-x-v2");
    std::fs::write(user.path("hub/registry.json"), listed.to_string()).unwrap();
    let before = version(&listed, "acme/x", "v1").clone();
    let out = user.ok(&["publish", "one", "acme/x@v1", "--to", "hub"]);
    assert!(out.contains("which is `latest` now: sent # MiB"), "{out}");
    let now = registry(&user);
    assert_eq!(version(&now, "acme/x", "v1"), &before);
    assert_eq!(version(&now, "acme/x", "latest"), &before);
    assert_eq!(version(&now, "acme/x", "v2")["release_tag"], "hub-x-v2");
    user.ok(&["publish", "two", "acme/x@v2", "--to", "hub"]);
    user.ok(&["unpublish", "acme/x@v2", "--from", "hub"]);
    assert_eq!(version(&registry(&user), "acme/x", "latest"), &before);
    assert!(user.fails(2, &["unpublish", "acme/x@latest", "--from", "hub"]).contains("by its own name"));
}

#[test]
fn a_damaged_version_is_published_again() {
    let user = User::new();
    user.with("one", 1).with("two", 2);
    user.ok(&["publish", "one", "acme/x@v1", "--to", "hub"]);
    std::fs::remove_dir_all(user.path("hub/packs")).unwrap();
    assert_eq!(user.run(&["hub", "check", "hub"]).code, 6);
    // The last version cannot be had, so there is no update from it.
    let (_, noted) = user.ok_noted(&["publish", "two", "acme/x@v2", "--to", "hub"]);
    assert!(noted.contains("no update from the last version") || noted.is_empty(), "{noted}");
    user.ok_noted(&["publish", "one", "acme/x@v1", "--to", "hub", "--no-latest"]);
    user.ok(&["hub", "check", "hub", "--deep"]);
}

#[test]
fn what_is_named_in_another_way_is_not_collected() {
    let user = User::new();
    user.with("one", 1);
    user.ok(&["publish", "one", "acme/x@v1", "--to", "hub"]);
    let text = std::fs::read_to_string(user.path("hub/registry.json")).unwrap();
    for way in ["./packs/", "https://hub.example.com/packs/", "/packs/", "packs/../packs/"] {
        let spelt =
            text.replace("\"packs/", &format!("\"{way}")).replace(".tar.zst\"", ".tar.zst#sha256=x\"");
        std::fs::write(user.path("hub/registry.json"), spelt).unwrap();
        std::fs::remove_dir_all(user.path("hub/packages")).ok();
        let report = user.json(&["hub", "gc", "hub", "--grace", "0", "--delete"]);
        assert_eq!(report["deleted_blobs"], 0, "{way}: {report}");
    }
}
