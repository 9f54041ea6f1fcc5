//! `forkd df`.

use crate::common::User;

#[test]
fn what_lies_on_the_disk_is_counted_once() {
    let user = User::new();
    let nothing = user.json(&["df"]);
    assert_eq!(nothing["snapshots"]["count"], 0);
    assert_eq!(nothing["cache_limit_bytes"], 20_u64 << 30);
    user.with("pyagent", 1);
    user.ok(&["tag", "pyagent", "second"]);
    let one = user.json(&["df"]);
    assert_eq!(one["snapshots"]["count"], 2);
    let images = user.json(&["images"]);
    let each = images["snapshots"][0]["size_bytes"].as_u64().unwrap();
    let (taken, small) = (one["snapshots"]["bytes"].as_u64().unwrap(), 1 << 20);
    assert!((each..each + small).contains(&taken), "{taken}, each {each}");
    let keys: Vec<&String> = one.as_object().unwrap().keys().collect();
    let order = ["snapshots", "assembled", "images", "disks", "kernels", "partial", "cache_limit_bytes"];
    assert_eq!(keys, order);
    let table = user.ok(&["df"]);
    assert!(table.contains("  snapshots                #  "), "{table}");
}
