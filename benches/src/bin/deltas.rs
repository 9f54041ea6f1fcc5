//! Measures pack format 3 on real guests, in one run with its baselines: the version 1 pack of the same snapshot, and `zstd -3 --patch-from`
//! of whole files. `benches/deltas` bakes the guests. Usage: `deltas FORKD FOLDER [RUNS]`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a benchmark program")]

use forkd_core::{Cancel, Env, Silent};
use forkd_testing::TestHub;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

struct Bench {
    forkd: PathBuf,
    store: PathBuf,
    cache: PathBuf,
    work: tempfile::TempDir,
}

/// What one run of forkd took.
#[derive(Clone, Copy)]
struct Took {
    seconds: f64,
    /// Of all cores together.
    cpu_seconds: f64,
    peak_mib: f64,
}

impl Bench {
    fn run(&self, data_home: &Path, args: &[&str]) -> (Took, String) {
        let report = self.work.path().join("rss");
        let begun = Instant::now();
        let output = Command::new("/usr/bin/time")
            .args(["-f", "%M %U %S", "-o", report.to_str().unwrap()])
            .arg(&self.forkd)
            .args(args)
            .env("XDG_DATA_HOME", data_home)
            .env("XDG_CACHE_HOME", &self.cache)
            .stderr(Stdio::inherit())
            .output()
            .expect("/usr/bin/time is there");
        let seconds = begun.elapsed().as_secs_f64();
        assert!(output.status.success(), "forkd {args:?}");
        let figures = fs::read_to_string(report).unwrap();
        let figures: Vec<f64> = figures.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
        let (peak_mib, cpu_seconds) = (figures[0] / 1024.0, figures[1] + figures[2]);
        (Took { seconds, cpu_seconds, peak_mib }, String::from_utf8(output.stdout).unwrap())
    }

    fn pack(&self, name: &str, args: &[&str]) -> (Took, PathBuf) {
        let out = self.work.path().join("hub").join(name);
        let _ = fs::remove_file(&out);
        let mut all = vec!["pack", "-q", "--out", out.to_str().unwrap()];
        all.extend(args);
        (self.run(&self.store, &all).0, out)
    }

    fn inspect(&self, pack: &Path) -> Value {
        let (_, text) = self.run(&self.store, &["inspect", "--json", pack.to_str().unwrap()]);
        serde_json::from_str(&text).unwrap()
    }

    /// Bytes of a version 3 pack's frames of memory, and of its working set, which is of memory but for some pages.
    fn memory_part(&self, pack: &Path) -> f64 {
        let facts = self.inspect(pack);
        let files = facts["frames"]["files"].as_array().unwrap();
        let of = |file: &&Value| file["name"].as_str().unwrap().ends_with("memory.bin");
        let set = facts["frames"]["working_set"]["stored_bytes"].as_f64().unwrap();
        files.iter().find(of).unwrap()["stored_bytes"].as_f64().unwrap() + set
    }

    fn file(&self, tag: &str, name: &str) -> PathBuf {
        self.store.join("forkd/snapshots").join(tag).join(name)
    }

    /// The size of a file compressed by the zstd command with others as what it is patched from.
    fn patch_from(&self, target: &Path, references: &[PathBuf]) -> f64 {
        let joined = self.work.path().join("joined");
        let status = Command::new("sh")
            .args(["-c", "cat \"$@\" > \"$0\"", joined.to_str().unwrap()])
            .args(references)
            .status()
            .unwrap();
        assert!(status.success());
        let out = self.work.path().join("patch");
        let status = Command::new("zstd")
            .args(["-3", "-q", "-f", "--long=31", &format!("--patch-from={}", joined.display())])
            .arg(target)
            .arg("-o")
            .arg(&out)
            .status()
            .expect("zstd is there");
        assert!(status.success());
        fs::remove_file(joined).unwrap();
        out.metadata().unwrap().len() as f64
    }
}

