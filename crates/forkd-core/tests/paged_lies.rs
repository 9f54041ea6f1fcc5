//! Packs of format 3 made by hand (test catalogue, items 3 to 5): an honest one is read, and every lie is refused as such.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{Home, env};
use forkd_core::{Kind, Outcome, UnpackOptions, unpack_file};
use forkd_format::PackFormat;
use forkd_testing::{
    FileParts, FrameParts, PackParts, PlanRun, digest, leb, plan, pseudo_random, zstd_part, zstd_part_after,
};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
/// The memory's number as a source of [`honest`].
const MEMORY: u64 = 2;

fn pages(seed: u64, count: usize) -> Vec<u8> {
    let mut random = pseudo_random(seed);
    (0..count * PAGE).map(|_| random() as u8).collect()
}

/// The first frame of the memory: eight pages that hold something.
fn first() -> Vec<u8> {
    let mut frame = pages(1, 8);
    frame.resize(MIB, 0);
    frame
}

/// The place in the pack of the first frame of memory.
const FIRST: u64 = 2;

/// Two pages copied from the first frame, and one that is much like another of it.
fn second() -> Vec<u8> {
    let first = first();
    let like = [&b"moved"[..], &first[5 * PAGE..6 * PAGE - 5]].concat();
    let mut frame = [&first[2 * PAGE..4 * PAGE], &like].concat();
    frame.resize(MIB, 0);
    frame
}

fn second_frame() -> FrameParts {
    let (first, content) = (first(), second());
    let plan = plan(&[(1, MEMORY, 5)], &[PlanRun::Copy(2, MEMORY, 2), PlanRun::Data(1), PlanRun::Zero(253)]);
    let zstd = zstd_part_after(&first[5 * PAGE..6 * PAGE], &content[2 * PAGE..3 * PAGE]);
    assert!(zstd.len() < 100, "the prefix is not used");
    FrameParts::of(&content, &plan, &zstd).needing(&[FIRST])
}

fn memory() -> Vec<u8> {
    [first(), second(), pages(2, 2)[..5000].to_vec()].concat()
}

fn honest() -> PackParts {
    let memory = memory();
    let mut file = FileParts::plain("memory.bin", &memory);
    file.frames[1] = Some(second_frame());
    PackParts::new(FileParts::plain("vmstate", &pages(3, 1)[..700]), file)
}

/// The honest pack with another second frame of its memory.
fn with_second(frame: FrameParts) -> Vec<u8> {
    let mut pack = honest();
    pack.files[2].frames[1] = Some(frame.needing(&[FIRST]));
    pack.bytes()
}

