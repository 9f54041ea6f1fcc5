//! `forkd rmi`.

use crate::common::{User, three_links};

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
