//! A registry that lets everybody in.

use crate::{content, other, publisher};
use forkd_testing::{DockerRegistry, frozen_chain};
use std::process::Command;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("registry::a_base_is_stored_and_moved_once", a_base_is_stored_and_moved_once),
    ("registry::what_users_see", what_users_see),
    ("registry::copies_by_other_tools_still_pull", copies_by_other_tools_still_pull),
    ("registry::a_neighbour_gives_its_blobs", a_neighbour_gives_its_blobs),
    ("registry::wrong_answers", wrong_answers),
    ("registry::variants_for_other_hosts", variants_for_other_hosts),
];

const MEMORY: u64 = 24 << 20;

fn a_base_is_stored_and_moved_once() {
    let (user, tags) = publisher(4, MEMORY);
    let dir = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(dir.path());
    let place = |tag: &str| format!("oci://{}/acme/chain:{tag}", registry.host);
    let mut grown = Vec::new();
    for tag in &tags {
        let before = registry.bytes();
        user.json(&["push", "--tag", tag, &place(tag)]);
        grown.push(registry.bytes() - before);
    }
    let again = user.json(&["push", "--tag", &tags[3], &place(&tags[3])]);
    assert_eq!(again["sent_bytes"], 0);
    // Deltas cost what format 3 packs them to.
    let mut packs = Vec::new();
    for (tag, parent) in tags.iter().zip([None].into_iter().chain(tags.iter().map(Some))) {
        let out = user.path(&format!("{tag}.pack"));
        let base = parent.map_or(Vec::new(), |parent| vec!["--base", parent]);
        let line = ["pack", "--format", "3", "--tag", tag, "--out", out.to_str().unwrap()];
        user.ok_noted(&[&line[..], &base].concat());
        packs.push(out.metadata().unwrap().len());
    }
    let (stored, packed): (u64, u64) = (grown.iter().sum(), packs.iter().sum());
    assert!(stored <= packed + packed / 20, "{grown:?} {packs:?}");
    let (to, fresh) = (other(), other());
    to.json(&["pull", &place(&tags[0])]);
    let report = to.json(&["pull", &place(&tags[3])]);
    let delta: u64 = grown[1..].iter().sum();
    assert!(report["downloaded_bytes"].as_u64().unwrap() <= delta + delta / 20, "{report} {delta}");
    fresh.json(&["pull", &place(&tags[3])]);
    for tag in &tags {
        assert_eq!(content(&to, tag), content(&user, tag));
        assert_eq!(content(&fresh, tag), content(&user, tag));
        fresh.ok(&["verify", tag]);
    }
}

