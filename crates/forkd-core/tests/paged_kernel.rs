//! A guest's kernel as a base of a pack of format 3: it comes from beside the pack or from the cache, and only as what it is named.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{Home, env};
use forkd_core::cache::Cache;
use forkd_core::{Kind, PackOptions, UnpackOptions, unpack_file};
use forkd_format::PackFormat;
use forkd_testing::{Fixture, fixture, pseudo_random, sha256};
use std::path::{Path, PathBuf};

/// A store with a snapshot whose memory holds most of a kernel, and the kernel and the pack in a folder `out`.
struct Packed {
    home: Home,
    out: PathBuf,
    pack: PathBuf,
    kernel: PathBuf,
}

fn packed() -> Packed {
    let home = Home::new();
    let (out, vmlinux) = (home.dir.path().join("out"), home.dir.path().join("vmlinux"));
    std::fs::create_dir(&out).unwrap();
    let mut random = pseudo_random(1);
    let kernel: Vec<u8> = (0..(3 << 20) + 1234).map(|_| random() as u8).collect();
    std::fs::write(&vmlinux, &kernel).unwrap();
    let made = Fixture { tag: "t".into(), seed: 1, memory: 0, rootfs: None, parent: None };
    let dir = fixture(home.dir.path(), &made);
    let mut memory = vec![0; 8 << 20];
    memory[1 << 20..(3 << 20)].copy_from_slice(&kernel[4096..(2 << 20) + 4096]);
    memory[(5 << 20) + 77..(5 << 20) + 90_077].copy_from_slice(&kernel[10_000..100_000]);
    std::fs::write(dir.join("memory.bin"), memory).unwrap();
    let pack = out.join("t.pack");
    let kernel = out.join(format!("{}.vmlinux.zst", &sha256(&vmlinux)[..16]));
    let options = options(&vmlinux);
    let report = forkd_core::pack(&home.store, &options, &pack, env()).unwrap();
    assert!(report.size < 200_000, "{} bytes: the kernel is not used", report.size);
    assert_eq!(report.bases.len(), 1);
    assert!(report.bases[0].copied_pages > 500 && report.bases[0].similar_pages > 0);
    Packed { home, out, pack, kernel }
}

fn options(vmlinux: &Path) -> PackOptions {
    let kernel = Some(("6.1.0".to_owned(), vmlinux.to_owned()));
    PackOptions { format: Some(PackFormat::Paged), kernel, ..common::options("t") }
}

fn with_cache(home: &Home) -> (Cache, UnpackOptions) {
    let cache = Cache::new(&home.dir.path().join("cache"));
    let options = UnpackOptions { cache: Some(cache.clone()), ..UnpackOptions::default() };
    (cache, options)
}

/// Unpacks and expects what was packed.
fn comes_back(packed: &Packed, home: &Home, options: &UnpackOptions) {
    unpack_file(&home.store, &packed.pack, options, env()).unwrap();
    let memory = |home: &Home| sha256(&home.store.dir(&"t".parse().unwrap()).join("memory.bin"));
    assert_eq!(memory(&packed.home), memory(home));
    let dir = home.store.dir(&"t".parse().unwrap());
    let names = std::fs::read_dir(dir).unwrap().count();
    assert_eq!(names, 4, "the kernel is no part of the snapshot");
    let staged = std::fs::read_dir(home.store.root().join("staging")).into_iter().flatten().count();
    assert_eq!(staged, 0);
}

