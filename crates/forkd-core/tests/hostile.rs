//! Packs that are damaged or lie (test catalogue, items 1 to 5): refused as such, and nothing changes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::Home;
use forkd_core::Kind;
use forkd_testing::{Entries, TarEntry, chain_entries, entries, often, pseudo_random, tar_of, tree, zst};
use std::time::{Duration, Instant};
use tar::EntryType;

/// Unpacks and expects a refusal for integrity that leaves the tree as it was; gives the message.
#[track_caller]
fn refused(home: &Home, pack: &[u8]) -> String {
    let before = home.tree();
    let begun = Instant::now();
    let error = home.unpack(pack).expect_err("a malformed pack was accepted");
    // A second is what it may take on a quiet machine; this one may be compiling meanwhile.
    assert!(begun.elapsed() < Duration::from_secs(5), "{error}: took {:?}", begun.elapsed());
    assert_eq!(error.kind(), Kind::Integrity, "{error}");
    assert_eq!(home.tree(), before, "{error}: the tree changed");
    error.to_string()
}

#[track_caller]
fn refused_entries(entries: &[TarEntry], expected: &str) {
    let message = refused(&Home::new(), &zst(&tar_of(entries)));
    assert!(message.contains(expected), "expected '{expected}' in: {message}");
}

/// What a pack unpacks to, apart from the record.
fn unpacked(pack: &[u8]) -> Option<Vec<(std::path::PathBuf, String)>> {
    let home = Home::new();
    home.unpack(pack).ok()?;
    let snapshots = home.dir.path().join("forkd/snapshots");
    Some(
        tree(&snapshots)
            .into_iter()
            .filter(|(path, _)| !path.ends_with("forkd.json") && !path.ends_with("snapshot.json"))
            .collect(),
    )
}

/// A small pack as forkd writes it.
fn own_pack() -> Vec<u8> {
    let home = Home::new();
    home.unpack(&zst(&tar_of(&entries("t", 1)))).unwrap();
    home.pack("t", "own")
}

#[track_caller]
fn refused_or_same(home: &Home, flipped: &[u8], original: &[(std::path::PathBuf, String)]) {
    let before = home.tree();
    match home.unpack(flipped) {
        Err(error) => {
            assert_eq!(error.kind(), Kind::Integrity, "{error}");
            assert_eq!(home.tree(), before);
        }
        Ok(_) => {
            // Another tag or description may have come out of it: only the bytes of the files are promised.
            let files = |tree: Vec<(std::path::PathBuf, String)>| {
                let mut files: Vec<_> =
                    tree.into_iter().filter_map(|(p, d)| Some((p.file_name()?.to_owned(), d))).collect();
                files.retain(|(_, digest)| digest.len() > 30);
                files.sort();
                files
            };
            assert_eq!(files(unpacked(flipped).unwrap()), files(original.to_vec()));
            std::fs::remove_dir_all(home.dir.path().join("forkd")).unwrap();
        }
    }
}

#[test]
fn flipped_bytes_of_a_pack_are_refused_or_padding() {
    let pack = own_pack();
    let original = unpacked(&pack).unwrap();
    let home = Home::new();
    let mut random = pseudo_random(7);
    for _ in 0..often(2000, 10_000) {
        let mut flipped = pack.clone();
        let at = random() as usize % pack.len();
        flipped[at] ^= (1 + random() % 255) as u8;
        refused_or_same(&home, &flipped, &original);
    }
}

#[test]
fn every_flipped_byte_of_manifest_and_headers_is_refused_or_harmless() {
    let tar = tar_of(&entries("t", 1));
    let original = unpacked(&zst(&tar)).unwrap();
    let home = Home::new();
    let manifest = 512..512 + entries("t", 1)[0].bytes.len().next_multiple_of(512);
    let mut headers = Vec::new();
    let mut at = 0;
    for entry in entries("t", 1) {
        headers.extend(at..at + 512);
        at += 512 + entry.bytes.len().next_multiple_of(512);
    }
    let mut random = pseudo_random(8);
    for at in manifest.chain(headers).chain(at..tar.len()) {
        let mut flipped = tar.clone();
        flipped[at] ^= 1 << (random() % 8);
        refused_or_same(&home, &zst(&flipped), &original);
    }
}

