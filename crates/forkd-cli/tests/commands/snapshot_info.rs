//! `forkd snapshot-info`.

use crate::common::User;
use forkd_testing::frozen_chain;

const MEMORY: u64 = 1 << 20;

#[test]
fn info_shows_each_link() {
    let user = User::new();
    frozen_chain(&user.store(), "py", 3, MEMORY);
    let (_, noted) = user.ok_noted(&["pack", "--tag", "py2", "--out", "p"]);
    assert!(noted.contains("each of # links carries its whole disk"), "{noted}");
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
