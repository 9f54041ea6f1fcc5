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