#[test]
fn truncations_are_refused() {
    let pack = own_pack();
    let home = Home::new();
    let lengths = (0..pack.len()).step_by(512).chain(pack.len().saturating_sub(4096)..pack.len());
    for len in lengths {
        refused(&home, &pack[..len]);
    }
}

#[test]
fn hostile_tar_entries_are_refused() {
    let good = entries("t", 1);
    let add = |entry: TarEntry| {
        let mut all = good.clone();
        all.push(entry);
        all
    };
    let link = |kind, name: &str| TarEntry { name: name.into(), kind, bytes: b"/etc/passwd".to_vec() };
    refused_entries(&add(TarEntry::file("../evil", b"x")), "'../evil' is not declared");
    refused_entries(&add(TarEntry::file("/tmp/evil", b"x")), "'/tmp/evil' is not declared");
    refused_entries(&add(TarEntry::file("notes.txt", b"x")), "'notes.txt' is not declared");
    refused_entries(&add(TarEntry::file("Memory.bin", b"x")), "'Memory.bin' is not declared");
    refused_entries(&add(good[3].clone()), "comes twice");
    refused_entries(&add(good[0].clone()), "'manifest.toml' is not declared");
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Directory,
    ] {
        refused_entries(&add(link(kind, "rootfs.ext4")), "regular files only");
    }
    // Written through: a symbolic link in place of a declared file, then the file.
    let mut through = good.clone();
    through.insert(1, link(EntryType::Symlink, "memory.bin"));
    refused_entries(&through, "regular files only");
    let mut missing = good.clone();
    missing.pop();
    refused_entries(&missing, "'memory.bin' is missing");
    let mut late = good.clone();
    late.swap(0, 1);
    refused_entries(&late, "first entry is 'snapshot.json'");
    let mut size = good.clone();
    size[3].bytes.push(0);
    refused_entries(&size, "the manifest declares");
    let mut damaged = good.clone();
    damaged[3].bytes[5000] ^= 1;
    refused_entries(&damaged, "memory.bin: sha256 is");
    refused_entries(&[], "manifest");
    let long = TarEntry {
        name: "././@LongLink".into(),
        kind: EntryType::GNULongName,
        bytes: b"../../evil\0".to_vec(),
    };
    refused_entries(&add(long), "regular files only");
    let pax = |record: &str| {
        let mut all = good.clone();
        let text = format!("{} {record}\n", record.len() + 4);
        all.insert(1, TarEntry { name: "x".into(), kind: EntryType::XHeader, bytes: text.into() });
        all
    };
    refused_entries(&pax("path=../../evil"), "'../../evil' is not declared");
    refused_entries(&pax("GNU.sparse.x=1"), "no place in a pack");
    refused_entries(&pax("linkpath=/etc/x"), "no place in a pack");
}

