//! Hubs that need no server of their own: folders, and any web server before one.

use crate::{content, other, publisher};
use forkd_testing::TestHub;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("folder::a_folder_is_a_hub", a_folder_is_a_hub),
    ("folder::a_layout_is_carried_away", a_layout_is_carried_away),
    ("folder::a_server_with_faults", a_server_with_faults),
    ("folder::a_server_is_told_what_is_for_it", a_server_is_told_what_is_for_it),
];

fn a_folder_is_a_hub() {
    let (user, tags) = publisher(2, 4 << 20);
    let folder = user.path("hub");
    let hub = folder.display().to_string();
    user.ok(&["push", "--tag", &tags[0], "acme/x@base", "--hub", &hub]);
    user.ok(&["push", "--tag", &tags[1], "acme/x", "--hub", &hub]);
    // By the folder, by its registry, and by a web server before it.
    let server = TestHub::start(&folder);
    for place in [hub.clone(), format!("{hub}/registry.json"), server.url("registry.json")] {
        let to = other();
        to.ok_noted(&["pull", "acme/x", "--hub", &place]);
        assert_eq!(content(&to, &tags[1]), content(&user, &tags[1]));
    }
    let error = other().fails(3, &["pull", "acme/x@v9", "--hub", &hub]);
    assert!(error.contains("there are: base, latest"), "{error}");
    let digest = user.json(&["push", "--tag", &tags[1], "acme/x", "--hub", &hub])["digest"].clone();
    let pinned = format!("acme/x@sha256:{}", digest.as_str().unwrap());
    other().ok_noted(&["pull", &pinned, "--hub", &hub]);
    other().fails(6, &["pull", &format!("acme/x@sha256:{}", "1".repeat(64)), "--hub", &hub]);
    user.fails(2, &["push", "--tag", &tags[0], "acme/x"]);
    assert!(user.ok(&["hub", "gc", &hub]).starts_with("✓ nothing to delete"));
    user.fails(2, &["hub", "gc", "oci://127.0.0.1:1/x"]);
    user.fails(2, &["hub", "gc", &hub, "--grace", "-1"]);
}

fn a_layout_is_carried_away() {
    let (user, tags) = publisher(2, 4 << 20);
    let (hub, stick) =
        (user.path("hub").display().to_string(), format!("oci-layout:{}", user.path("stick").display()));
    user.ok(&["push", "--tag", &tags[0], "acme/x@v1", "--hub", &hub]);
    user.ok(&["push", "--tag", &tags[1], "acme/x@v2", "--hub", &hub]);
    let seen = user.ok(&["mirror", &hub, &stick, "acme/x"]);
    assert_eq!(seen.lines().count(), 2, "{seen}");
    assert!(seen.contains("/stick:v#: moved # MiB, # MiB were there"), "{seen}");
    user.fails(2, &["mirror", &stick, &hub]);
    let far = other();
    let layout = user.path("stick");
    let there = far.path("there").display().to_string();
    far.json(&["mirror", &format!("oci-layout:{}", layout.display()), &there, "acme/x"]);
    far.ok_noted(&["pull", "acme/x@v2", "--hub", &there]);
    assert_eq!(content(&far, &tags[1]), content(&user, &tags[1]));
    // Digests are the same on both sides.
    let digest = |hub: &str| {
        let text = std::fs::read(format!("{hub}/releases/acme/x/v2.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()["digest"].clone()
    };
    assert_eq!(digest(&hub), digest(&there));
}

fn a_server_with_faults() {
    let (user, tags) = publisher(1, 8 << 20);
    let folder = user.path("hub");
    user.ok(&["push", "--tag", &tags[0], "acme/x", "--hub", &folder.display().to_string()]);
    let server = TestHub::start(&folder);
    for path in [
        "random/20/registry.json",
        "once-cut/100000/registry.json",
        "noranges/registry.json",
        "noetag/registry.json",
    ] {
        let to = other();
        to.ok_noted(&["pull", "acme/x", "--hub", &server.url(path)]);
        assert_eq!(content(&to, &tags[0]), content(&user, &tags[0]), "{path}");
    }
}

fn a_server_is_told_what_is_for_it() {
    let (user, tags) = publisher(1, 2 << 20);
    let folder = user.path("hub");
    user.ok(&["push", "--tag", &tags[0], "acme/x", "--hub", &folder.display().to_string()]);
    let server = TestHub::start(&folder);
    let hub = server.url("registry.json");
    for netrc in [false, true] {
        let to = other();
        let mut command = to.command(&["pull", "acme/x", "--hub", &hub]);
        if netrc {
            std::fs::write(to.path(".netrc"), "machine 127.0.0.1 login u password p").unwrap();
        } else {
            command.env("FORKD_HUB_TOKEN", "hunter2");
        }
        let before = server.requests().len();
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(server.requests()[before..].iter().all(|request| request.authorised));
        // Another server, to which the first one leads, is told nothing.
        let elsewhere = TestHub::start(&folder);
        let mut command =
            to.command(&["pull", "--force", "acme/x", "--hub", &elsewhere.url("registry.json")]);
        assert!(command.output().unwrap().status.success());
        assert_eq!(elsewhere.requests().iter().any(|request| request.authorised), netrc);
    }
}
