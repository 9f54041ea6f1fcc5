//! Measures `forkd pack`, `unpack` and `pull` in one run with what the work costs at least on one thread of the same machine:
//! H (sha256 of all bytes), H1 (of the largest file), Z (zstd -3 of the non-zero pages), D (decoding that), W (writing those pages).
//! Usage: `forkd-bench FORKD MEMORY ROOTFS [RUNS]`; `benches/run` makes the inputs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a benchmark program")]

use forkd_format::{Digest, PAGE_SIZE, PIECE_SIZE};
use forkd_testing::TestHub;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// One measured figure, in seconds, a value a run.
struct Series(&'static str, Vec<f64>);

impl Series {
    fn median(&self) -> f64 {
        let mut sorted = self.1.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
}

fn timed<T>(series: &mut Series, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let value = work();
    series.1.push(begun.elapsed().as_secs_f64());
    value
}

struct Bench {
    forkd: PathBuf,
    work: tempfile::TempDir,
    peak_kib: u64,
}

impl Bench {
    /// Runs forkd; gives the time and keeps the largest resident size.
    fn run(&mut self, data_home: &Path, args: &[&str]) -> f64 {
        let report = self.work.path().join("rss");
        let begun = Instant::now();
        let status = Command::new("/usr/bin/time")
            .args(["-f", "%M", "-o", report.to_str().unwrap()])
            .arg(&self.forkd)
            .args(args)
            .arg("-q")
            .env("XDG_DATA_HOME", data_home)
            .stdout(Stdio::null())
            .status()
            .expect("/usr/bin/time is there");
        let time = begun.elapsed().as_secs_f64();
        assert!(status.success(), "forkd {args:?}");
        self.peak_kib = self.peak_kib.max(fs::read_to_string(report).unwrap().trim().parse().unwrap());
        time
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [forkd, memory, rootfs, rest @ ..] = args.as_slice() else {
        println!("usage: forkd-bench FORKD MEMORY ROOTFS [RUNS]");
        std::process::exit(2);
    };
    let runs: usize = rest.first().map_or(5, |runs| runs.parse().unwrap());
    let base = Path::new(rootfs).parent().unwrap();
    let work = tempfile::tempdir_in(base).unwrap();
    let mut bench = Bench { forkd: forkd.into(), work, peak_kib: 0 };
    let root = bench.work.path().to_owned();
    let dir = root.join("home/forkd/snapshots/bench");
    fs::create_dir_all(&dir).unwrap();
    let files = [("memory.bin", memory), ("rootfs.ext4", rootfs)];
    for (name, path) in files {
        assert!(
            Command::new("cp")
                .args(["--sparse=always", path])
                .arg(dir.join(name))
                .status()
                .unwrap()
                .success()
        );
    }
    fs::write(dir.join("vmstate"), vec![1; 300_000]).unwrap();
    fs::write(dir.join("snapshot.json"), r#"{"vmstate":"","memory":"","volumes":[]}"#).unwrap();
    let bytes: Vec<Vec<u8>> = files.iter().map(|(name, _)| fs::read(dir.join(name)).unwrap()).collect();
    let pages: Vec<Vec<u64>> = bytes.iter().map(|bytes| data_pages(bytes)).collect();
    let nonzero: u64 = pages.iter().map(|pages| pages.len() as u64 * PAGE_SIZE as u64).sum();
    let packed: Vec<u8> = gather(&bytes, &pages);

    let hub_dir = root.join("hub");
    fs::create_dir(&hub_dir).unwrap();
    let hub = TestHub::start(&hub_dir);
    let names = ["H", "H1", "Z", "D", "W", "pack", "unpack", "pull"];
    let [mut h, mut h1, mut z, mut d, mut w, mut pack, mut unpack, mut pull] =
        names.map(|name| Series(name, Vec::new()));
    let pack_file = hub_dir.join("bench.tar.zst");
    // Touched once before the clock runs: the baselines pay for no page fault.
    let mut frame = vec![1; packed.len() + packed.len() / 64];
    let mut decoded = vec![1; packed.len()];
    let largest = bytes.iter().max_by_key(|bytes| bytes.len()).unwrap();
    // Run 0 warms caches, and memory that the machine's own host may not have given yet; it does not count.
    for run in 0..=runs {
        println!("run {run} of {runs}");
        timed(&mut h, || bytes.iter().map(|bytes| Digest::of(bytes)).collect::<Vec<_>>());
        timed(&mut h1, || Digest::of(largest));
        let len = timed(&mut z, || zstd::bulk::compress_to_buffer(&packed, &mut frame, 3).unwrap());
        assert_eq!(
            timed(&mut d, || zstd::bulk::decompress_to_buffer(&frame[..len], &mut decoded).unwrap()),
            packed.len()
        );
        let out = root.join("pages");
        fs::create_dir(&out).unwrap();
        timed(&mut w, || write_pages(&out, &bytes, &pages));
        fs::remove_dir_all(&out).unwrap();
        // Each step that writes much comes after one whose files were just deleted: the machine gives both the same kind of memory.
        settle();
        if run > 0 {
            unpack.1.push(bench.run(&root.join("unpacked"), &["unpack", pack_file.to_str().unwrap()]));
            check(&dir, &root.join("unpacked/forkd/snapshots/bench"), nonzero);
            fs::remove_dir_all(root.join("unpacked")).unwrap();
            settle();
            pull.1.push(bench.run(&root.join("pulled"), &["pull", &hub.url("bench.tar.zst")]));
            fs::remove_dir_all(root.join("pulled")).unwrap();
            fs::remove_file(&pack_file).unwrap();
            settle();
        }
        pack.1.push(
            bench.run(&root.join("home"), &["pack", "--tag", "bench", "--out", pack_file.to_str().unwrap()]),
        );
        if run == 0 {
            for series in [&mut h, &mut h1, &mut z, &mut d, &mut w, &mut pack] {
                series.1.clear();
            }
        }
    }

    let cores = std::thread::available_parallelism().unwrap().get() as f64;
    let (h_, h1_, z_, d_, w_) = (h.median(), h1.median(), z.median(), d.median(), w.median());
    for series in [&h, &h1, &z, &d, &w, &pack, &unpack, &pull] {
        println!(
            "{:>7}  median {:.3} s  of {:?}",
            series.0,
            series.median(),
            series.1.iter().map(|t| (t * 1e3) as u64).collect::<Vec<_>>()
        );
    }
    let tar = tar_zstd_size(&dir);
    let size = pack_file.metadata().unwrap().len();
    let all: usize = bytes.iter().map(Vec::len).sum();
    println!(
        "input: {:.2} GiB, {:.0} MiB non-zero; {cores} cores",
        all as f64 / f64::from(1 << 30),
        nonzero as f64 / f64::from(1 << 20)
    );
    let verdict = |what: &str, value: f64, limit: f64| {
        println!("{} {what}: {value:.3} (at most {limit})", if value <= limit { "ok  " } else { "MISS" });
    };
    verdict("pack / max(H1, (H+Z)/C)", pack.median() / h1_.max((h_ + z_) / cores), 1.3);
    verdict("unpack / max(H1, (H+D+W)/C)", unpack.median() / h1_.max((h_ + d_ + w_) / cores), 1.3);
    verdict("pull / unpack", pull.median() / unpack.median(), 1.25);
    verdict("pack size / (tar | zstd -3)", size as f64 / tar as f64, 1.03);
    verdict("largest resident size, MiB", bench.peak_kib as f64 / 1024.0, 256.0);
}

/// Lets the disk finish what earlier steps left to it.
fn settle() {
    let _ = Command::new("sync").status();
}

fn data_pages(bytes: &[u8]) -> Vec<u64> {
    let pages = bytes.chunks(PAGE_SIZE).enumerate().filter(|(_, page)| !forkd_sys::is_zero(page));
    pages.map(|(i, _)| (i * PAGE_SIZE) as u64).collect()
}

fn gather(bytes: &[Vec<u8>], pages: &[Vec<u64>]) -> Vec<u8> {
    let mut all = Vec::new();
    for (bytes, pages) in bytes.iter().zip(pages) {
        for page in pages {
            let at = *page as usize;
            all.extend_from_slice(&bytes[at..(at + PAGE_SIZE).min(bytes.len())]);
        }
    }
    all
}

/// Writes runs of pages, of up to a piece, as any unpacker would.
fn write_pages(dir: &Path, bytes: &[Vec<u8>], pages: &[Vec<u64>]) {
    for (i, (bytes, pages)) in bytes.iter().zip(pages).enumerate() {
        let file = File::create(dir.join(i.to_string())).unwrap();
        let mut run: Option<(u64, u64)> = None;
        for page in pages.iter().copied().chain([u64::MAX]) {
            run = match run {
                Some((start, end)) if page == end && end - start < PIECE_SIZE as u64 => {
                    Some((start, end + PAGE_SIZE as u64))
                }
                Some((start, end)) => {
                    file.write_all_at(&bytes[start as usize..(end as usize).min(bytes.len())], start)
                        .unwrap();
                    Some((page, page.saturating_add(PAGE_SIZE as u64)))
                }
                None => Some((page, page.saturating_add(PAGE_SIZE as u64))),
            };
        }
        file.set_len(bytes.len() as u64).unwrap();
    }
}

/// The unpacked files have the same bytes and take no more blocks than their non-zero pages, and one in a hundred.
fn check(before: &Path, after: &Path, nonzero: u64) {
    let mut blocks = 0;
    for name in ["memory.bin", "rootfs.ext4"] {
        let same = Command::new("cmp").arg(before.join(name)).arg(after.join(name)).status().unwrap();
        assert!(same.success(), "{name} differs");
        blocks += after.join(name).metadata().unwrap().blocks() * 512;
    }
    assert!(blocks as f64 <= nonzero as f64 * 1.01, "{blocks} bytes on disk for {nonzero} that are not zero");
}

fn tar_zstd_size(dir: &Path) -> u64 {
    let mut tar =
        Command::new("tar").args(["-c", "."]).current_dir(dir).stdout(Stdio::piped()).spawn().unwrap();
    let mut encoder = zstd::Encoder::new(Counter(0), 3).unwrap();
    let mut stream = tar.stdout.take().unwrap();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = stream.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        encoder.write_all(&buffer[..read]).unwrap();
    }
    assert!(tar.wait().unwrap().success());
    encoder.finish().unwrap().0
}

struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
