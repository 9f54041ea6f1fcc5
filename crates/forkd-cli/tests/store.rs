//! images, inspect, verify, rmi, tag, gc: the commands on what is there.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{User, three_links};
use std::path::Path;

#[test]
fn images_of_an_empty_and_a_full_store() {
    let user = User::new();
    assert_eq!(user.ok(&["images"]), "  no snapshots here yet\n  next: forkd pull deeplethe/python-numpy\n");
    assert!(user.is_untouched(), "looking makes nothing");
    three_links(&user);
    let table = user.ok(&["images"]);
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows[0], "  TAG                SIZE        MEMORY     CREATED  ROOTFS");
    let words: Vec<&str> = rows[1].split_whitespace().collect();
    assert_eq!(words, ["base", "#", "MiB", "#", "MiB", "#s", "ago", "no"]);
    assert!(rows[2].ends_with("   no   chain of #, parent base"), "{}", rows[2]);
    assert_eq!(rows[5], "  # snapshots · # MiB total");
    let json = user.json(&["images"]);
    assert_eq!(json["snapshots"][2]["tag"], "top");
    assert_eq!(json["snapshots"][2]["chain_links"], 3);
    assert_eq!(json["snapshots"][0]["memory_bytes"], 1 << 20);
}

#[test]
fn inspect_reads_tags_and_files() {
    let user = User::new();
    user.with("t", 1).ok(&["pack", "--tag", "t", "--out", "p", "--description", "bell \x07 and \u{1b}[2J"]);
    let text = user.ok(&["inspect", "p"]);
    assert!(text.contains("description bell \\u{#} and \\u{#b}[#J"), "{text}");
    let json = user.json(&["inspect", "p"]);
    assert_eq!(
        (json["pack_version"].as_u64(), json["links"][0]["files"][3]["path"].as_str()),
        (Some(1), Some("memory.bin"))
    );
    assert_eq!(user.json(&["inspect", "t"])["links"][0]["files"][0]["sha256"], serde_json::Value::Null);
    user.ok(&["unpack", "p", "--tag", "own"]);
    let digest = forkd_testing::sha256(&user.snapshot("own", "memory.bin"));
    assert_eq!(user.json(&["inspect", "own"])["links"][0]["files"][3]["sha256"], digest);
    assert!(user.fails(3, &["inspect", "none"]).contains("neither a snapshot"));
    let secret = user.fails(2, &["inspect", "https://u:pw@h/p?X-Amz-Signature=abc"]);
    assert!(!secret.contains("abc") && !secret.contains("pw"), "{secret}");
}

#[test]
fn verify_names_damage_and_exits_with_6() {
    let user = User::new();
    user.with("t", 1).ok(&["pack", "--tag", "t", "--out", "p"]);
    assert_eq!(user.ok(&["verify", "p"]), "✓ verified 'p': # files, # MiB\n");
    user.ok(&["unpack", "p", "--tag", "own"]);
    assert_eq!(user.ok(&["verify", "own"]), "✓ verified 'own': # files, # MiB\n");
    assert!(user.ok(&["verify", "t"]).contains("! no digests were ever recorded for 't'"));
    let vmstate = user.snapshot("own", "vmstate");
    std::fs::remove_file(&vmstate).unwrap();
    std::fs::write(&vmstate, "short").unwrap();
    let seen = user.run(&["verify", "own"]);
    assert_eq!(seen.code, 6);
    assert_eq!(seen.out, "✗ ~/data/forkd/snapshots/own/vmstate: # bytes; recorded were #; damaged bytes #\n");
    std::fs::write(user.snapshot("own", "forkd.json").with_file_name("x"), "").unwrap();
    std::fs::remove_file(user.snapshot("own", "forkd.json")).unwrap();
    std::fs::write(user.snapshot("own", "forkd.json"), "{").unwrap();
    assert!(user.fails(6, &["verify", "own"]).contains("forkd.json"));
    // An altered description is found, and --force repairs it.
    user.ok(&["unpack", "p", "--tag", "own", "--force"]);
    let json = user.snapshot("own", "snapshot.json");
    let text = std::fs::read_to_string(&json).unwrap();
    std::fs::remove_file(&json).unwrap();
    std::fs::write(&json, text.replace("two", "2nd")).unwrap();
    assert_eq!(user.run(&["verify", "own"]).code, 6);
    user.ok(&["unpack", "p", "--tag", "own", "--force"]);
    user.ok(&["verify", "own"]);
}

#[test]
fn verify_checks_chain_edges() {
    let user = User::new();
    three_links(&user);
    let memory = user.snapshot("base", "memory.bin");
    let mut bytes = std::fs::read(&memory).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&memory, bytes).unwrap();
    let seen = user.run(&["verify", "top"]);
    assert_eq!(seen.code, 6);
    assert!(seen.out.contains("mid/snapshot.json: parent_content_hash is "), "{}", seen.out);
}

