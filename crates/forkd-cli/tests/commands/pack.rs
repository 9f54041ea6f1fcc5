//! `forkd pack`.

use crate::common::{User, before_digest, names, three_links};
use std::process::Command;

#[test]
fn prints_what_the_specification_shows() {
    let user = User::new();
    user.with("pyagent", 1);
    assert_eq!(
        before_digest(&user.ok(&["pack", "--tag", "pyagent", "--out", "pyagent.forkd-snapshot.tar.zst"])),
        "==> packing snapshot 'pyagent' → pyagent.forkd-snapshot.tar.zst
✓ wrote # MiB (# MiB uncompressed; #× compression) in #s
  next: scp/upload, then `forkd unpack pyagent.forkd-snapshot.tar.zst` on the target host
"
    );
}

#[test]
fn a_chain_tells_its_links_and_names_the_default_file() {
    let user = User::new();
    three_links(&user);
    assert_eq!(
        before_digest(&user.ok(&["pack", "--tag", "top"])),
        "==> packing snapshot 'top' → top.forkd-snapshot.tar.zst
✓ wrote # MiB (# MiB uncompressed; #× compression)  (# chain links)
  next: scp/upload, then `forkd unpack top.forkd-snapshot.tar.zst` on the target host
"
    );
    assert!(user.path("top.forkd-snapshot.tar.zst").is_file());
}

