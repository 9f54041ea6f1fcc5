//! What format 3 is does not change: a pack that lies here since the format was made is read to the same bytes, and the same snapshot
//! makes the same pack.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{Home, env, options};
use forkd_core::PackOptions;
use forkd_format::PackFormat;
use forkd_testing::{Fixture, fixture, sha256};

/// The pack of the snapshot below, of the second edition.
const GOLDEN: &[u8] = include_bytes!("golden/mini.v3.forkd-snapshot");

/// The same of the first edition, which no hub ever held.
const FIRST_EDITION: &[u8] = include_bytes!("golden/mini.v3.first-edition.forkd-snapshot");

/// SHA-256 of the files in it, written down when it was made.
const FILES: [(&str, &str); 3] = [
    ("vmstate", "3b8bb311ba84cbb5b47d683b01671f9c61a83e869538f067d2f34311fa9e22be"),
    ("rootfs.ext4", "f482f725dd6aa98bdde5aed1465bcb43e66eec3827bd9bb883ee0f086008953c"),
    ("memory.bin", "93d8294723aaee0980017ebad484cfdcd6c1a6720ee1ec16896a9192856da4e5"),
];

/// BLAKE3 root of its memory.
const ROOT: &str = "f45f9342b5e538490124c4153c53d34e6e68bf82de054d7d438b0d3317d2fad9";

fn mini() -> Home {
    let home = Home::new();
    let made = Fixture {
        tag: "mini".into(),
        seed: 3,
        memory: (1 << 20) + 20_000,
        rootfs: Some(70_000),
        parent: None,
    };
    let dir = fixture(home.dir.path(), &made);
    let set = br#""working_set":[["memory",3,2],["rootfs",1,1],["memory",0,1],["memory",256,4]],"#;
    let text = std::fs::read(dir.join("snapshot.json")).unwrap();
    std::fs::write(dir.join("snapshot.json"), [b"{", &set[..], &text[1..]].concat()).unwrap();
    home
}

#[test]
fn a_pack_of_the_first_edition_is_refused_clearly() {
    let error = Home::new().unpack(FIRST_EDITION).unwrap_err();
    assert_eq!(error.kind(), forkd_core::Kind::Integrity);
    assert!(error.to_string().contains("first edition of format 3"), "{error}");
    assert!(error.to_string().contains("pack the snapshot again"), "{error}");
}

#[test]
fn an_old_pack_is_read_to_the_same_bytes() {
    let home = Home::new();
    home.unpack(GOLDEN).unwrap();
    let dir = home.dir.path().join("forkd/snapshots/mini");
    for (name, digest) in FILES {
        assert_eq!(sha256(&dir.join(name)), digest, "{name}");
    }
    let record = std::fs::read_to_string(dir.join("forkd.json")).unwrap();
    assert!(record.contains(&format!("\"root\":\"{ROOT}\"")), "{record}");
}

#[test]
fn the_same_snapshot_makes_the_same_pack() {
    let home = mini();
    let out = home.dir.path().join("out");
    let made = PackOptions { format: Some(PackFormat::Paged), level: 3, ..options("mini") };
    forkd_core::pack(&home.store, &made, &out, env()).unwrap();
    let bytes = std::fs::read(&out).unwrap();
    if std::env::var_os("FORKD_WRITE_GOLDEN").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/mini.v3.forkd-snapshot"), &bytes)
            .unwrap();
    }
    // The manifest names the release that packed, and the library's compressor may change with it: then the golden pack is kept
    // for reading, and a second one is added for writing.
    assert!(bytes == GOLDEN, "{} bytes, not those of the golden pack", bytes.len());
}

#[test]
fn holes_do_not_show_in_a_pack() {
    let home = mini();
    let made = PackOptions { format: Some(PackFormat::Paged), level: 3, ..options("mini") };
    let pack = |name: &str| {
        let out = home.dir.path().join(name);
        forkd_core::pack(&home.store, &made, &out, env()).unwrap();
        std::fs::read(out).unwrap()
    };
    let before = pack("before");
    // Written out, zeros and all.
    for name in ["memory.bin", "rootfs.ext4"] {
        let path = home.dir.path().join("forkd/snapshots/mini").join(name);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    assert!(pack("after") == before);
}
