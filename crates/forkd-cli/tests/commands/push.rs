//! `forkd push` to a real web server.

use crate::common::{User, before_digest, names};
use forkd_testing::{SIGNATURE, TestHub};
use std::time::{Duration, Instant};

#[test]
fn push_prints_its_steps_and_never_the_signature() {
    let user = User::new();
    std::fs::create_dir(user.path("hub")).unwrap();
    let hub = TestHub::start(&user.path("hub"));
    user.with("py", 1);
    let url = hub.url(&format!("py.zst?{SIGNATURE}"));
    let seen = user.run(&["push", "--tag", "py", &url]);
    assert_eq!(
        (seen.code, before_digest(&seen.out), seen.err.as_str()),
        (
            0,
            "==> packing snapshot 'py' → ~/tmp/forkd-push-#-py.tar.zst
    packed # MiB (#× compression) in #s
✓ pushed # MiB in #s (# MiB/s)
",
            ""
        )
    );
    assert_eq!(names(&user.tmp(), "forkd-push-"), 0);
    user.ok(&["verify", "hub/py.zst"]);
    for (path, code) in [
        ("py.zst?X-Amz-Signature=wrong", 4),
        ("status/404/x", 3),
        ("status/503/x", 5),
        ("status/400/x", 1),
        ("redirect/py.zst?a=b", 1),
    ] {
        let error = user.fails(code, &["push", "--tag", "py", &hub.url(path)]);
        assert!(!error.contains("Signature") && !error.contains("a=b"), "{error}");
        assert_eq!(names(&user.tmp(), "forkd-push-"), 0, "{path}");
    }
    let stalled = user.fails(5, &["push", "--tag", "py", &hub.url(&format!("stall/1/py.zst?{SIGNATURE}"))]);
    assert!(stalled.contains("no byte in"), "{stalled}");
    assert!(user.fails(3, &["push", "--tag", "none", &url]).contains("'none'"));
    assert!(user.fails(2, &["push", "--tag", "py", "ftp://h/x"]).contains("ftp"));
    drop(hub);
    assert!(user.fails(5, &["push", "--tag", "py", &url]).contains("cannot connect"));
    assert_eq!(
        user.json(&["push", "--tag", "py", &format!("file://{}", user.path("hub/f.zst").display())])["tag"],
        "py"
    );
    user.ok(&["verify", "hub/f.zst"]);
}

#[test]
fn push_asks_before_it_packs() {
    let user = User::new();
    std::fs::create_dir(user.path("hub")).unwrap();
    let hub = TestHub::start(&user.path("hub"));
    user.with("py", 1);
    let at = |name: &str| format!("file://{}", user.path(name).display());
    for (url, code, words) in [
        (hub.url("readonly/py.zst"), 1, "the server takes no uploads there (Allow: GET, HEAD)"),
        ("http://127.0.0.1:1/py.zst".to_owned(), 5, "cannot connect"),
        (at("none/py.zst"), 3, "there is no folder ~/none"),
        (at("hub"), 2, "~/hub is a folder; name a file in it"),
        ("file:///proc/py.zst".to_owned(), 3, "cannot create a file in /proc: "),
    ] {
        let seen = user.run(&["push", "--tag", "py", &url]);
        assert_eq!(seen.code, code, "{}", seen.err);
        assert!(seen.err.contains(&user.plain(words)), "{}", seen.err);
        assert!(!seen.out.contains("packed"), "{}", seen.out);
    }
    assert_eq!(names(&user.path("hub"), ""), 0);
}

#[test]
fn an_interrupted_push_removes_its_pack() {
    for signal in ["-INT", "-TERM"] {
        let user = User::new();
        std::fs::create_dir(user.path("hub")).unwrap();
        let hub = TestHub::start(&user.path("hub"));
        user.with("py", 1);
        let url = hub.url(&format!("stall/1/py.zst?{SIGNATURE}"));
        let mut child = user
            .command(&["push", "--tag", "py", &url])
            .env("FORKD_STALL_TIMEOUT_MS", "60000")
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while !hub.requests().iter().any(|asked| asked.method == "PUT") {
            assert!(begun.elapsed() < Duration::from_secs(20), "no request came");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(names(&user.tmp(), "forkd-push-"), 1);
        std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert_eq!(names(&user.tmp(), "forkd-push-"), 0);
        assert!(!user.path("hub/py.zst").exists());
    }
}
