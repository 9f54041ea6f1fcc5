//! `forkd pull`, of stream packs from a real web server and a folder; its other sides in files of their own.

mod crowd;
mod dry_run;
mod faults;
mod paged;
mod partial;
mod pin;
mod proxy;
mod resume;

use crate::common::{User, names, three_links};
use forkd_testing::{SIGNATURE, TestHub, sha256, tree};

/// A publisher with a pack in a hub's folder, listed in its registry as `acme/py`.
fn published(tag: &str) -> (User, TestHub) {
    let user = User::new();
    let dir = user.path("hub");
    std::fs::create_dir(&dir).unwrap();
    let hub = TestHub::start(&dir);
    user.with(tag, 1);
    let url = hub.url(&format!("py.zst?{SIGNATURE}"));
    user.ok(&["push", "--tag", tag, &url]);
    let size = dir.join("py.zst").metadata().unwrap().len();
    let entry =
        format!(r#"{{"url":"py.zst","sha256":"{}","size_bytes":{size}}}"#, sha256(&dir.join("py.zst")));
    let registry = format!(
        r#"{{"_about":"x","schema_version":1,"packages":{{"acme/py":{{"versions":{{"latest":{entry},"v1":{entry}}}}}}}}}"#
    );
    std::fs::write(dir.join("registry.json"), registry).unwrap();
    (user, hub)
}

fn replace_registry(user: &User, from: &str, to: &str) {
    let path = user.path("hub/registry.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn pull_by_short_name_and_again() {
    let (publisher, hub) = published("python-numpy");
    let user = User::new();
    let registry = hub.url("registry.json");
    let digest = sha256(&publisher.path("hub/py.zst"));
    let output = user.command(&["pull", "acme/py"]).env("FORKD_HUB_URL", &registry).output().unwrap();
    assert_eq!(
        user.seen(&output).out,
        user.plain(&format!(
            "→ resolves via {registry}
✓ downloaded 1.0 MiB
✓ sha256 verified ({}...)
✓ unpacked tag 'python-numpy' at ~/data/forkd/snapshots/python-numpy/
  next: forkd fork --tag python-numpy -n <N>
",
            &digest[..8]
        ))
    );
    let before = hub.requests().len();
    let again = user.ok(&["pull", "acme/py@v1", "--hub", &registry]);
    assert!(again.contains("✓ nothing to download: all of it is here already"), "{again}");
    let paths: Vec<String> = hub.requests()[before..].iter().map(|asked| asked.uri.clone()).collect();
    assert_eq!(paths, ["/registry.json"], "the pack was not asked for");
    // Under another tag it is fetched again; the tag that a pull promises is there afterwards.
    user.ok(&["pull", "acme/py", "--hub", &registry, "--tag", "other"]);
    user.ok(&["rmi", "python-numpy"]);
    user.ok(&["pull", "acme/py", "--hub", &registry]);
    user.ok(&["verify", "python-numpy"]);
}

#[test]
fn pull_by_url() {
    let (publisher, hub) = published("py");
    let digest = sha256(&publisher.path("hub/py.zst"));
    let user = User::new();
    let out = user.ok(&["pull", &hub.url("redirect/redirect/py.zst?token=abc")]);
    assert!(
        out.contains("! no sha# was given for the pack: only the digests in its own manifest were checked"),
        "{out}"
    );
    user.ok(&["rmi", "py"]);
    assert!(
        user.ok(&["pull", &format!("{}#sha256={digest}", hub.url("flaky/2/py.zst"))])
            .contains("✓ sha# verified")
    );
    let wrong = format!("{}#sha256={}", hub.url("py.zst"), "0".repeat(64));
    let before = tree(&user.store());
    assert!(user.fails(6, &["pull", &wrong]).contains("Nothing was unpacked"));
    assert!(user.fails(2, &["pull", &format!("{}#sha265=1", hub.url("py.zst"))]).contains("fragment"));
    assert_eq!(tree(&user.store()), before);
    user.ok(&["rmi", "py"]);
    let none = User::new();
    for (path, code) in [
        ("nothing.zst", 3),
        ("status/401/py.zst", 4),
        ("status/403/py.zst", 4),
        ("status/500/py.zst", 5),
        ("cut/50000/py.zst", 5),
        ("stall/50000/py.zst", 5),
        ("registry.json", 6),
        ("noranges/endless/py.zst", 6),
    ] {
        none.fails(code, &["pull", &hub.url(path)]);
        // What has come of a pack that others may still send is for the next run, or for gc.
        let kept = usize::from(path.contains("/50000/"));
        let partial = none.path("data/forkd/partial");
        assert_eq!(names(&partial, "stream-"), kept, "{path} leaves {:?}", tree(&none.store()));
        assert!(!none.path("data/forkd/snapshots").exists() && !none.path("data/forkd/staging").exists());
        none.run(&["gc"]);
        assert!(none.is_untouched(), "{path} leaves {:?}", tree(&none.store()));
    }
    // Where the server gives ranges, it was told how much to send.
    none.ok(&["pull", &hub.url("endless/py.zst")]);
    none.ok(&["rmi", "py"]);
    let file = format!("file://{}", publisher.path("hub/py.zst").display());
    none.ok(&["pull", &file]);
    assert!(none.ok(&["pull", &file]).contains("nothing to download"));
    assert!(none.fails(2, &["pull", "not-a-reference"]).contains("owner/name"));
}

#[test]
fn a_registry_is_held_to_its_word() {
    let (publisher, hub) = published("py");
    let user = User::new();
    let registry = hub.url("registry.json");
    let pull = |code: i32, name: &str| user.fails(code, &["pull", name, "--hub", &registry]);
    assert!(pull(3, "acme/px").contains("no 'acme/px' in"));
    assert!(pull(3, "other/py").contains("similar: acme/py"));
    assert!(pull(3, "acme/py@v9").contains("there are: latest, v#"));
    assert!(pull(6, &format!("acme/py@sha256:{}", "0".repeat(64))).contains("the reference pins"));
    let digest = sha256(&publisher.path("hub/py.zst"));
    replace_registry(&publisher, &digest, &"1".repeat(64));
    assert!(pull(6, "acme/py").contains("Nothing was unpacked"));
    replace_registry(&publisher, &"1".repeat(64), &digest);
    let size = publisher.path("hub/py.zst").metadata().unwrap().len();
    replace_registry(&publisher, &format!(":{size}}}"), ":7}");
    assert!(pull(6, "acme/py").contains("the registry declares #"));
    replace_registry(&publisher, "\"py.zst\"", "\"file:///etc/passwd\"");
    assert!(pull(6, "acme/py").contains("names a file of this host"));
    replace_registry(&publisher, "acme/py", "acme/\\u001b[31mpy");
    assert!(!pull(3, "acme/py").contains('\x1b'));
    replace_registry(&publisher, "\"latest\"", "\"newest\"");
    assert!(pull(6, "acme/py").contains("no version 'latest'"));
    assert!(user.is_untouched());
    let out = user.run(&["inspect", "acme/py", "--hub", &registry]);
    assert_eq!(out.code, 6);
}

#[test]
fn a_registry_in_a_folder_serves_too() {
    let (publisher, hub) = published("py");
    drop(hub);
    let user = User::new();
    let registry = format!("file://{}", publisher.path("hub/registry.json").display());
    assert!(user.ok(&["pull", "acme/py", "--hub", &registry]).contains("✓ sha# verified"));
    let inspected = user.json(&["inspect", "acme/py", "--hub", &registry]);
    assert_eq!(inspected["size_bytes"], publisher.path("hub/py.zst").metadata().unwrap().len());
}

#[test]
fn many_pulls_at_once_download_once() {
    let (_publisher, hub) = published("py");
    let user = User::new();
    let registry = hub.url("registry.json");
    let children: Vec<_> = (0..12)
        .map(|_| user.command(&["pull", "acme/py", "--hub", &registry, "-q"]).spawn().unwrap())
        .collect();
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    let downloads =
        hub.requests().iter().filter(|asked| asked.method == "GET" && asked.uri == "/py.zst").count();
    assert_eq!(downloads, 1);
    user.ok(&["verify", "py"]);
}

#[test]
fn a_chain_travels_whole() {
    let (publisher, user) = (User::new(), User::new());
    three_links(&publisher);
    std::fs::create_dir(publisher.path("hub")).unwrap();
    let hub = TestHub::start(&publisher.path("hub"));
    publisher.ok(&["push", "--tag", "top", &hub.url(&format!("c.zst?{SIGNATURE}"))]);
    let pinned = format!("{}#sha256={}", hub.url("c.zst"), sha256(&publisher.path("hub/c.zst")));
    assert!(user.ok(&["pull", &pinned]).contains("✓ unpacked # chain link(s), head = 'top'"));
    assert!(user.ok(&["pull", &pinned]).contains("nothing to download"));
    assert_eq!(user.ok(&["verify", "top"]), "✓ verified 'top': # files and # chain edge(s), # MiB\n");
}