fn what_users_see() {
    let (user, tags) = publisher(1, 2 << 20);
    let dir = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(dir.path());
    let host = &registry.host;
    let place = format!("oci://{host}/acme/x:v1");
    let shown = user.plain(&place);
    let seen = user.run(&["push", "--tag", &tags[0], &place]);
    let tag = user.plain(&tags[0]);
    assert_eq!((seen.code, seen.err.as_str()), (0, ""));
    let lines: Vec<&str> = seen.out.lines().collect();
    assert_eq!(lines[0], format!("==> publishing snapshot '{tag}' → {shown}"));
    assert_eq!(lines[1], "✓ pushed # MiB in #s (# MiB/s)");
    assert!(lines[2].starts_with("  oci://#:#/acme/x@sha#:"), "{}", lines[2]);
    assert_eq!(lines[3], format!("  next: forkd pull {shown}"));
    let seen = user.ok(&["push", "--tag", &tags[0], &place]);
    assert!(seen.contains("✓ nothing to send: all of # MiB is there already"), "{seen}");
    assert_eq!(user.ok(&["tags", &format!("oci://{host}/acme/x")]), "v#\n");
    let to = other();
    let dry = to.ok(&["pull", "--dry-run", &place]);
    assert!(dry.contains("would fetch # MiB from"), "{dry}");
    assert!(to.is_untouched());
    let seen = to.ok_noted(&["pull", &place]);
    assert!(seen.0.contains("✓ downloaded # MiB\n✓ sha# verified ("), "{seen:?}");
    let seen = to.ok_noted(&["pull", &place]);
    assert!(seen.0.contains("✓ nothing to download"), "{seen:?}");
    // By the digest, and not by another one.
    let digest = user.json(&["push", "--tag", &tags[0], &place])["digest"].as_str().unwrap().to_owned();
    other().ok_noted(&["pull", &format!("oci://{host}/acme/x@sha256:{digest}")]);
    let error = to.fails(3, &["pull", &format!("oci://{host}/acme/x@sha256:{}", "0".repeat(64))]);
    assert!(error.contains("no 'sha#:"), "{error}");
    let error = to.fails(3, &["pull", &format!("oci://{host}/acme/x:v2")]);
    assert!(error.contains("has no 'v#' in 'acme/x'; there are: v#"), "{error}");
    let error = to.fails(3, &["pull", &format!("oci://{host}/acme/none")]);
    assert!(error.contains("acme/none"), "{error}");
    assert_eq!(to.ok(&["rmi", "--remote", &place]), "✓ removed 'v#' from oci://#:#/acme/x\n");
    to.fails(3, &["rmi", "--remote", &place]);
    to.fails(3, &["pull", "--force", &place]);
    for (code, args) in [
        (2, &["push", "--tag", &tags[0], &format!("oci://{host}/acme/x@sha256:{digest}")][..]),
        (2, &["push", "--tag", &tags[0], "oci://nowhere"]),
        (2, &["push", "--format", "1", "--tag", &tags[0], &place]),
        (3, &["push", "--tag", "none", &place]),
        (3, &["push", "--tag", &tags[0], "--base", "none", &place]),
        (2, &["tags", "https://x/y"]),
        (2, &["rmi"]),
    ] {
        user.fails(code, args);
    }
    drop(registry);
    assert!(to.fails(5, &["pull", &place]).contains("cannot connect"));
}