#[test]
fn zstd_and_tar_read_what_it_writes() {
    let user = User::new();
    user.with("t", 2);
    user.ok(&[
        "pack",
        "--tag",
        "t",
        "--out",
        "p",
        "--description",
        "what \"it\" is",
        "--base-image",
        "python:slim",
    ]);
    let script = "zstd -qdc p | tar x && cat manifest.toml && cmp memory.bin $0/memory.bin && cmp vmstate $0/vmstate \
                  && cmp rootfs.ext4 $0/rootfs.ext4 && cat snapshot.json";
    let dir = user.snapshot("t", "");
    let output =
        Command::new("sh").args(["-c", script]).arg(dir).current_dir(user.dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("forkd_pack_version = 1\ntag = \"t\"\ndescription = 'what \"it\" is'\nbase_image = \"python:slim\"\ncreated_at = \""), "{text}");
    assert!(
        text.ends_with(r#"{"vmstate":"vmstate","memory":"memory.bin","volumes":[],"x_unknown":[1,"two"]}"#),
        "{text}"
    );
}

#[test]
fn the_same_time_gives_the_same_bytes() {
    let user = User::new();
    user.with("t", 3);
    let pack = |name: &str, epoch: &str| {
        let args = ["pack", "--tag", "t", "--out", name];
        assert!(user.command(&args).env("SOURCE_DATE_EPOCH", epoch).status().unwrap().success());
        std::fs::read(user.path(name)).unwrap()
    };
    assert_eq!(pack("a", "1700000000"), pack("b", "1700000000"));
    assert_ne!(pack("a", "1700000000"), pack("b", "1700000001"));
    let bad = user.command(&["pack", "--tag", "t"]).env("SOURCE_DATE_EPOCH", "soon").output().unwrap();
    assert_eq!(user.seen(&bad).code, 2);
}

#[test]
fn refusals_leave_nothing_behind() {
    let user = User::new();
    assert_eq!(
        user.fails(3, &["pack", "--tag", "none"]),
        "forkd: no snapshot 'none' in ~/data/forkd/snapshots; see `forkd images`\n"
    );
    user.with("t", 1);
    assert!(user.fails(2, &["pack", "--tag", "../t"]).contains("not a valid tag"));
    assert!(user.fails(2, &["pack", "--tag", "t", "--level", "99"]).contains("is not in"));
    assert!(user.fails(2, &["pack", "--tag", "t", "--out", "-"]).contains("standard output"));
    assert!(user.fails(2, &["pack", "--tag", "t", "--out", "/dev/null"]).contains("not a regular file"));
    assert!(user.fails(2, &["pack", "--tag", "t", "--out", "data/forkd/x"]).contains("inside the store"));
    assert!(user.fails(3, &["pack", "--tag", "t", "--out", "no/such/folder/x"]).contains("no/such/folder"));
    std::fs::remove_file(user.snapshot("t", "memory.bin")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", user.snapshot("t", "memory.bin")).unwrap();
    assert!(user.fails(6, &["pack", "--tag", "t", "--out", "p"]).contains("not a regular file"));
    assert_eq!(names(user.dir.path(), "."), 0);
    assert!(!user.path("p").exists());
}

#[test]
fn a_damaged_snapshot_is_not_passed_on() {
    let (a, b) = (User::new(), User::new());
    a.with("t", 1).ok(&["pack", "--tag", "t", "--out", "p"]);
    b.ok(&["unpack", a.path("p").to_str().unwrap()]);
    let memory = b.snapshot("t", "memory.bin");
    let mut bytes = std::fs::read(&memory).unwrap();
    bytes[70_000] ^= 1;
    std::fs::write(&memory, bytes).unwrap();
    assert!(b.fails(6, &["pack", "--tag", "t", "--out", "p"]).contains("forkd verify t"));
    assert!(!b.path("p").exists());
}

#[test]
fn a_closed_standard_output_does_not_stop_the_work() {
    let user = User::new();
    user.with("t", 1);
    let mut child = user
        .command(&["pack", "--tag", "t", "--out", "p"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert!(user.path("p").is_file());
}

#[test]
fn format_3_is_one_file_that_unpacks_and_says_what_it_is() {
    let user = User::new();
    user.with("t", 2);
    assert_eq!(
        before_digest(&user.ok(&["pack", "--format", "3", "--tag", "t", "--out", "p"])),
        "==> packing snapshot 't' → p
✓ wrote # MiB (# MiB uncompressed; #× compression) in #s
  next: scp/upload, then `forkd unpack p` on the target host
"
    );
    let facts = user.json(&["inspect", "p", "--json"]);
    assert_eq!(facts["pack_version"], 3);
    let files = facts["frames"]["files"].as_array().unwrap();
    assert_eq!(files.len(), 4);
    assert_eq!(files[3]["name"], "t/memory.bin");
    assert!(files[3]["stored_bytes"].as_u64().unwrap() > 0);
    let artifact = &facts["frames"]["artifact"];
    assert_eq!(artifact["size_bytes"], user.path("p").metadata().unwrap().len());
    assert_eq!(artifact["bases"].as_array().unwrap().len(), 0);
    let seen = user.run(&["inspect", "p"]);
    assert!(seen.out.contains("\n    frames") && seen.out.contains("\n  manifest    sha"), "{}", seen.out);
    // What a host of an earlier release makes of it: the manifest is all that its tools find, and it names the version.
    let script = "zstd -qdc p | tar t && zstd -qdc p | tar xO manifest.toml | head -1";
    let output = Command::new("sh").args(["-c", script]).current_dir(user.dir.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "manifest.toml\nforkd_pack_version = 3\n");
    let other = User::new();
    std::fs::copy(user.path("p"), other.path("p")).unwrap();
    other.ok(&["unpack", "p"]);
    for name in ["vmstate", "memory.bin", "rootfs.ext4"] {
        assert_eq!(
            std::fs::read(user.snapshot("t", name)).unwrap(),
            std::fs::read(other.snapshot("t", name)).unwrap()
        );
    }
    assert_eq!(other.run(&["verify", "p"]).code, 0);
    assert_eq!(other.run(&["verify", "t"]).code, 0);
}

#[test]
fn a_base_may_be_a_tag_a_pack_or_a_name_in_a_registry() {
    let user = User::new();
    user.with("one", 2).with("two", 2);
    user.ok(&["pack", "--tag", "one", "--out", "one.pack"]);
    let digest = forkd_testing::sha256(&user.path("one.pack"));
    let size = user.path("one.pack").metadata().unwrap().len();
    let registry = format!(
        r#"{{"schema_version":1,"packages":{{"acme/one":{{"versions":{{"latest":{{"url":"one.pack","sha256":"{digest}","size_bytes":{size}}}}}}}}}}}"#
    );
    std::fs::write(user.path("registry.json"), registry).unwrap();
    let hub = format!("file://{}", user.path("registry.json").display());
    let pack = |out: &str, base: &str| {
        user.ok(&["pack", "--format", "3", "--tag", "two", "--out", out, "--base", base, "--hub", &hub]);
        user.path(out).metadata().unwrap().len()
    };
    user.ok(&["pack", "--format", "3", "--tag", "two", "--out", "alone"]);
    let alone = user.path("alone").metadata().unwrap().len();
    for (out, base) in [("a", "one"), ("b", "one.pack"), ("c", "acme/one")] {
        let size = pack(out, base);
        assert!(size * 4 < alone, "{base}: {size} of {alone}");
    }
    // What was unpacked for it is gone again.
    assert!(!user.path("data/forkd/staging").exists());
    // It unpacks where the base is, under whatever tag, and says what is missing elsewhere.
    user.ok(&["tag", "one", "other"]);
    user.ok(&["rmi", "one", "two"]);
    user.ok(&["unpack", "a"]);
    let stranger = User::new();
    std::fs::copy(user.path("a"), stranger.path("a")).unwrap();
    let seen = stranger.run(&["unpack", "a"]);
    assert_eq!(seen.code, 3, "{}", seen.err);
    assert!(seen.err.contains("is packed against 'one'"), "{}", seen.err);
    assert!(stranger.is_untouched());
}

#[test]
fn formats_that_cannot_hold_it_are_refused() {
    let user = User::new();
    user.with("t", 2);
    three_links(&user);
    for (args, code, expected) in [
        (&["--tag", "t", "--format", "2"][..], 2, "is no chain"),
        (&["--tag", "top", "--format", "1"], 2, "is a chain"),
        (&["--tag", "t", "--base", "top"], 2, "add --format"),
        (&["--tag", "t", "--format", "4"], 2, "invalid value"),
        (
            &["--tag", "t", "--format", "3", "--base", "nowhere"],
            3,
            "neither a snapshot in the store nor a file",
        ),
        (&["--tag", "t", "--format", "3", "--kernel"], 3, "is not named in its snapshot.json"),
    ] {
        let seen = user.run(&[&["pack", "--out", "x"], args].concat());
        assert_eq!(seen.code, code, "{args:?}: {}", seen.err);
        assert!(seen.err.contains(expected), "{args:?}: {}", seen.err);
        assert!(!user.path("x").exists());
    }
    let seen = user.run(&["images", "--format", "3"]);
    assert_eq!(seen.code, 2);
    assert!(seen.err.contains("--format # is for pack and push"), "{}", seen.err);
}
