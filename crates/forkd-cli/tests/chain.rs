//! snapshot-info, snapshot-compact: the commands on chains.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::User;
use forkd_testing::frozen_chain;

const MEMORY: u64 = 1 << 20;

#[test]
fn info_shows_each_link() {
    let user = User::new();
    frozen_chain(&user.store(), "py", 3, MEMORY);
    user.ok(&["pack", "--tag", "py2", "--out", "p"]);
    user.ok(&["rmi", "py0", "--cascade"]);
    user.ok(&["unpack", "p"]);
    assert_eq!(
        user.ok(&["snapshot-info", "py2"]),
        "py#  (chain of #)
  engine      qemu #, pc-q#-#, tcg, Nehalem-v#
  assembled   no: the first fork puts it together
  link 'py#'  #-#-#T#:#:#Z
    memory    # MiB on disk: # pages of # MiB
    rootfs    # MiB on disk
  link 'py#'  (chain parent: py#)  #-#-#T#:#:#Z
    memory    # MiB on disk: # pages of # MiB, # made zero
    rootfs    # MiB on disk
  link 'py#'  (chain parent: py#)  #-#-#T#:#:#Z
    memory    # MiB on disk: # pages of # MiB, # made zero
    rootfs    # MiB on disk
"
    );
    let json = user.json(&["snapshot-info", "py2"]);
    assert_eq!((json["assembled"].as_bool(), json["engine"]["accel"].as_str()), (Some(false), Some("tcg")));
    let top = &json["links"][2];
    assert_eq!((top["tag"].as_str(), top["parent"].as_str()), (Some("py2"), Some("py1")));
    assert_eq!(top["memory_bytes"], MEMORY);
    let (stored, zero) = (top["stored_pages"].as_u64().unwrap(), top["zero_pages"].as_u64().unwrap());
    assert!(stored > 0 && stored < 256 && zero > 0 && zero < 256, "{top:#}");
    // Filesystems count what they need to find the pages too.
    let disk = top["memory_disk_bytes"].as_u64().unwrap();
    assert!((stored * 4096..MEMORY).contains(&disk), "{top:#}");
    let flat = user.json(&["snapshot-info", "py0"]);
    assert!(flat["assembled"].is_null() && flat["links"][0]["parent"].is_null());
    assert!(user.ok(&["snapshot-info", "py0"]).starts_with("py#  (flat)\n"));
    assert!(user.fails(3, &["snapshot-info", "none"]).contains("no snapshot 'none'"));
}

#[test]
fn compact_makes_a_flat_snapshot() {
    let user = User::new();
    let (_, memories) = frozen_chain(&user.store(), "py", 3, MEMORY);
    assert_eq!(
        user.ok(&["snapshot-compact", "--from", "py2", "--to", "flat"]),
        "✓ compacted 'py#' into 'flat' at ~/data/forkd/snapshots/flat/\n"
    );
    assert_eq!(user.json(&["snapshot-info", "py2"])["assembled"], true);
    assert!(std::fs::read(user.snapshot("flat", "memory.bin")).unwrap() == memories[2]);
    assert_eq!(user.ok(&["verify", "flat"]), "✓ verified 'flat': # files, # MiB\n");
    assert!(
        user.fails(1, &["snapshot-compact", "--from", "py1", "--to", "flat"])
            .contains("'flat' is already at")
    );
    let json = user.json(&["snapshot-compact", "--from", "py1", "--to", "flat1"]);
    assert_eq!((json["from"].as_str(), json["to"].as_str()), (Some("py1"), Some("flat1")));
    assert!(json["path"].as_str().unwrap().ends_with("snapshots/flat1"));
    user.ok(&["rmi", "py0", "--cascade"]);
    assert!(!user.path("data/forkd/assembled").exists(), "no chain has them any more");
    user.ok(&["verify", "flat"]);
    assert!(std::fs::read(user.snapshot("flat1", "memory.bin")).unwrap() == memories[1]);
    assert_eq!(user.json(&["snapshot-info", "flat1"])["links"].as_array().unwrap().len(), 1);
}

#[test]
fn a_damaged_or_foreign_chain_is_not_compacted() {
    let user = User::new();
    frozen_chain(&user.store(), "py", 2, MEMORY);
    common::three_links(&user);
    assert_eq!(
        user.fails(8, &["snapshot-compact", "--from", "top", "--to", "flat"]),
        "forkd: 'top' was not made by this forkd: it can be moved and verified, not forked\n"
    );
    let memory = user.snapshot("py1", "memory.bin");
    let mut bytes = std::fs::read(&memory).unwrap();
    *bytes.iter_mut().find(|byte| **byte != 0).unwrap() ^= 2;
    std::fs::write(&memory, bytes).unwrap();
    assert!(user.fails(6, &["snapshot-compact", "--from", "py1", "--to", "flat"]).contains("forkd verify"));
    assert!(!user.snapshot("flat", "").exists() && !user.path("data/forkd/assembled").exists());
}