#[track_caller]
fn refused(pack: &[u8], expected: &str) {
    let home = Home::new();
    let before = home.tree();
    let begun = Instant::now();
    let error = home.unpack(pack).expect_err("a pack that lies was accepted");
    assert!(begun.elapsed() < Duration::from_secs(5), "{error}: took {:?}", begun.elapsed());
    assert_eq!(error.kind(), Kind::Integrity, "{error}");
    assert!(error.to_string().contains(expected), "expected '{expected}' in: {error}");
    assert_eq!(home.tree(), before, "{error}: the tree changed");
    let file = home.file(pack);
    assert!(forkd_core::verify_file(&home.store, &file, None, env()).is_err());
    // What a plan leads to is seen without decoding anything.
    if ["which has", "which is none"].iter().any(|words| expected.contains(words)) {
        let error = forkd_core::inspect_file(&file, env()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_pack_made_by_other_hands_is_read() {
    let home = Home::new();
    home.unpack(&honest().bytes()).unwrap();
    let dir = home.store.dir(&"t".parse().unwrap());
    assert!(std::fs::read(dir.join("memory.bin")).unwrap() == memory());
    assert_eq!(std::fs::read(dir.join("vmstate")).unwrap(), pages(3, 1)[..700]);
    assert_eq!(forkd_core::verify_tag(&home.store, &"t".parse().unwrap(), env()).unwrap().damage, []);
}

#[test]
fn plans_that_lead_elsewhere_are_refused() {
    let content = second();
    let copied = |source: u64, page: u64| {
        let runs = [PlanRun::Copy(2, source, page), PlanRun::Data(1), PlanRun::Zero(253)];
        with_second(FrameParts::of(&content, &plan(&[], &runs), &zstd_part(&content[2 * PAGE..3 * PAGE])))
    };
    let mut memory = honest();
    memory.files[2].frames[1] = Some(FrameParts::plain(&content));
    Home::new().unpack(&memory.bytes()).unwrap();
    Home::new().unpack(&copied(MEMORY, 2)).unwrap();
    refused(&copied(MEMORY, 1), "other bytes");
    refused(&copied(MEMORY, 255), "which has 256");
    refused(&copied(MEMORY, 256), "which has 256");
    refused(&copied(MEMORY, 512), "which has 256");
    refused(&copied(MEMORY, 1 << 52), "which has 256");
    refused(&copied(MEMORY, u64::MAX), "plan");
    refused(&copied(MEMORY, 1 << 63), "plan");
    // Behind the files comes the working set, which has no page here.
    refused(&copied(3, 0), "which has 0");
    refused(&copied(4, 0), "source 4, which is none");
    refused(&copied(1 << 40, 0), "which is none");
    refused(&copied(u64::MAX, 0), "which is none");
    // The description and what is shorter than a page are no sources.
    refused(&copied(0, 0), "which has 0");
    refused(&copied(1, 0), "which has 0");
    // Copied zeros are zeros that are not said to be any.
    refused(&copied(MEMORY, 100), "page of zeros");
    // The vmstate comes before the memory, the first frame before the second.
    let mut early = honest();
    let big = [first(), first()].concat();
    early.files[1] = FileParts::plain("vmstate", &big);
    early.files[1].frames[1] =
        Some(FrameParts::of(&first(), &plan(&[], &[PlanRun::Copy(8, MEMORY, 0), PlanRun::Zero(248)]), b""));
    refused(&early.bytes(), "which is none");
    let mut itself = honest();
    itself.files[2].frames[0] =
        Some(FrameParts::of(&first(), &plan(&[], &[PlanRun::Copy(8, MEMORY, 0), PlanRun::Zero(248)]), b""));
    refused(&itself.bytes(), "which has 0");
    // Only what is used is named: a prefix is held to the same.
    let prefix = |count: u64, source: u64, page: u64| {
        let frame = plan(
            &[(1, MEMORY, 5), (count, source, page)],
            &[PlanRun::Copy(2, MEMORY, 2), PlanRun::Data(1), PlanRun::Zero(253)],
        );
        let zstd = zstd_part(&content[2 * PAGE..3 * PAGE]);
        with_second(FrameParts::of(&content, &frame, &zstd))
    };
    Home::new().unpack(&prefix(250, MEMORY, 6)).unwrap();
    refused(&prefix(251, MEMORY, 6), "which has 256");
    refused(&prefix(1, 3, 0), "which has 0");
    refused(&prefix(0, MEMORY, 0), "empty or too long");
    refused(&prefix(1024, MEMORY, 0), "empty or too long");
    refused(&prefix(u64::MAX, MEMORY, 0), "empty or too long");
}

#[test]
fn plans_out_of_shape_are_refused() {
    let content = second();
    let data = zstd_part(&content[..3 * PAGE]);
    let with = |plan: Vec<u8>| with_second(FrameParts::of(&content, &plan, &data));
    let of = |runs: &[PlanRun]| with(plan(&[], runs));
    let body = |body: &[u8]| with([leb(body.len() as u64), body.to_vec()].concat());
    Home::new().unpack(&of(&[PlanRun::Data(3), PlanRun::Zero(253)])).unwrap();
    Home::new().unpack(&of(&[PlanRun::Data(1), PlanRun::Data(2), PlanRun::Zero(253)])).unwrap();
    refused(&of(&[PlanRun::Data(3), PlanRun::Zero(252)]), "cut off");
    refused(&of(&[PlanRun::Data(3), PlanRun::Zero(254)]), "too many");
    refused(&of(&[PlanRun::Data(3), PlanRun::Zero(0), PlanRun::Zero(253)]), "no pages");
    refused(&of(&[PlanRun::Data(3), PlanRun::Zero(u64::MAX >> 3)]), "too many");
    refused(&of(&[PlanRun::Data(3), PlanRun::Zero(253), PlanRun::Zero(1)]), "behind the last page");
    refused(&of(&[PlanRun::Data(2), PlanRun::Zero(254)]), "its plan needs 8192");
    refused(&of(&[PlanRun::Data(4), PlanRun::Zero(252)]), "its plan needs 16384");
    refused(&of(&[PlanRun::Zero(256)]), "no page needs");
    // The bytes are right and stand in another place.
    refused(&of(&[PlanRun::Zero(1), PlanRun::Data(3), PlanRun::Zero(252)]), "other bytes");
    refused(&body(&[0, 3 << 2 | 1, 253, 0x87]), "cut off");
    refused(&body(&[0, 3 << 2 | 3, 0xf4, 0x07]), "no known kind");
    refused(&body(&[0, 0x8d, 0x00, 0xf4, 0x07]), "cut off");
    refused(&body(&[0x80; 40]), "cut off");
    refused(&body(&[]), "cut off");
    refused(&body(&[0xff, 0xff, 0xff, 0xff, 0x0f]), "too long a prefix");
    refused(&with(leb(1 << 40)), "longer than the frame");
    refused(&with(leb(u64::MAX)), "longer than the frame");
    refused(&with(vec![0xff; 11]), "cut off");
    // A last page that is short is kept, never copied.
    let mut short = honest();
    short.files[2].frames[2] =
        Some(FrameParts::of(&memory()[2 * MIB..], &plan(&[], &[PlanRun::Copy(2, MEMORY, 0)]), b""));
    refused(&short.bytes(), "not whole");
}

/// A zstd frame of one raw block with a header of one's own.
fn raw_zstd(descriptor: &[u8], content: &[u8]) -> Vec<u8> {
    let block = ((content.len() as u32) << 3 | 1).to_le_bytes();
    [&[0x28, 0xB5, 0x2F, 0xFD], descriptor, &block[..3], content].concat()
}

#[test]
fn zstd_parts_that_are_not_one_plain_frame_are_refused() {
    let content = second();
    let data = &content[..3 * PAGE];
    let runs = plan(&[], &[PlanRun::Data(3), PlanRun::Zero(253)]);
    let with = |zstd: &[u8]| with_second(FrameParts::of(&content, &runs, zstd));
    let len = (data.len() as u32).to_le_bytes();
    let window = |log: u8| raw_zstd(&[&[0x80, (log - 10) << 3], &len[..]].concat(), data);
    Home::new().unpack(&with(&window(23))).unwrap();
    refused(&with(&window(24)), "window");
    refused(&with(&window(31)), "window");
    let sized = |len: u64| raw_zstd(&[&[0xe0][..], &len.to_le_bytes()].concat(), data);
    Home::new().unpack(&with(&sized(data.len() as u64))).unwrap();
    refused(&with(&sized(data.len() as u64 - 1)), "its plan needs");
    refused(&with(&sized(data.len() as u64 + 1)), "its plan needs");
    refused(&with(&sized(1 << 62)), "window");
    refused(&with(&raw_zstd(&[0, 10 << 3], data)), "declares None");
    // The header says what the plan needs; the blocks hold less or more.
    let lying = |data: &[u8]| with(&raw_zstd(&[&[0xa0][..], &len].concat(), data));
    refused(&lying(&data[..PAGE]), "zstd frame");
    refused(&lying(&[data, b"x"].concat()), "zstd frame");
    let good = zstd_part(data);
    refused(&with(&[&good[..], b"x"].concat()), "something follows it");
    refused(&with(&[&good[..], &zstd_part(b"more")].concat()), "something follows it");
    refused(&with(&[&good[..], &raw_zstd(&[0x20, 0], b"")].concat()), "something follows it");
    refused(&with(&[&[0x5E, 0x2A, 0x4D, 0x18, 0, 0, 0, 0], &good[..]].concat()), "zstd part");
    refused(&with(&good[..good.len() - 1]), "zstd part");
    refused(&with(b""), "zstd part");
    refused(&with(&raw_zstd(&[0xa1, 7, 0, 0, 0x30, 0, 0], data)), "dictionary");
    // Bytes where no page is kept.
    let copies = plan(&[], &[PlanRun::Copy(8, MEMORY, 0), PlanRun::Zero(248)]);
    refused(&with_second(FrameParts::of(&first(), &copies, &good)), "no page needs");
    // A page of zeros among those that are kept.
    let kept = plan(&[], &[PlanRun::Data(4), PlanRun::Zero(252)]);
    refused(&with_second(FrameParts::of(&content, &kept, &zstd_part(&content[..4 * PAGE]))), "page of zeros");
    // A frame that is whole and is another.
    let mut other = FrameParts::plain(&first());
    other.content = content.clone();
    refused(&with_second(other), "other bytes");
}

#[test]
fn frames_that_are_not_as_the_index_says_are_refused() {
    for (at, bit) in [(0, 1), (4, 1), (7, 0x80)] {
        let mut frame = second_frame();
        frame.bytes[at] ^= bit;
        refused(&with_second(frame), "does not begin as the index says");
    }
    let mut long = second_frame();
    long.bytes.resize(MIB + (64 << 10) + 1, 0);
    refused(&with_second(long), "are read");
    let mut short = second_frame();
    short.bytes.truncate(8);
    refused(&with_second(short), "are read");
    let zeros = FrameParts::of(&vec![0; MIB], &plan(&[], &[PlanRun::Zero(256)]), b"");
    refused(&with_second(zeros), "not stored");
    refused(&with_second(FrameParts { sum: 7, ..second_frame() }), "its checksum in the index");
    // Frames in another order than the index has them: each is the other's.
    let mut swapped = honest();
    let frames = &mut swapped.files[2].frames;
    let (a, b) = (frames[0].clone().unwrap(), frames[2].clone().unwrap());
    frames[0] = Some(FrameParts { bytes: b.bytes.clone(), ..a.clone() });
    frames[2] = Some(FrameParts { bytes: a.bytes, ..b });
    refused(&swapped.bytes(), "zstd frame");
}

#[test]
fn an_index_that_lies_is_refused() {
    let pack = honest();
    let edited = |edit: &dyn Fn(&mut Vec<u8>)| pack.edited(edit, |text| text, |_| {});
    let put = |at: usize, bytes: &'static [u8]| {
        pack.edited(move |index| index[at..at + bytes.len()].copy_from_slice(bytes), |text| text, |_| {})
    };
    let len = pack.index(0).len();
    Home::new().unpack(&edited(&|_| {})).unwrap();
    refused(&put(0, b"forkdix4"), "does not begin");
    refused(&put(8, &[0, 0, 0, 0]), "its header has 0");
    refused(&put(8, &[80, 0, 0, 0]), "index");
    refused(&put(12, &[0]), "first edition");
    refused(&put(12, &[3]), "a newer forkd may read it");
    refused(&put(8, &[0xf8, 0xff, 0xff, 0xff]), "its header has");
    refused(&put(16, &[1]), "a newer forkd may read it");
    refused(&put(23, &[0x80]), "a newer forkd may read it");
    refused(&put(32, &[0xff; 8]), "beyond any file");
    refused(&put(32, &[0; 8]), "the first frame is at");
    refused(&put(40, &[0xff; 8]), "it declares");
    refused(&put(48, &[2]), "2 files");
    refused(&put(48, &[0xff; 4]), "files");
    refused(&put(52, &[4]), "it declares 4");
    refused(&put(52, &[0xff; 4]), "it declares");
    refused(&put(56, &[0, 0, 1]), "pages of");
    refused(&put(60, &[0; 4]), "frames of");
    // The first file's bitmap, its entry, and the lengths of the last.
    refused(&put(72, &[0]), "root");
    refused(&put(72, &[3]), "behind the end");
    refused(&put(73, &[0xaa; 32]), "root");
    refused(&put(len - 5, &[0xff; 4]), "are read");
    refused(&put(len - 5, &[0, 0, 0, 0]), "are read");
    refused(&put(len - 1, &[33]), "at most 32 are read");
    refused(&put(len - 1, &[1]), "cut off");
    refused(&edited(&|index| index.push(0)), "bytes of index");
    refused(&edited(&|index| index.truncate(len - 1)), "cut off");
    refused(&edited(&|index| index.truncate(20)), "index");
    refused(&edited(&|index| index.clear()), "index");
    // Lengths that make up for each other.
    let shift = edited(&|index| {
        index[len - 5] += 1;
        index[len - 51] -= 1;
    });
    refused(&shift, "does not begin as the index says");
    let room =
        |bytes: [u8; 4]| pack.edited(|_| {}, |text| text, move |header| header[4..].copy_from_slice(&bytes));
    refused(&room([0xff; 4]), "are needed");
    refused(&room([0; 4]), "are needed");
    refused(&room([0, 0, 9, 0]), "index");
    refused(&pack.edited(|_| {}, |text| text, |header| header[0] ^= 1), "does not follow the manifest");
    for padding in [vec![0, 0, 1], [vec![0; 999], vec![0x80]].concat()] {
        refused(&PackParts { padding, ..pack.clone() }.bytes(), "not zero");
    }
    Home::new().unpack(&PackParts { padding: vec![0; 1 << 20], ..pack.clone() }.bytes()).unwrap();
    refused(&PackParts { padding: vec![0; (1 << 20) + 1], ..pack.clone() }.bytes(), "are needed");
}

fn base(name: &str, kind: &str, size: &str) -> String {
    let hash = "a".repeat(64);
    format!(
        "\n[[bases]]\nkind = \"{kind}\"\nname = \"{name}\"\npath = \"memory.bin\"\nsize = {size}\nsha256 = \"{hash}\"\nroot = \"{hash}\"\ncopied_pages = 1\nsimilar_pages = 0\n"
    )
}

#[test]
fn hostile_manifests_are_refused_before_any_frame() {
    let pack = honest();
    let cases: &[(&str, &str, &str)] = &[
        ("size = 700", "size = 4398046511104", "declares"),
        ("size = 700", "size = 9223372036854775807", "declares"),
        ("size = 700", "size = 9223372036854775808", "manifest.toml"),
        ("size = 700", "size = -1", "manifest.toml"),
        ("size = 700", "size = 701", "root"),
        ("size = 700", "size = 1048577", "index"),
        ("[index]", "[xedni]", "[index]"),
        ("root = ", "toor = ", "belongs to version 3"),
        ("root = \"", "root = \"00", "not a root"),
        ("pack_version = 3", "pack_version = 2", "[index]"),
        ("pack_version = 3", "pack_version = 1", "version 2"),
        ("pack_version = 3", "pack_version = 4", "reads 1 to 3"),
        ("path = \"vmstate\"", "path = \"../vmstate\"", "expected one of"),
        ("tag = \"t\"", "tag = \"../t\"", "not a valid tag"),
        ("tag = \"t\"", "tag = \"u\"", "not the head"),
    ];
    for (from, to, expected) in cases {
        let edit = |text: String| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1)
        };
        let bytes = pack.edited(|_| {}, edit, |_| {});
        refused(&bytes, expected);
    }
    for huge in ["0", "1", "4294967296", "4611686018427387904"] {
        let size = format!("[index]\nsize = {}", pack.index(0).len());
        let edit = |text: String| text.replacen(&size, &format!("[index]\nsize = {huge}"), 1);
        refused(&pack.edited(|_| {}, edit, |_| {}), "index");
    }
    let with = |bases: String| PackParts { bases, ..pack.clone() }.bytes();
    refused(&with((0..1025).map(|i| base(&i.to_string(), "snapshot", "1")).collect()), "1025 base files");
    refused(&with(base("x", "planet", "1")), "manifest.toml");
    refused(&with(base("x", "snapshot", "9223372036854775807")), "a base file of more than");
    refused(&with(base("x", "snapshot", "-1")), "manifest.toml");
    refused(&with(base(&"x".repeat(129), "snapshot", "1")), "at most 128 bytes");
    refused(&with(base("x", "kernel", "1073741824")), "a kernel of");
}