#[test]
fn rmi_never_orphans_unasked() {
    let user = User::new();
    three_links(&user);
    assert_eq!(
        user.fails(1, &["rmi", "base"]),
        "forkd: 'base' is the chain parent of 'mid'; remove it first, or use --cascade to remove all of them\n"
    );
    assert!(user.fails(3, &["rmi", "top", "none"]).contains("'none'"));
    assert!(user.snapshot("top", "memory.bin").exists(), "all or nothing");
    assert_eq!(user.ok(&["rmi", "top"]), "✓ removed 'top' (freed # MiB)\n");
    assert!(user.ok(&["rmi", "base", "--force"]).ends_with("! 'mid' has lost its chain parent\n"));
    assert!(user.ok(&["images"]).contains("parent base, an ancestor is missing"));
    assert!(
        user.fails(3, &["pack", "--tag", "mid"]).contains("'base', the chain parent of 'mid', is missing")
    );
    three_links(&user);
    std::fs::write(user.snapshot("mid", "forkd.json"), "damaged").unwrap();
    user.fails(1, &["rmi", "base"]);
    std::fs::remove_file(user.snapshot("mid", "forkd.json")).unwrap();
    let removed = user.json(&["rmi", "base", "--cascade"]);
    let tags: Vec<&str> =
        removed["removed"].as_array().unwrap().iter().map(|r| r["tag"].as_str().unwrap()).collect();
    assert_eq!(tags, ["top", "mid", "base"], "children first");
    user.fails(2, &["rmi"]);
}

#[test]
fn a_second_tag_shares_its_files() {
    let user = User::new();
    user.with("t", 1).ok(&["pack", "--tag", "t", "--out", "p"]);
    user.ok(&["unpack", "p", "--tag", "old"]);
    assert_eq!(user.ok(&["tag", "old", "new"]), "✓ tagged 'old' as 'new' at ~/data/forkd/snapshots/new/\n");
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    assert_eq!(inode(&user.snapshot("old", "memory.bin")), inode(&user.snapshot("new", "memory.bin")));
    user.ok(&["verify", "new"]);
    assert!(user.fails(1, &["tag", "old", "new"]).contains("'new' is already at"));
    assert!(user.fails(3, &["tag", "none", "x"]).contains("'none'"));
    assert_eq!(user.ok(&["rmi", "old"]), "✓ removed 'old' (freed # MiB)\n");
    user.ok(&["verify", "new"]);
}

#[test]
fn gc_removes_only_what_killed_runs_left() {
    let user = User::new();
    assert_eq!(user.ok(&["gc"]), "✓ nothing to clean up\n");
    user.with("t", 1);
    let staging = user.path("data/forkd/staging");
    for name in ["4194000-0", "mydocs"] {
        std::fs::create_dir_all(staging.join(name)).unwrap();
        std::fs::write(staging.join(name).join("x"), "x").unwrap();
    }
    let seen = user.run(&["gc"]);
    assert_eq!((seen.code, seen.out.as_str()), (0, "✓ removed # leftover(s)\n"));
    assert!(staging.join("mydocs/x").exists() && !staging.join("4194000-0").exists());
    // A link in the place of staging is not followed.
    std::fs::rename(&staging, user.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(user.path("elsewhere"), &staging).unwrap();
    assert!(user.fails(1, &["gc"]).contains("not a folder of its own"));
}

#[test]
fn a_killed_unpack_is_cleaned_by_the_next_one() {
    let user = User::new();
    user.with("big", 1);
    // Large enough that the kill comes in the middle.
    std::fs::File::options()
        .write(true)
        .open(user.snapshot("big", "memory.bin"))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    user.ok(&["pack", "--tag", "big", "--out", "p"]);
    user.ok(&["rmi", "big"]);
    let before = forkd_testing::tree(&user.store());
    for wait in [0, 5, 20, 60, 120] {
        let mut child = user.command(&["unpack", "p"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        if user.snapshot("big", "").exists() {
            user.ok(&["verify", "big"]);
            user.ok(&["rmi", "big"]);
        }
    }
    user.run(&["gc"]);
    let left: Vec<_> =
        forkd_testing::tree(&user.store()).into_keys().filter(|path| !before.contains_key(path)).collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
    user.ok(&["unpack", "p"]);
}

#[test]
fn exit_code_of_a_taken_lock() {
    let user = User::new();
    user.with("t", 1);
    std::fs::create_dir_all(user.path("data/forkd/locks")).unwrap();
    let script =
        r#"exec 9<>data/forkd/locks/t.lock; flock 9; echo "77 forkd fork --tag t" >&9; echo; exec sleep 100"#;
    let mut holder = std::process::Command::new("bash")
        .args(["-c", script])
        .current_dir(user.dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let output = user.command(&["rmi", "t"]).env("FORKD_LOCK_TIMEOUT", "0").output().unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    let seen = user.seen(&output);
    assert_eq!(
        (seen.code, seen.err.as_str()),
        (
            11,
            "forkd: snapshot 't' is in use by process # (forkd fork --tag t); try again when that has ended\n"
        )
    );
}