#[test]
fn what_follows_the_end_is_refused() {
    let home = Home::new();
    let pack = zst(&tar_of(&entries("t", 1)));
    for tail in [&b"x"[..], b"PK\x03\x04 more than a header", &zst(b"more"), &zst(b""), &pack] {
        refused(&home, &[&pack, tail].concat());
    }
    let tar = tar_of(&entries("t", 1));
    refused(&home, &zst(&[&tar[..], b"x"].concat()));
    refused(&home, &zst(&[&tar[..], &vec![0; 2 << 20]].concat()));
    refused(&home, &zst(&tar[..tar.len() - 512]));
    // Padding to a tape record is what tar itself writes, and a skippable frame holds no content.
    let skippable = [&0x184D_2A5E_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
    home.unpack(&[zst(&[&tar[..], &[0; 9216]].concat()), skippable].concat()).unwrap();
}

fn with_manifest(mut all: Entries, edit: impl Fn(String) -> String) -> Entries {
    let text = String::from_utf8(all[0].bytes.clone()).unwrap();
    let edited = edit(text.clone());
    assert_ne!(text, edited, "the edit did nothing");
    all[0].bytes = edited.into_bytes();
    all
}

#[test]
fn hostile_manifests_are_refused_before_any_body() {
    let cases: &[(&str, &str, &str)] = &[
        ("tag = \"t\"", "tag = \"../etc/x\"", "not a valid tag"),
        ("tag = \"t\"", "tag = \"\"", "not a valid tag"),
        ("tag = \"t\"", "tag = \"a\\u0000b\"", "not a valid tag"),
        ("path = \"vmstate\"", "path = \"../vmstate\"", "expected one of"),
        ("path = \"vmstate\"", "path = \"payload.sh\"", "expected one of"),
        ("path = \"vmstate\"", "path = \"memory.bin\"", "twice"),
        ("pack_version = 1", "pack_version = 0", "reads 1 to 3"),
        ("pack_version = 1", "pack_version = 99", "reads 1 to 3"),
        ("pack_version = 1", "pack_version = 2", "versions 2 and 3"),
        ("size = 700", "size = -1", "manifest.toml"),
        ("size = 700", "size = 9223372036854775808", "manifest.toml"),
        ("size = 700", "size = 9223372036854775807", "declares"),
        ("size = 24576", "size = 4398046511104", "declares"),
        ("sha256 = \"", "sha256 = \"X", "not a sha256"),
        ("tag =", "tga =", "missing field"),
        ("[[files]]", "[[flies]]", "declares no"),
        ("created_at", "parent_tag = \"x\"\ncreated_at", "version 2"),
    ];
    for (from, to, expected) in cases {
        let mut all = with_manifest(entries("t", 1), |text| text.replacen(from, to, 1));
        // No body follows: the refusal must come from the manifest alone.
        all.truncate(1);
        refused_entries(&all, expected);
    }
    let huge = format!("#{}\n", "x".repeat(64 << 20));
    refused_entries(&[TarEntry::file("manifest.toml", huge.as_bytes())], "67108866 bytes");
    let many: String =
        (0..20_000).map(|i| format!("\n[[files]]\npath = \"{i}\"\nsize = 1\nsha256 = \"\"\n")).collect();
    refused_entries(&with_manifest(entries("t", 1), |text| text + &many)[..1], "manifest.toml");
}

#[test]
fn broken_chains_are_refused() {
    let cases: &[(&str, &str, &str)] = &[
        (
            "[[chain]]\ntag = \"c1\"\nparent_tag = \"c0\"",
            "[[chain]]\ntag = \"c1\"\nparent_tag = \"c2\"",
            "names the parent",
        ),
        (
            "[[chain]]\ntag = \"c1\"\nparent_tag = \"c0\"",
            "[[chain]]\ntag = \"c0\"\nparent_tag = \"c0\"",
            "two links",
        ),
        ("[[chain]]\ntag = \"c1\"", "[[chain]]\ntag = \"C0\"", "two links"),
        ("[[chain]]\ntag = \"c0\"\n", "[[chain]]\ntag = \"c0\"\nparent_tag = \"c2\"\n", "root link"),
        (
            "tag = \"c2\"\nparent_tag = \"c1\"\nfiles",
            "tag = \"c1\"\nparent_tag = \"c0\"\nfiles",
            "not the head",
        ),
        (
            "tag = \"c2\"\nparent_tag = \"c1\"\nfiles",
            "tag = \"c2\"\nparent_tag = \"c0\"\nfiles",
            "not the head",
        ),
        ("parent_content_hash = \"", "parent_content_hash = \"00", "sha256"),
    ];
    for (from, to, expected) in cases {
        let all = with_manifest(chain_entries(3), |text| text.replacen(from, to, 1));
        refused_entries(&all[..1], expected);
    }
    let wrong = "0".repeat(64);
    let other = with_manifest(chain_entries(3), |text| {
        let at = text.find("parent_content_hash = \"").unwrap() + 23;
        format!("{}{wrong}{}", &text[..at], &text[at + 64..])
    });
    refused_entries(&other[..1], "not the digest of 'c0'");
    // snapshot.json must say what the manifest says.
    let mut lying = entries("t", 1);
    let json = br#"{"vmstate":"v","memory":"m","parent_tag":"elsewhere"}"#;
    let files: Vec<_> = [
        ("snapshot.json", json.to_vec()),
        ("vmstate", lying[2].bytes.clone()),
        ("memory.bin", lying[3].bytes.clone()),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into();
    lying[0].bytes = forkd_testing::manifest("t", &files).into_bytes();
    lying[1].bytes = json.to_vec();
    refused_entries(&lying, "names the parent 'elsewhere'");
}

#[test]
fn bombs_are_refused_quickly() {
    let home = Home::new();
    // 4 TiB of zeros where a few bytes were declared: frames that each decode to 4 MiB and are tiny.
    let zeros = zstd::bulk::compress(&vec![0; 4 << 20], 3).unwrap();
    let good = tar_of(&entries("t", 1));
    let end = good.len() - 1024;
    let mut bomb = zst(&good[..end]);
    for _ in 0..2000 {
        bomb.extend_from_slice(&zeros);
    }
    assert!(refused(&home, &bomb).contains("after the end"));
    // A window of 2 GiB, in a frame that declares it.
    let mut window = vec![0x28, 0xB5, 0x2F, 0xFD, 0x00, 21 << 3];
    window.extend_from_slice(&[1, 0, 0]);
    assert!(refused(&home, &window).contains("window"));
    // A frame that is longer than any encoder makes it: empty blocks without end.
    let mut endless = vec![0x28, 0xB5, 0x2F, 0xFD, 0x20, 16];
    endless.extend(std::iter::repeat_n(0, 3 * 2_000_000));
    assert!(refused(&home, &endless).contains("no encoder writes that"));
    // Ten million entries: the first one that is not declared ends it.
    let mut many = good[..end].to_vec();
    let entry = tar_of(&[TarEntry::file("x", b"")]);
    (0..10_000).for_each(|_| many.extend_from_slice(&entry[..512]));
    assert!(refused(&home, &zst(&many)).contains("'x' is not declared"));
}

#[test]
fn hostile_sparse_maps_are_refused() {
    let sparse = |extents: &[(u64, u64)], real: u64, stored: u64| {
        let mut tar = tar_of(&entries("t", 1)[..3]);
        tar.truncate(tar.len() - 1024);
        let mut header = tar::Header::new_gnu();
        header.set_path("memory.bin").unwrap();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_mode(0o644);
        header.set_size(stored);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(real);
        for (slot, (offset, len)) in gnu.sparse.iter_mut().zip(extents) {
            slot.set_offset(*offset);
            slot.set_length(*len);
        }
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(&entries("t", 1)[3].bytes[4096..4096 + 12288]);
        tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
        zst(&tar)
    };
    let home = Home::new();
    for (extents, real, stored) in [
        (&[(8192, 4096), (4096, 8192)][..], 24576, 12288),
        (&[(4096, 12288), (8192, 0), (8192, 100)], 24576, 12388),
        (&[(20000, 12288)], 24576, 12288),
        (&[(4096, 12288)], 24576, 12287),
        (&[(u64::MAX - 5, 12288)], 24576, 12288),
        (&[(4096, 12288)], 24577, 12288),
        (&[(0, 12288)], 24576, 12288),
    ] {
        refused(&home, &sparse(extents, real, stored));
    }
    // The same bytes with the right map are the file.
    home.unpack(&sparse(&[(4096, 12288), (24576, 0)], 24576, 12288)).unwrap();
}
