//! `forkd images`.

use crate::common::{User, three_links};

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
    assert_eq!(user.ok(&["images", "-q"]), "base\nmid\ntop\n");
    let json = user.json(&["images"]);
    assert_eq!(json["snapshots"][2]["tag"], "top");
    assert_eq!(json["snapshots"][2]["chain_links"], 3);
    assert_eq!(json["snapshots"][0]["memory_bytes"], 1 << 20);
}

#[test]
fn damaged_snapshots_are_shown_and_shared_files_count_once() {
    let user = User::new();
    user.with("t", 1).ok(&["pack", "--tag", "t", "--out", "p"]);
    user.ok(&["unpack", "p", "--tag", "whole"]);
    user.ok(&["rmi", "t"]);
    let total = user.json(&["images"])["total_bytes"].as_u64().unwrap();
    user.ok(&["tag", "whole", "second"]);
    let shared = user.json(&["images"]);
    assert_eq!(shared["total_bytes"], total, "{shared}");
    assert_eq!(shared["snapshots"][1]["size_bytes"], total, "{shared}");
    assert_eq!(shared["snapshots"][1]["damage"], serde_json::Value::Null);

    std::fs::remove_file(user.snapshot("second", "vmstate")).unwrap();
    user.ok(&["unpack", "p", "--tag", "cut"]);
    std::fs::remove_file(user.snapshot("cut", "memory.bin")).unwrap();
    std::fs::write(user.snapshot("cut", "memory.bin"), "short").unwrap();
    user.ok(&["unpack", "p", "--tag", "gone"]);
    std::fs::remove_file(user.snapshot("gone", "snapshot.json")).unwrap();
    let table = user.ok(&["images"]);
    let row = |tag: &str| table.lines().find(|line| line.starts_with(&format!("  {tag} "))).unwrap();
    assert_eq!(row("second").trim_start(), "second         damaged: vmstate is missing");
    assert!(row("cut").ends_with("damaged: memory.bin has # bytes; recorded were #"), "{table}");
    assert!(
        row("gone").contains("damaged: cannot open ~/data/forkd/snapshots/gone/snapshot.json: "),
        "{table}"
    );
    assert!(!row("whole").contains("damaged"), "{table}");
    assert!(table.ends_with("next: forkd rmi cut, then pull or bake it again\n"), "{table}");
    user.ok(&["rmi", "cut", "gone", "second"]);
    assert_eq!(user.json(&["images"])["total_bytes"], total);
}