#[test]
fn the_name_of_a_base_cannot_write_lines_of_its_own() {
    for name in ["a\\nforkd: all is well", "\\u001b[2J", &"x".repeat(100_000)] {
        let pack = PackParts { bases: base(name, "snapshot", "1"), ..honest() }.bytes();
        let error = Home::new().unpack(&pack).unwrap_err().to_string();
        assert!(!error.contains(char::is_control) && error.len() < 2000, "{error:.300}");
    }
}

#[test]
fn what_follows_the_frames_is_the_end_of_the_archive() {
    let end = honest().end;
    for other in [
        vec![],
        b"x".to_vec(),
        zstd_part(&[0; 512]),
        zstd_part(&[0; 2048]),
        zstd_part(&[&[0; 1023][..], b"x"].concat()),
        [&end[..], b"x"].concat(),
        [&end[..], &end].concat(),
        end[..end.len() - 1].to_vec(),
        [&end[..], &vec![0; 2000]].concat(),
        zstd_part(&vec![0; 64 << 20]),
    ] {
        let error = Home::new().unpack(&PackParts { end: other, ..honest() }.bytes()).unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity, "{error}");
    }
}

#[test]
fn a_lie_about_the_sha256_is_told_and_never_believed() {
    // The memory is honest by its root; its SHA-256 is said to be that of other bytes.
    let (mut lying, mut other) = (honest(), memory());
    other[PAGE] ^= 1;
    lying.files[2].sha256 = digest(&other);
    let home = Home::new();
    home.unpack(&lying.bytes()).unwrap();
    let tag = "t".parse().unwrap();
    assert!(std::fs::read(home.store.dir(&tag).join("memory.bin")).unwrap() == memory());
    let report = forkd_core::verify_tag(&home.store, &tag, env()).unwrap();
    assert_eq!(report.damage.len(), 1, "{report:?}");
    assert!(report.damage[0].message.contains("declares"), "{report:?}");
    // A pack of those other bytes is not taken for what is here; one of these bytes is.
    let v1 = |memory: &[u8]| {
        let json = br#"{"vmstate":"/h/v","memory":"/h/m","volumes":[]}"#.to_vec();
        let files = [
            ("snapshot.json", json),
            ("vmstate", pages(3, 1)[..700].to_vec()),
            ("memory.bin", memory.to_vec()),
        ]
        .map(|(name, bytes)| (name.to_owned(), bytes));
        let manifest = forkd_testing::manifest("t", &files);
        let mut entries = vec![forkd_testing::TarEntry::file("manifest.toml", manifest.as_bytes())];
        entries.extend(files.iter().map(|(name, bytes)| forkd_testing::TarEntry::file(name, bytes)));
        forkd_testing::zst(&forkd_testing::tar_of(&entries))
    };
    let error = home.unpack(&v1(&other)).unwrap_err();
    assert!(error.to_string().contains("with other bytes: its memory.bin differs"), "{error}");
    assert!(home.unpack(&v1(&memory())).unwrap().nothing_new());
    // Nor is the lie passed on.
    for format in [PackFormat::Single, PackFormat::Paged] {
        let options = forkd_core::PackOptions { format: Some(format), ..common::options("t") };
        let out = home.dir.path().join("out");
        let error = forkd_core::pack(&home.store, &options, &out, env()).unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity, "{error}");
        assert!(!out.exists());
    }
    // Not even by a pack that would replace it.
    let file = home.file(&v1(&other));
    let force = UnpackOptions { force: true, ..UnpackOptions::default() };
    let report = unpack_file(&home.store, &file, &force, env()).unwrap();
    assert_eq!(report.links[0].outcome, Outcome::Replaced);
    assert!(std::fs::read(home.store.dir(&tag).join("memory.bin")).unwrap() == other);
}

#[test]
fn a_description_is_held_to_its_sha256_as_well() {
    let mut lying = honest();
    lying.files[0].sha256 = digest(b"another");
    refused(&lying.bytes(), "snapshot.json is not what the manifest declares");
}

#[test]
fn two_hundred_gib_of_zeros_take_neither_memory_nor_disk() {
    let size = 200 << 30;
    let memory = FileParts {
        path: "memory.bin".into(),
        size,
        sha256: "0".repeat(64),
        frames: vec![None; (size >> 20) as usize],
    };
    let pack = PackParts::new(FileParts::plain("vmstate", b"x"), memory).bytes();
    assert!(pack.len() < 100_000);
    let home = Home::new();
    let begun = Instant::now();
    home.unpack(&pack).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let memory = home.store.dir(&"t".parse().unwrap()).join("memory.bin").metadata().unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((memory.len(), memory.blocks()), (size, 0));
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 512 << 10, "{peak} KiB");
}
