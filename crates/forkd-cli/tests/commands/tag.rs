//! `forkd tag`.

use crate::common::User;
use std::path::Path;

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
