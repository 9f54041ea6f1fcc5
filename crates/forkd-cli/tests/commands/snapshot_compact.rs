//! `forkd snapshot-compact`.

use crate::common::User;
use forkd_testing::frozen_chain;

const MEMORY: u64 = 1 << 20;

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
    crate::common::three_links(&user);
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
