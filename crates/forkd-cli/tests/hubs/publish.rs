//! Versions on buckets and registries.

use crate::bucket::{json, run};
use crate::registry::retarget;
use crate::{content, other, publisher};
use forkd_testing::{DockerRegistry, SeaweedFs, frozen_chain};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("publish::fifty_publish_to_one_bucket", fifty_publish_to_one_bucket),
    ("publish::a_bucket_is_a_hub_of_versions", a_bucket_is_a_hub_of_versions),
    ("publish::versions_for_other_hosts", versions_for_other_hosts),
    ("publish::a_registry_takes_versions_as_releases", a_registry_takes_versions_as_releases),
];

const PUBLISHERS: usize = 50;

fn fifty_publish_to_one_bucket() {
    let (user, tags) = publisher(3, 1 << 20);
    let dir = tempfile::tempdir().unwrap();
    let store = SeaweedFs::start(dir.path());
    let name = |n: usize| format!("acme/x{}@v{n}", n % 3);
    std::thread::scope(|scope| {
        for n in 0..PUBLISHERS {
            let (user, store, tag) = (&user, &store, &tags[n % 3]);
            scope.spawn(move || json(user, store, &["publish", tag, &name(n), "--to", "s3://hub/pre"]));
        }
    });
    let found = json(&user, &store, &["search", "--hub", "s3://hub/pre"]);
    let packages = found["hubs"][0]["packages"].as_array().unwrap();
    let versions = packages.iter().map(|package| package["versions"].as_array().unwrap().len());
    // Each of them, and `latest` of each of three packages.
    assert_eq!((packages.len(), versions.sum::<usize>()), (3, PUBLISHERS + 3));
    let report = json(&user, &store, &["hub", "check", "s3://hub/pre", "--deep"]);
    assert_eq!(report["faults"].as_array().unwrap().len(), 0, "{report}");
}

fn a_bucket_is_a_hub_of_versions() {
    let (user, tags) = publisher(2, 1 << 20);
    let dir = tempfile::tempdir().unwrap();
    let store = SeaweedFs::start(dir.path());
    let hub = "s3://hub/pre";
    json(&user, &store, &["hub", "init", hub]);
    json(&user, &store, &["publish", &tags[0], "acme/x@v1", "--to", hub]);
    let to = other();
    json(&to, &store, &["pull", "acme/x", "--hub", hub]);
    json(&user, &store, &["publish", &tags[1], "acme/y@v1", "--to", hub]);
    let lock = to.path("forkd.lock").display().to_string();
    json(&to, &store, &["lock", "acme/y", "--hub", hub, "--file", &lock]);
    let text = std::fs::read_to_string(&lock).unwrap();
    assert!(!text.contains("Signature") && text.contains("hub = \"s3://hub/pre\""), "{text}");
    json(&to, &store, &["pull", &format!("--locked={lock}")]);
    assert_eq!(content(&to, &tags[1]), content(&user, &tags[1]));
    // Somebody who may only read publishes nothing.
    let seen = run(&user, &store, "reader", "read", &["publish", &tags[0], "acme/z@v1", "--to", hub]);
    assert_eq!(seen.code, 4, "{}", seen.err);
    json(&user, &store, &["unpublish", "acme/x@v1", "--from", hub]);
    let seen = run(&other(), &store, "writer", "write", &["pull", "acme/x", "--hub", hub]);
    assert_eq!(seen.code, 3, "{}", seen.err);
    // A lockfile outlives the list; what it names goes with the packs.
    let report = json(&user, &store, &["hub", "gc", hub, "--grace", "0", "--delete"]);
    assert!(report["deleted_blobs"].as_u64().unwrap() >= 2, "{report}");
    assert_eq!(json(&user, &store, &["hub", "check", hub, "--deep"])["faults"].as_array().unwrap().len(), 0);
}

