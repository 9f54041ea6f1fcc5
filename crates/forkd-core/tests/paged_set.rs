//! Packs of format 3 with a working set: made by hand so that it may lie, and made by forkd.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{Home, env};
use forkd_core::{Kind, PackOptions};
use forkd_format::{NeededFile, PackFormat};
use forkd_testing::{FileParts, FrameParts, PackParts, PlanRun, plan, pseudo_random, zstd_part};
use proptest::prelude::*;

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;
/// Numbers of sources: the files, then the set.
const MEMORY: u64 = 2;
const SET: u64 = 3;

fn noise(seed: u64, pages: usize) -> Vec<u8> {
    let mut random = pseudo_random(seed);
    (0..pages * PAGE).map(|_| random() as u8).collect()
}

fn memory() -> Vec<u8> {
    let mut memory = noise(1, 8);
    memory.resize(MIB, 0);
    memory.extend(noise(2, 4));
    memory
}

/// A pack whose set has pages 257 and 3 of its memory, the first frame of which copies one from there.
fn honest() -> PackParts {
    let memory = memory();
    let mut pack = PackParts::new(
        FileParts::plain("vmstate", &noise(3, 1)[..700]),
        FileParts::plain("memory.bin", &memory),
    );
    pack.set_runs = vec![(MEMORY, 257, 1), (MEMORY, 3, 1)];
    pack.set =
        FileParts::plain("", &[&memory[MIB + PAGE..MIB + 2 * PAGE], &memory[3 * PAGE..4 * PAGE]].concat());
    let runs = [PlanRun::Data(3), PlanRun::Copy(1, SET, 1), PlanRun::Data(4), PlanRun::Zero(248)];
    let kept = zstd_part(&[&memory[..3 * PAGE], &memory[4 * PAGE..8 * PAGE]].concat());
    pack.files[2].frames[0] = Some(FrameParts::of(&memory[..MIB], &plan(&[], &runs), &kept));
    pack
}

#[track_caller]
fn refused(pack: &PackParts, expected: &str) {
    let home = Home::new();
    let before = home.tree();
    let error = home.unpack(&pack.bytes()).expect_err("a pack that lies was accepted");
    assert_eq!(error.kind(), Kind::Integrity, "{error}");
    assert!(error.to_string().contains(expected), "expected '{expected}' in: {error}");
    assert_eq!(home.tree(), before, "{error}: the tree changed");
}

#[test]
fn frames_may_copy_from_the_set() {
    let home = Home::new();
    home.unpack(&honest().bytes()).unwrap();
    let dir = home.store.dir(&"t".parse().unwrap());
    assert!(std::fs::read(dir.join("memory.bin")).unwrap() == memory());
}

#[test]
fn a_set_that_lies_is_refused() {
    let lying = |edit: &dyn Fn(&mut PackParts)| {
        let mut pack = honest();
        edit(&mut pack);
        pack
    };
    // Its frame keeps the page itself, and the set says another one.
    refused(&lying(&|pack| pack.set = FileParts::plain("", &noise(9, 2))), "t/memory.bin");
    let plain = |pack: &mut PackParts| pack.files[2].frames[0] = Some(FrameParts::plain(&memory()[..MIB]));
    let other = lying(&|pack| {
        plain(pack);
        let set = [&memory()[MIB + PAGE..MIB + 2 * PAGE], &noise(9, 1)].concat();
        pack.set = FileParts::plain("", &set);
    });
    refused(&other, "page 3 of t/memory.bin is another in the working set");
    // Zeros where there are none, and the other way round.
    let zero = lying(&|pack| {
        plain(pack);
        pack.set = FileParts::plain("", &[&memory()[MIB + PAGE..MIB + 2 * PAGE], &[0; PAGE][..]].concat());
    });
    refused(&zero, "page 3 of t/memory.bin is another in the working set");
    let beside = lying(&|pack| {
        plain(pack);
        pack.set_runs[1].1 = 100;
    });
    refused(&beside, "page 100 of t/memory.bin is another in the working set");
    // What it decodes to is not what the index says.
    let hash = lying(&|pack| pack.set.frames[0].as_mut().unwrap().content = noise(9, 2));
    refused(&hash, "the working set, bytes 0..8192");
    // A set that refers to the files, or to itself.
    for (source, page) in [(MEMORY, 3), (SET, 0), (SET, 1)] {
        let pack = lying(&|pack| {
            let content = pack.set.frames[0].as_ref().unwrap().content.clone();
            let plan = plan(&[], &[PlanRun::Data(1), PlanRun::Copy(1, source, page)]);
            pack.set.frames[0] = Some(FrameParts::of(&content, &plan, &zstd_part(&content[..PAGE])));
        });
        refused(&pack, "the working set");
    }
    refused(&lying(&|pack| pack.set_runs[1] = (0, 0, 1)), "no file has");
    refused(&lying(&|pack| pack.set_runs[1] = (MEMORY, 257, 1)), "twice");
    refused(&lying(&|pack| pack.set_runs[1] = (MEMORY, 260, 1)), "no file has");
    refused(&lying(&|pack| pack.set_runs.truncate(1)), "other pages than its 2");
    refused(&lying(&|pack| pack.set_runs.push((MEMORY, 5, 1))), "other pages than its 2");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn any_pages_may_be_recorded(
        runs in proptest::collection::vec((any::<bool>(), 0_u64..600, 1_u64..40), 0..60),
        seed: u64,
    ) {
        let (a, b) = (Home::new(), Home::new());
        let made = forkd_testing::Fixture {
            tag: "t".into(),
            seed,
            memory: 2_200_000,
            rootfs: Some(1_300_000),
            parent: None,
        };
        let dir = forkd_testing::fixture(a.dir.path(), &made);
        let list: Vec<String> = runs
            .iter()
            .map(|(memory, first, count)| {
                format!("[\"{}\",{first},{count}]", if *memory { "memory" } else { "rootfs" })
            })
            .collect();
        let text = std::fs::read_to_string(dir.join("snapshot.json")).unwrap();
        std::fs::write(dir.join("snapshot.json"), format!("{{\"working_set\":[{}],{}", list.join(","), &text[1..])).unwrap();
        let options = PackOptions { format: Some(PackFormat::Paged), ..common::options("t") };
        let out = a.dir.path().join("out");
        forkd_core::pack(&a.store, &options, &out, env()).unwrap();
        let facts = forkd_core::inspect_file(&out, env()).unwrap().paged.unwrap();
        b.unpack(&std::fs::read(&out).unwrap()).unwrap();
        for name in ["vmstate", "rootfs.ext4", "memory.bin"] {
            let read = |home: &Home| std::fs::read(home.store.dir(&"t".parse().unwrap()).join(name)).unwrap();
            prop_assert!(read(&a) == read(&b), "{}", name);
        }
        let set = |home: &Home| home.store.load(&"t".parse().unwrap()).unwrap().snapshot.working_set().unwrap();
        prop_assert_eq!(set(&a), set(&b));
        // Pages of zeros take no bytes.
        let stored = set(&a).iter().any(|run| {
            let name = if run.file == NeededFile::Memory { "memory.bin" } else { "rootfs.ext4" };
            let pages = std::fs::read(dir.join(name)).unwrap();
            pages.iter().skip(run.first as usize * PAGE).take(run.count as usize * PAGE).any(|byte| *byte != 0)
        });
        prop_assert_eq!(facts.working_set.bytes > 0, stored);
    }
}