/// Bytes of a version 1 pack's frames of memory: those between its tar header's frame and the one that ends the archive.
fn v1_memory_part(pack: &Path) -> f64 {
    let bytes = fs::read(pack).unwrap();
    let (mut at, mut from) = (0, None);
    while at < bytes.len() {
        let len = zstd::zstd_safe::find_frame_compressed_size(&bytes[at..]).unwrap();
        let frame = &bytes[at..at + len];
        let size = zstd::zstd_safe::get_frame_content_size(frame).ok().flatten();
        if size == Some(512) && zstd::bulk::decompress(frame, 512).unwrap().starts_with(b"memory.bin\0") {
            from = Some(at + len);
        }
        if size == Some(1024) && at + len == bytes.len() {
            return (at - from.unwrap()) as f64;
        }
        at += len;
    }
    panic!("{} does not end as a version 1 pack of forkd does", pack.display());
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn verdict(what: &str, value: f64, limit: f64) {
    println!("{} {what}: {value:.3} (at most {limit})", if value <= limit { "ok  " } else { "MISS" });
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [forkd, folder, rest @ ..] = args.as_slice() else {
        println!("usage: deltas FORKD FOLDER [RUNS]");
        std::process::exit(2);
    };
    let runs: usize = rest.first().map_or(3, |runs| runs.parse().unwrap());
    let folder = Path::new(folder).canonicalize().unwrap();
    let bench = Bench {
        forkd: Path::new(forkd).canonicalize().unwrap(),
        store: folder.join("data"),
        cache: std::env::var_os("XDG_CACHE_HOME").expect("XDG_CACHE_HOME: where the kernel is").into(),
        work: tempfile::tempdir_in(&folder).unwrap(),
    };
    fs::create_dir(bench.work.path().join("hub")).unwrap();
    sizes(&bench);
    times(&bench, runs);
    pulls(&bench);
}

fn sizes(bench: &Bench) {
    let (_, v1_b) = bench.pack("b.v1", &["--tag", "numpy-b"]);
    let (_, v1_p) = bench.pack("p.v1", &["--tag", "pandas"]);
    let (_, full) = bench.pack("b.v3", &["--format", "3", "--tag", "numpy-b"]);
    let (_, kernel) = bench.pack("b.v3k", &["--format", "3", "--kernel", "--tag", "numpy-b"]);
    let (_, b) = bench.pack("b.v3a", &["--format", "3", "--base", "numpy-a", "--tag", "numpy-b"]);
    let (_, p) = bench.pack("p.v3a", &["--format", "3", "--base", "numpy-a", "--tag", "pandas"]);
    let (old_b, old_p) = (v1_memory_part(&v1_b), v1_memory_part(&v1_p));
    let parts = [&full, &kernel, &b, &p].map(|pack| bench.memory_part(pack));
    let vmlinux = bench.work.path().join("vmlinux");
    let beside = fs::read_dir(bench.work.path().join("hub")).unwrap().flatten().map(|entry| entry.path());
    let beside = beside.into_iter().find(|path| path.to_string_lossy().ends_with(".vmlinux.zst")).unwrap();
    fs::write(&vmlinux, zstd::decode_all(fs::File::open(beside).unwrap()).unwrap()).unwrap();
    let (a, r) = (bench.file("numpy-a", "memory.bin"), bench.file("numpy-a", "rootfs.ext4"));
    let (mb, mp) = (bench.file("numpy-b", "memory.bin"), bench.file("pandas", "memory.bin"));
    let (rb, rp) = (bench.file("numpy-b", "rootfs.ext4"), bench.file("pandas", "rootfs.ext4"));
    let patches = [
        bench.patch_from(&mb, std::slice::from_ref(&rb)),
        bench.patch_from(&mb, &[rb, vmlinux]),
        bench.patch_from(&mb, &[a.clone(), r]),
        bench.patch_from(&mp, &[a, rp]),
    ];
    println!("memory parts, bytes: v1 {old_b:.0} (numpy), {old_p:.0} (pandas)");
    let names =
        ["numpy, no base", "numpy, kernel here", "numpy against another bake", "pandas against numpy"];
    for ((name, part), patch) in names.iter().zip(parts).zip(patches) {
        println!("  {name}: v3 {part:.0}; zstd -3 --patch-from of the same {patch:.0}");
    }
    verdict("no base / v1", parts[0] / old_b, 0.65);
    verdict("no base, kernel here / v1", parts[1] / old_b, 0.3);
    verdict("re-bake against the other / v1", parts[2] / old_b, 0.125);
    verdict("pandas against numpy / v1", parts[3] / old_p, 0.2);
    for ((name, part), patch) in names.iter().zip(parts).zip(patches) {
        verdict(&format!("{name}: v3 / zstd --patch-from"), part / patch, 1.0);
    }
}

fn times(bench: &Bench, runs: usize) {
    let (mut v1, mut v3, mut u1, mut u3) = (vec![], vec![], vec![], vec![]);
    let (mut pack_peak, mut alone_peak, mut unpack_peak) = (0.0_f64, 0.0_f64, 0.0_f64);
    let (mut cpu_v1, mut cpu_v3, mut cpu_alone) = (vec![], vec![], vec![]);
    let unpacked = bench.work.path().join("unpacked");
    for run in 0..=runs {
        let (old, one) = bench.pack("b.v1", &["--tag", "numpy-b"]);
        let (new, _) =
            bench.pack("b.v3a", &["--format", "3", "--base", "numpy-a", "--kernel", "--tag", "numpy-b"]);
        let (alone, three) = bench.pack("b.v3", &["--format", "3", "--tag", "numpy-b"]);
        let unpack = |pack: &Path| {
            let _ = fs::remove_dir_all(&unpacked);
            let _ = Command::new("sync").status();
            let took = bench.run(&unpacked, &["unpack", "-q", pack.to_str().unwrap()]).0;
            for name in ["memory.bin", "rootfs.ext4"] {
                let after = unpacked.join("forkd/snapshots/numpy-b").join(name);
                let same = Command::new("cmp").arg(bench.file("numpy-b", name)).arg(after).status().unwrap();
                assert!(same.success(), "{name} differs");
            }
            took
        };
        let (first, second) = (unpack(&one), unpack(&three));
        pack_peak = pack_peak.max(new.peak_mib);
        alone_peak = alone_peak.max(alone.peak_mib);
        unpack_peak = unpack_peak.max(second.peak_mib);
        // The first run warms caches.
        if run > 0 {
            v1.push(old.seconds);
            v3.push(new.seconds);
            cpu_v1.push(old.cpu_seconds);
            cpu_v3.push(new.cpu_seconds);
            cpu_alone.push(alone.cpu_seconds);
            u1.push(first.seconds);
            u3.push(second.seconds);
        }
    }
    let (v1, v3, u1, u3) = (median(v1), median(v3), median(u1), median(u3));
    println!("seconds: pack v1 {v1:.2}, v3 against base and kernel {v3:.2}; unpack v1 {u1:.2}, v3 {u3:.2}");
    verdict("pack v3 with references / pack v1", v3 / v1, 2.0);
    let (cpu_v1, cpu_v3, cpu_alone) = (median(cpu_v1), median(cpu_v3), median(cpu_alone));
    println!("CPU seconds: pack v1 {cpu_v1:.2}, v3 {cpu_alone:.2}, v3 against base and kernel {cpu_v3:.2}");
    verdict("CPU of pack v3 / pack v1", cpu_alone / cpu_v1, 2.0);
    verdict("unpack v3 / unpack v1", u3 / u1, 0.6);
    let references = ["numpy-a", "numpy-b"].iter().flat_map(|tag| {
        let files = ["memory.bin", "rootfs.ext4"];
        files.map(|name| {
            std::os::unix::fs::MetadataExt::blocks(&bench.file(tag, name).metadata().unwrap()) * 512
        })
    });
    let references = references.sum::<u64>() as f64 / f64::from(1 << 20);
    verdict("largest resident size of pack, MiB", pack_peak, 256.0 + references / 4.0);
    verdict("the same without a base, MiB", alone_peak, 256.0);
    verdict("largest resident size of unpack, MiB", unpack_peak, 256.0);
    let cancel = Cancel::default();
    let env = Env { progress: &Silent, cancel: &cancel, jobs: 1 };
    let (a, r) = (bench.file("numpy-a", "memory.bin"), bench.file("numpy-a", "rootfs.ext4"));
    let target = bench.file("pandas", "memory.bin");
    let rates = (0..runs).map(|_| {
        let figures = forkd_core::measure::search(&target, &[&a, &r], env).unwrap();
        figures.pages as f64 * 4096.0 / 1e6 / figures.search.as_secs_f64()
    });
    let rate = median(rates.collect());
    println!("reference search on one core: {rate:.0} MB/s of the target's pages that are not zero");
    verdict("150 MB/s / reference search", 150.0 / rate, 1.0);
}

fn pulls(bench: &Bench) {
    let hub_dir = bench.work.path().join("hub");
    let (_, delta) = bench.pack("b.v3a", &["--format", "3", "--base", "numpy-a", "--tag", "numpy-b"]);
    let mut artifacts = Vec::new();
    for name in ["b.v3", "b.v3a"] {
        let mut artifact = bench.inspect(&hub_dir.join(name))["frames"]["artifact"].clone();
        artifact["url"] = json!(name);
        artifacts.push(artifact);
    }
    let v1 = hub_dir.join("b.v1");
    let version = json!({
        "url": "b.v1",
        "sha256": forkd_testing::sha256(&v1),
        "size_bytes": v1.metadata().unwrap().len(),
        "artifacts": artifacts,
    });
    let registry =
        json!({ "schema_version": 1, "packages": { "acme/numpy": { "versions": { "latest": version } } } });
    fs::write(hub_dir.join("registry.json"), registry.to_string()).unwrap();
    let hub = TestHub::start(&hub_dir);
    let home = bench.work.path().join("home");
    fs::create_dir_all(home.join("forkd/snapshots")).unwrap();
    let copied = Command::new("cp")
        .args(["-a", "--sparse=always"])
        .arg(bench.store.join("forkd/snapshots/numpy-a"))
        .arg(home.join("forkd/snapshots/numpy-a"))
        .status()
        .unwrap();
    assert!(copied.success());
    let url = hub.url("registry.json");
    let args = ["pull", "-q", "acme/numpy", "--hub", &url];
    let (took, _) = bench.run(&home, &args);
    let moved: u64 = hub.requests().iter().map(forkd_testing::LoggedRequest::bytes).sum();
    let delta = delta.metadata().unwrap().len();
    println!(
        "pull of version 2 with version 1 here: {moved} bytes, {:.2} s; the delta has {delta}",
        took.seconds
    );
    verdict("bytes moved / bytes of the delta", moved as f64 / delta as f64, 1.1);
    verdict("largest resident size of pull, MiB", took.peak_mib, 256.0);
    let before = hub.requests().len();
    bench.run(&home, &args);
    let again = &hub.requests()[before..];
    let body: u64 = again.iter().map(forkd_testing::LoggedRequest::bytes).sum();
    println!("pull again: {} request, {body} bytes of body", again.len());
    verdict("requests of a repeated pull", again.len() as f64, 1.0);
    verdict("body of a repeated pull", body as f64, 0.0);
}