fn copies_by_other_tools_still_pull() {
    let (user, tags) = publisher(2, 4 << 20);
    let dir = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(dir.path());
    let host = &registry.host;
    user.json(&["push", "--tag", &tags[1], &format!("oci://{host}/acme/x:v1")]);
    let skopeo = |from: &str, to: &str| {
        let args = ["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", from, to];
        let output = Command::new("skopeo").args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let layout = dir.path().join("layout");
    skopeo(&format!("docker://{host}/acme/x:v1"), &format!("docker://{host}/copied/x:v2"));
    skopeo(&format!("docker://{host}/acme/x:v1"), &format!("oci:{}:v3", layout.display()));
    for place in [format!("oci://{host}/copied/x:v2"), format!("oci-layout:{}:v3", layout.display())] {
        let to = other();
        to.ok_noted(&["pull", &place]);
        assert_eq!(content(&to, &tags[1]), content(&user, &tags[1]));
    }
    let there = Command::new("python3").args(["-c", "import oras.client"]).output().unwrap().status.success();
    if std::env::var_os("FORKD_TEST_GUESTS").is_none() && !there {
        return;
    }
    let script = "import sys, oras.client\n\
oras.client.OrasClient(insecure=True).pull(target=sys.argv[1], outdir=sys.argv[2], allowed_media_type=[])";
    let out = dir.path().join("oras");
    std::fs::create_dir(&out).unwrap();
    let output = Command::new("python3")
        .args(["-c", script, &format!("{host}/acme/x:v1"), out.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(out.join("index").exists());
}

fn a_neighbour_gives_its_blobs() {
    let (user, tags) = publisher(1, 4 << 20);
    let dir = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(dir.path());
    let place = |name: &str| format!("oci://{}/{name}:v1", registry.host);
    user.json(&["push", "--tag", &tags[0], &place("acme/one")]);
    let second = user.json(&["push", "--tag", &tags[0], &place("acme/two")]);
    // Its frames were taken over; the two documents are small.
    assert!(second["sent_bytes"].as_u64().unwrap() < 10_000, "{second}");
    other().ok_noted(&["pull", &place("acme/two")]);
}

fn wrong_answers() {
    let (user, tags) = publisher(1, 4 << 20);
    let dir = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(dir.path());
    let place = format!("oci://{}/acme/x:v1", registry.host);
    user.json(&["push", "--tag", &tags[0], &place]);
    let layout = format!("oci-layout:{}:v1", dir.path().join("layout").display());
    user.json(&["push", "--tag", &tags[0], &layout]);
    // Other bytes under the same digests: refused, and nothing is visible.
    let list = std::fs::read_dir(dir.path().join("layout/blobs/sha256")).unwrap();
    let names: Vec<String> = list.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for name in names {
        let path = registry.blob(&name);
        let kept = std::fs::read(&path).unwrap();
        let mut other_bytes = kept.clone();
        other_bytes[kept.len() / 2] ^= 4;
        std::fs::write(&path, &other_bytes).unwrap();
        let to = other();
        let seen = to.run(&["pull", &place]);
        let error = seen.err;
        // Of a manifest the registry itself finds out.
        assert!(seen.code == 6 || (seen.code == 5 && error.contains("Internal Server Error")), "{error}");
        to.ok(&["gc"]);
        assert!(to.is_untouched(), "{name}: {error}");
        std::fs::write(&path, &kept).unwrap();
    }
    // A container image is none of ours.
    let image = dir.path().join("image");
    let run = |args: &[&str]| {
        let output = Command::new("umoci").args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["init", "--layout", image.to_str().unwrap()]);
    run(&["new", "--image", &format!("{}:v1", image.display())]);
    let error = other().fails(6, &["pull", &format!("oci-layout:{}:v1", image.display())]);
    assert!(error.contains("no snapshot's"), "{error}");
}

/// A snapshot that says what QEMU's have said so far, for another accelerator.
pub(crate) fn retarget(user: &crate::common::User, tag: &str, accel: &str) {
    let path = user.snapshot(tag, "snapshot.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["engine"]["accel"] = accel.into();
    json["engine"]["arch"] = "x86_64".into();
    json["engine"]["devices"] = serde_json::json!([
        "q35 without sata, smbus, usb",
        "virtio-blk-pci@3",
        "virtio-serial-pci@4",
        "virtio-net-pci@5"
    ]);
    json["guest"] = serde_json::json!({ "protocol": 1 });
    std::fs::write(&path, json.to_string()).unwrap();
}

fn variants_for_other_hosts() {
    let (user, _) = publisher(1, 2 << 20);
    // The same snapshot, as other bakes would have made it.
    let (one, _) = frozen_chain(&user.store(), "tcg", 1, 2 << 20);
    let (two, _) = frozen_chain(&user.store(), "odd", 1, 3 << 20);
    retarget(&user, &one[0], "tcg");
    retarget(&user, &two[0], "other");
    let dir = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(dir.path());
    let place = format!("oci://{}/acme/x:v1", registry.host);
    let hub = user.path("hub").display().to_string();
    for tag in [&two[0], &one[0]] {
        user.ok(&["push", "--variant", "--tag", tag, &place]);
        user.ok(&["push", "--variant", "--tag", tag, "acme/x@v1", "--hub", &hub]);
    }
    // Of what is there only the list with one variant is reached by nobody.
    let collected = user.json(&["hub", "gc", &hub, "--grace", "0", "--delete"]);
    assert_eq!(collected["deleted_blobs"], 1);
    let stick = format!("oci-layout:{}", dir.path().join("stick").display());
    user.ok(&["mirror", &format!("oci://{}", registry.host), &stick, "acme/x"]);
    for args in [
        vec!["pull", place.as_str()],
        vec!["pull", "acme/x@v1", "--hub", hub.as_str()],
        vec!["pull", &format!("{stick}:v1")],
    ] {
        let to = other();
        let (out, _) = to.ok_noted(&args);
        assert!(
            out.contains("→ variant qemu-tcg Nehalem-v#: runs here (there are also: qemu-other Nehalem-v#)"),
            "{out}"
        );
        assert_eq!(content(&to, &one[0]), content(&user, &one[0]));
    }
    // One that is there for the same engine gives way.
    user.ok(&["push", "--variant", "--tag", &one[0], &place]);
    // A push without the word takes the place of all.
    user.ok(&["push", "--tag", &two[0], &place]);
    let (out, _) = other().ok_noted(&["pull", &place]);
    assert!(!out.contains("variant"), "{out}");
}