#[track_caller]
fn refused(packed: &Packed, kind: Kind) -> String {
    let mut message = String::new();
    for cached in [false, true] {
        let home = Home::new();
        let (cache, with) = with_cache(&home);
        let before = home.tree();
        let options = if cached { with } else { UnpackOptions::default() };
        let error = unpack_file(&home.store, &packed.pack, &options, env()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let whole: Vec<_> = cache.list().unwrap().into_iter().filter(|found| !found.partial).collect();
        assert!(whole.is_empty(), "{error}: {whole:?} is kept");
        let mut after = home.tree();
        after.retain(|path, _| !path.starts_with("cache"));
        assert_eq!(after, before, "{error}");
        let verified = forkd_core::verify_file(&home.store, &packed.pack, options.cache.as_ref(), env());
        assert_eq!(verified.unwrap_err().kind(), kind);
        message = error.to_string();
    }
    message
}

#[test]
fn a_kernel_comes_from_beside_the_pack_or_from_the_cache() {
    let packed = packed();
    let mode = std::os::unix::fs::MetadataExt::mode(&packed.kernel.metadata().unwrap()) & 0o777;
    assert_eq!(mode, 0o644);
    comes_back(&packed, &Home::new(), &UnpackOptions::default());
    let home = Home::new();
    let (cache, options) = with_cache(&home);
    comes_back(&packed, &home, &options);
    assert_eq!(cache.list().unwrap().len(), 1);
    // From now on it need not lie there.
    std::fs::remove_file(&packed.kernel).unwrap();
    std::fs::remove_dir_all(home.store.root()).unwrap();
    comes_back(&packed, &home, &options);
    forkd_core::verify_file(&home.store, &packed.pack, Some(&cache), env()).unwrap();
    let error = unpack_file(&Home::new().store, &packed.pack, &UnpackOptions::default(), env()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    assert!(error.to_string().contains(".vmlinux.zst is missing"), "{error}");
}

#[test]
fn a_damaged_kernel_of_the_cache_is_taken_anew() {
    let packed = packed();
    let home = Home::new();
    let (cache, options) = with_cache(&home);
    comes_back(&packed, &home, &options);
    let path = &cache.list().unwrap()[0].path;
    let good = std::fs::read(path).unwrap();
    let damage = |bytes: &[u8]| {
        std::fs::remove_dir_all(home.store.root()).unwrap();
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let mut flipped = good.clone();
    flipped.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
    for bytes in [&flipped[..], &good[..good.len() / 2], b""] {
        damage(bytes);
        comes_back(&packed, &home, &options);
        assert!(std::fs::read(path).unwrap() == good);
    }
    damage(&flipped);
    std::fs::remove_file(&packed.kernel).unwrap();
    let error = unpack_file(&home.store, &packed.pack, &options, env()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    assert!(!home.store.contains(&"t".parse().unwrap()));
}

#[test]
fn a_kernel_that_is_missing_damaged_or_another_is_refused() {
    let packed = packed();
    let good = std::fs::read(&packed.kernel).unwrap();
    let plain = zstd::decode_all(&good[..]).unwrap();
    let with = |bytes: &[u8]| {
        std::fs::write(&packed.kernel, bytes).unwrap();
        refused(&packed, Kind::Integrity)
    };
    let mut flipped = good.clone();
    for at in (0..good.len()).step_by(good.len() / 20) {
        flipped[at] ^= 0x10;
        std::fs::write(&packed.kernel, &flipped).unwrap();
        let home = Home::new();
        let error = unpack_file(&home.store, &packed.pack, &UnpackOptions::default(), env()).unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity, "byte {at}: {error}");
        flipped[at] ^= 0x10;
    }
    with(&good[..good.len() / 2]);
    with(b"");
    with(b"not zstd at all");
    let zst = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    assert!(with(&zst(&plain[..plain.len() - 1])).contains("the manifest declares"));
    assert!(with(&zst(&[&plain[..], b"x"].concat())).contains("more than the"));
    assert!(with(&zst(&vec![0; plain.len()])).contains("sha256"));
    with(&[&good[..], b"x"].concat());
    assert!(with(&[&good[..], &zst(b"x")].concat()).contains("more than the"));
    // Two TiB of zeros in 200 KB: refused where the declared size ends.
    let zeros = zst(&vec![0; 64 << 20]);
    assert!(with(&zeros.repeat(100)).contains("more than the"));
    let window = [0x28, 0xB5, 0x2F, 0xFD, 0x00, 21 << 3, 1, 0, 0];
    with(&window);
    std::fs::remove_file(&packed.kernel).unwrap();
    refused(&packed, Kind::NotFound);
    std::fs::create_dir(&packed.kernel).unwrap();
    refused(&packed, Kind::Integrity);
    std::fs::remove_dir(&packed.kernel).unwrap();
    std::fs::write(&packed.kernel, &good).unwrap();
    comes_back(&packed, &Home::new(), &UnpackOptions::default());
}

#[test]
fn packing_puts_a_whole_kernel_beside_the_pack() {
    let packed = packed();
    let vmlinux = packed.home.dir.path().join("vmlinux");
    let good = std::fs::read(&packed.kernel).unwrap();
    let again = || {
        forkd_core::pack(&packed.home.store, &options(&vmlinux), &packed.pack, env()).unwrap();
        let names = std::fs::read_dir(&packed.out).unwrap().count();
        assert_eq!(names, 2, "only the pack and its kernel");
        comes_back(&packed, &Home::new(), &UnpackOptions::default());
    };
    again();
    assert!(std::fs::read(&packed.kernel).unwrap() == good);
    // What lies there under its name and is not it does not stay: the pack could not be read.
    for other in [&good[..good.len() / 2], b"", b"another"] {
        std::fs::write(&packed.kernel, other).unwrap();
        again();
    }
}
