//! `forkd snapshot`.

use crate::common::User;
use crate::{bake, busybox, nothing_is_left, user_with_demo};
use std::os::unix::fs::FileExt;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_baked_machine_is_sealed_and_described", a_baked_machine_is_sealed_and_described),
    ("guests_that_do_not_come_up_leave_no_tag", guests_that_do_not_come_up_leave_no_tag),
    ("files_that_are_none_are_named", files_that_are_none_are_named),
    ("a_full_disk_leaves_no_tag", a_full_disk_leaves_no_tag),
    ("an_altered_machine_is_not_forked", an_altered_machine_is_not_forked),
    ("what_does_not_fit_this_host_is_refused_at_once", what_does_not_fit_this_host_is_refused_at_once),
];

fn a_baked_machine_is_sealed_and_described() {
    let user = User::new();
    let seen = bake(
        &user,
        "demo",
        &busybox(),
        &["--warm", "echo one; echo two >&2; sleep 1000 &", "--ready", "test -e /proc"],
    );
    assert_eq!(seen.code, 0, "{}", seen.err);
    assert_eq!(
        seen.out,
        "==> baking snapshot 'demo' (# MiB of memory, tcg)\n✓ snapshot 'demo' at ~/data/forkd/snapshots/demo/ in #s (boot #s, warm \
         #s, trial fork #s)\n  next: forkd fork --tag demo -n <N>\n"
    );
    let mut words: Vec<&str> = seen.err.lines().filter(|line| line.starts_with("  | ")).collect();
    words.sort_unstable();
    assert_eq!(words, ["  | one", "  | two"], "{}", seen.err);
    user.ok(&["verify", "demo"]);
    assert!(bake(&user, "demo", &busybox(), &[]).err.contains("'demo' is already at"));
    let text = std::fs::read_to_string(user.snapshot("demo", "snapshot.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["engine"]["machine"], "pc-q35-7.2");
    for (key, name) in [("memory", "memory.bin"), ("vmstate", "vmstate"), ("rootfs", "rootfs.ext4")] {
        assert_eq!(
            json["frozen"][key]["sha256"],
            forkd_testing::sha256(&user.snapshot("demo", name)),
            "{name}"
        );
    }
    let home = user.dir.path().display().to_string();
    let (_, rest) = text.split_once("\"frozen\"").unwrap();
    assert_eq!(text.matches(&home).count(), 2, "no path but the two that 0.5.x writes: {rest}");
    nothing_is_left(&user);
}

fn guests_that_do_not_come_up_leave_no_tag() {
    let user = User::new();
    let zeros = user.path("zeros.ext4");
    std::fs::write(&zeros, vec![0; 1 << 20]).unwrap();
    let zeros = zeros.display().to_string();
    let busybox = busybox();
    let cases: [(&str, &[&str], &str); 6] = [
        (&zeros, &[], "cannot mount /dev/vda"),
        (&busybox, &["--append", "forkd.nothing=1 init=/none rdinit=/none panic=-1"], "console ends with"),
        (&busybox, &["--warm", "echo oh no >&2; exit 3"], "the warm command ended with exit code #"),
        (
            &busybox,
            &["--ready", "echo not yet; false", "--boot-wait-secs", "12"],
            "the guest is not ready after",
        ),
        (&busybox, &["--warm", "echo c > /proc/sysrq-trigger"], "console ends with"),
        (
            &busybox,
            &["--warm", "dd if=/dev/urandom of=/big bs=1M 2>&1 && echo fits"],
            "No space left on device",
        ),
    ];
    for (rootfs, more, expected) in cases {
        let seen = bake(&user, "demo", rootfs, more);
        assert_eq!(seen.code, 1, "{more:?}: {}", seen.err);
        assert!(seen.err.contains(expected), "{more:?}: {}", seen.err);
        assert!(user.is_untouched(), "nothing is left: {:?}", forkd_testing::tree(&user.store()));
        nothing_is_left(&user);
    }
}

fn files_that_are_none_are_named() {
    let user = User::new();
    std::fs::write(user.path("text"), "no kernel\n").unwrap();
    let busybox = busybox();
    assert!(
        user.fails(2, &["snapshot", "--tag", "x", "--rootfs", &busybox, "--kernel", "text"])
            .contains("text is no kernel: expected")
    );
    assert!(user.fails(3, &["snapshot", "--tag", "x", "--rootfs", "none"]).contains("none"));
    assert!(
        user.fails(3, &["snapshot", "--tag", "x", "--rootfs", &busybox, "--kernel", "none"]).contains("none")
    );
    assert!(user.fails(2, &["snapshot", "--tag", "x", "--rootfs", "."]).contains("not a regular file"));
    assert!(
        user.fails(2, &["snapshot", "--tag", "x", "--rootfs", &busybox, "--tap", "none0"])
            .contains("'none#' is no network")
    );
    assert!(user.is_untouched());
}

/// Needs to mount a small filesystem, so it runs where it may.
fn a_full_disk_leaves_no_tag() {
    let user = User::new();
    let script =
        |command: &str| std::process::Command::new("sh").args(["-c", command]).status().unwrap().success();
    let store = user.store().display().to_string();
    if !script(&format!("mount -t tmpfs -o size=110m none {store} 2>/dev/null")) {
        println!("cannot mount here: the full disk was not tried");
        return;
    }
    // First no room for the memory, then none for what the guest writes to its disk.
    let seen = user.run(&["snapshot", "--tag", "demo", "--rootfs", &busybox(), "--mem-size-mib", "256"]);
    let written = bake(
        &user,
        "demo",
        &busybox(),
        &["--warm", "dd if=/dev/urandom of=/big bs=1M count=20; sync; cat /big > /dev/null && sync"],
    );
    let tree = forkd_testing::tree(&user.store());
    script(&format!("umount {store}"));
    assert_eq!(seen.code, 7, "{}", seen.err);
    assert!(seen.err.contains("make room for"), "{}", seen.err);
    assert_eq!(written.code, 7, "{}", written.err);
    assert!(tree.is_empty(), "{tree:?}");
}

fn an_altered_machine_is_not_forked() {
    let user = user_with_demo();
    let (memory, away) = (user.snapshot("demo", "memory.bin"), user.path("away"));
    std::fs::rename(&memory, &away).unwrap();
    assert!(user.fails(6, &["fork", "--tag", "demo"]).contains("memory.bin is missing"));
    std::os::unix::fs::symlink(&away, &memory).unwrap();
    assert!(user.fails(6, &["fork", "--tag", "demo"]).contains("not a regular file"));
    std::fs::rename(&away, &memory).unwrap();
    for name in ["memory.bin", "vmstate", "rootfs.ext4"] {
        let path = user.snapshot("demo", name);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &bad).unwrap();
        assert!(user.fails(6, &["fork", "--tag", "demo"]).contains("altered since it was stored"), "{name}");
        std::fs::write(&path, &good[..good.len() - 4096]).unwrap();
        assert!(user.fails(6, &["fork", "--tag", "demo"]).contains("bytes; snapshot.json says"), "{name}");
        std::fs::write(&path, good).unwrap();
        user.ok(&["fork", "--tag", "demo"]);
    }
    // An empty memory file, which QEMU would make longer.
    let path = user.snapshot("demo", "memory.bin");
    std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    user.fails(6, &["fork", "--tag", "demo"]);
    assert_eq!(path.metadata().unwrap().len(), 0);
    nothing_is_left(&user);
}

fn what_does_not_fit_this_host_is_refused_at_once() {
    let user = user_with_demo();
    let path = user.snapshot("demo", "snapshot.json");
    let good = std::fs::read_to_string(&path).unwrap();
    for (from, to, field) in [
        (
            r#""machine":"pc-q35-7.2""#,
            r#""machine":"pc-q35-99.0""#,
            "engine.machine needs 'pc-q35-99.0'; this host has 'pc-q35-7.2'",
        ),
        (
            r#""name":"qemu""#,
            r#""name":"firecracker""#,
            "engine.name needs 'firecracker'; this host has 'qemu'",
        ),
        (r#""protocol":1"#, r#""protocol":7"#, "guest.protocol needs '7'"),
        (r#""engine""#, r#""engine_of_another""#, "has no 'engine'"),
    ] {
        assert!(good.contains(from), "{from}");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, good.replace(from, to)).unwrap();
        // Not even one byte of memory may be needed for that.
        let memory = user.snapshot("demo", "memory.bin");
        let kept = user.path("memory");
        std::fs::rename(&memory, &kept).unwrap();
        std::fs::File::create(&memory).unwrap().write_all_at(b"x", 0).unwrap();
        let error = user.fails(8, &["fork", "--tag", "demo"]);
        assert!(error.contains(&user.plain(field)), "{error}");
        std::fs::rename(&kept, &memory).unwrap();
    }
    nothing_is_left(&user);
}
