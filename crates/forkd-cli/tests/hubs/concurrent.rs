//! Many who publish at the same time, and one who collects.

use crate::bucket::{json, run};
use crate::{content, other, publisher};
use forkd_testing::{DockerRegistry, SeaweedFs, often};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("concurrent::many_push_what_shares_a_base", many_push_what_shares_a_base),
    ("concurrent::collecting_never_takes_what_is_published", collecting_never_takes_what_is_published),
];

const PUSHES: usize = 20;

fn many_push_what_shares_a_base() {
    let (user, tags) = publisher(4, 6 << 20);
    let dir = tempfile::tempdir().unwrap();
    let (registry, store) = (DockerRegistry::start(dir.path()), SeaweedFs::start(dir.path()));
    let place = |n: usize| {
        [
            format!("oci://{}/acme/x{}:v{n}", registry.host, n % 5),
            format!("s3://hub/pre/acme/x{}:v{n}", n % 5),
        ]
    };
    std::thread::scope(|scope| {
        for n in 0..PUSHES {
            let (user, store, tag) = (&user, &store, &tags[n % 4]);
            scope.spawn(move || {
                for place in place(n) {
                    json(user, store, &["push", "--tag", tag, &place]);
                }
            });
        }
    });
    let registry_json = format!("{}/hub/pre/registry.json", store.endpoint);
    let listed = json(&user, &store, &["tags", "s3://hub/pre/acme/x0"]);
    assert_eq!(listed["tags"].as_array().unwrap().len(), PUSHES / 5);
    drop(registry_json);
    for n in 0..PUSHES {
        for place in place(n) {
            let to = other();
            json(&to, &store, &["pull", &place]);
            assert_eq!(content(&to, &tags[n % 4]), content(&user, &tags[n % 4]), "{place}");
            to.ok(&["verify", &tags[n % 4]]);
        }
    }
    // No version was lost from the list that everybody reads.
    let folder = user.path("mirror").display().to_string();
    let reports = json(&user, &store, &["mirror", "s3://hub/pre", &folder]);
    assert_eq!(reports.as_array().unwrap().len(), PUSHES);
    let text: serde_json::Value =
        serde_json::from_slice(&std::fs::read(user.path("mirror/registry.json")).unwrap()).unwrap();
    let versions = text["releases"].as_object().unwrap().values().map(|tags| tags.as_object().unwrap().len());
    assert_eq!(versions.sum::<usize>(), PUSHES);
}

fn collecting_never_takes_what_is_published() {
    let (user, tags) = publisher(3, 2 << 20);
    let dir = tempfile::tempdir().unwrap();
    let store = SeaweedFs::start(dir.path());
    let rounds = often(10, 50);
    for round in 0..rounds {
        let tag = &tags[round % 3];
        let place = format!("s3://hub/acme/x:{tag}");
        // What is there of it is reached by nobody, so that a collector would take it.
        json(&user, &store, &["push", "--tag", tag, &place]);
        json(&user, &store, &["rmi", "--remote", &place]);
        std::thread::scope(|scope| {
            let (user, store) = (&user, &store);
            let pushed = scope.spawn(|| json(user, store, &["push", "--tag", tag, &place]));
            let collected = scope.spawn(|| {
                run(user, store, "writer", "write", &["hub", "gc", "s3://hub", "--grace", "0", "--delete"])
            });
            pushed.join().unwrap();
            let collected = collected.join().unwrap();
            assert!(matches!(collected.code, 0 | 11), "{}", collected.err);
        });
        let to = other();
        json(&to, &store, &["pull", &place]);
        assert_eq!(content(&to, tag), content(&user, tag), "round {round}");
    }
}