fn a_registry_takes_versions_as_releases() {
    let (user, tags) = publisher(2, 1 << 20);
    let dir = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(dir.path());
    let hub = format!("oci://{}/ns", registry.host);
    user.ok(&["publish", &tags[0], "acme/x@v1", "--to", &hub]);
    // The same again is no news; another one is refused.
    user.ok(&["publish", &tags[0], "acme/x@v1", "--to", &hub]);
    let error = user.fails(1, &["publish", &tags[1], "acme/x@v1", "--to", &hub]);
    assert!(error.contains("is published already, with other bytes"), "{error}");
    user.ok(&["publish", &tags[1], "acme/x@v2", "--to", &hub, "--no-latest"]);
    let to = other();
    to.ok_noted(&["pull", "acme/x", "--hub", &hub]);
    assert_eq!(content(&to, &tags[0]), content(&user, &tags[0]));
    user.ok(&["publish", &tags[1], "acme/x@v2", "--to", &hub]);
    assert!(to.ok(&["update", "--hub", &hub]).contains("can move to latest"));
    to.ok_noted(&["update", "--all", "--hub", &hub]);
    assert!(to.ok(&["update", "--hub", &hub]).contains("is the newest"));
    assert!(to.ok(&["show", "acme/x", "--hub", &hub]).contains("here        yes"));
    let found = to.json(&["search", "--hub", &hub]);
    assert_eq!(found["hubs"][0]["packages"][0]["name"], "acme/x");
    let lock = to.path("l").display().to_string();
    to.ok(&["lock", "acme/x@v1", "--hub", &hub, "--file", &lock]);
    let third = other();
    third.ok_noted(&["pull", &format!("--locked={lock}")]);
    assert_eq!(content(&third, &tags[0]), content(&user, &tags[0]));
}

fn versions_for_other_hosts() {
    let (user, _) = publisher(1, 1 << 20);
    // The same snapshot, as other bakes would have made it.
    let (one, _) = frozen_chain(&user.store(), "tcg", 1, 2 << 20);
    let (two, _) = frozen_chain(&user.store(), "odd", 1, 3 << 20);
    retarget(&user, &one[0], "tcg");
    retarget(&user, &two[0], "other");
    // 0.5.x hosts take the first one, whatever it is for.
    user.ok(&["publish", &two[0], "acme/x@v1", "--to", "hub"]);
    user.ok(&["publish", &one[0], "acme/x@v1", "--to", "hub", "--variant"]);
    user.ok(&["publish", &one[0], "acme/x@v1", "--to", "hub", "--variant"]);
    let hub = user.path("hub").display().to_string();
    let to = other();
    let (out, _) = to.ok_noted(&["pull", "acme/x", "--hub", &hub]);
    let why = "→ variant qemu-tcg Nehalem-v#: runs here (there are also: qemu-other Nehalem-v#); format #";
    assert!(out.contains(why), "{out}");
    assert_eq!(content(&to, &one[0]), content(&user, &one[0]));
    let shown = to.ok(&["show", "acme/x", "--hub", &hub]);
    assert!(shown.contains("  or          qemu"), "{shown}");
    // Both are looked after.
    let report = user.json(&["hub", "gc", "hub", "--grace", "0", "--delete"]);
    assert_eq!(report["deleted_blobs"], 0, "{report}");
    let report = user.json(&["hub", "check", "hub", "--deep"]);
    assert_eq!(
        (report["artifacts"].as_u64(), report["faults"].as_array().unwrap().len()),
        (Some(4), 0),
        "{report}"
    );
    let lock = to.path("l").display().to_string();
    to.ok(&["lock", "acme/x", "--hub", &hub, "--file", &lock]);
    let third = other();
    let (out, _) = third.ok_noted(&["pull", &format!("--locked={lock}")]);
    assert!(out.contains("variant qemu-tcg"), "{out}");
    // Where a host runs none it is told before bytes move.
    user.ok(&["publish", &two[0], "acme/y@v1", "--to", "hub"]);
    let shown = to.ok(&["show", "acme/y", "--hub", &hub]);
    assert!(shown.contains("  ! not here"), "{shown}");
}
