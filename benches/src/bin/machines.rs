//! Measures forks against boots of the same machine, in one run: the time to the first answer, the processor time of many children,
//! their memory, what a chain costs, and what zeroing freed memory saves. Usage: `machines FORKD ROOTFS [RUNS]`; `benches/machines`
//! makes the inputs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a benchmark program")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const WARM: &str = "python3 /usr/local/lib/forkd/eval-server.py";
const QUESTION: &str = "int(np.arange(1000).sum())";

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Bench {
    forkd: PathBuf,
    work: tempfile::TempDir,
}

impl Bench {
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let dir = |name: &str| {
            let dir = self.work.path().join(name);
            std::fs::create_dir_all(&dir).unwrap();
            dir
        };
        command.env("XDG_DATA_HOME", dir("data")).env("XDG_RUNTIME_DIR", dir("run")).stdin(Stdio::null());
        command
    }

    fn text(&self, args: &[&str]) -> String {
        let output = self.command(&self.forkd).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Bakes; gives the seconds from the start of the boot until the guest was warm.
    fn bake(&self, rootfs: &str, tag: &str, more: &[&str]) -> f64 {
        let args = ["snapshot", "--tag", tag, "--rootfs", rootfs, "--warm", WARM, "--accel", "tcg", "--json"];
        let json: serde_json::Value = serde_json::from_str(&self.text(&[&args[..], more].concat())).unwrap();
        json["boot_seconds"].as_f64().unwrap() + json["warm_seconds"].as_f64().unwrap()
    }

    /// Seconds from the start of the command until the first child's answer is printed.
    fn first_answer(&self, tag: &str) -> f64 {
        let begun = Instant::now();
        let mut child = self
            .command(&self.forkd)
            .args(["fork", "--tag", tag, "--eval", QUESTION])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let time = begun.elapsed().as_secs_f64();
        assert!(line.trim_end().ends_with(": 499500"), "{line}");
        assert!(child.wait().unwrap().success());
        time
    }

    /// Seconds of processor time, of forkd and its children.
    fn processor_time(&self, count: usize) -> f64 {
        let report = self.work.path().join("time");
        let count = count.to_string();
        let status = self
            .command(Path::new("/usr/bin/time"))
            .args(["-f", "%U %S", "-o"])
            .arg(&report)
            .arg(&self.forkd)
            .args(["fork", "--tag", "guest", "-n", &count, "--eval", QUESTION])
            .stdout(Stdio::null())
            .status()
            .expect("/usr/bin/time is there");
        assert!(status.success());
        std::fs::read_to_string(report).unwrap().split_whitespace().map(|t| t.parse::<f64>().unwrap()).sum()
    }

    fn compressed_memory(&self, tag: &str) -> f64 {
        let path = self.work.path().join("data/forkd/snapshots").join(tag).join("memory.bin");
        zstd::encode_all(std::fs::File::open(path).unwrap(), 3).unwrap().len() as f64
    }
}

fn row(what: &str, measured: f64, baseline: f64, unit: &str, goal: &str) {
    println!(
        "| {what} | {measured:.2} {unit} | {baseline:.2} {unit} | {:.2} | {goal} |",
        measured / baseline
    );
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (forkd, rootfs) = (PathBuf::from(&args[1]).canonicalize().unwrap(), &args[2]);
    let runs: usize = args.get(3).map_or(5, |text| text.parse().unwrap());
    let bench = Bench { forkd, work: tempfile::tempdir().unwrap() };
    println!("medians of {runs}; the command that is timed is forkd itself, from its start");
    println!("| what | measured | baseline | ratio | goal |\n|---|---|---|---|---|");

    let mut boots = vec![bench.bake(rootfs, "guest", &[])];
    for i in 1..runs.min(3) {
        let tag = format!("again{i}");
        boots.push(bench.bake(rootfs, &tag, &[]));
        bench.text(&["rmi", &tag]);
    }
    let fork = median((0..runs).map(|_| bench.first_answer("guest")).collect());
    let boot = median(boots);
    println!(
        "| boot to the first answer; baseline: fork to it | {boot:.2} s | {fork:.2} s | {:.1} | >= 25 |",
        boot / fork
    );

    let many = median((0..runs.min(3)).map(|_| bench.processor_time(32)).collect());
    let singles: f64 = (0..32).map(|_| bench.processor_time(1)).sum();
    row("processor time of 32 children; baseline: 32 forks of one", many, singles, "s", "<= 1.25");

    bench.text(&["fork", "--tag", "guest", "-n", "8", "--detach", "--eval", QUESTION]);
    let json: serde_json::Value = serde_json::from_str(&bench.text(&["ls", "--json"])).unwrap();
    let memory: Vec<f64> = json["children"]
        .as_array()
        .unwrap()
        .iter()
        .map(|child| child["memory_bytes"].as_f64().unwrap())
        .collect();
    let each = memory.iter().sum::<f64>() / memory.len() as f64 / f64::from(1 << 20);
    println!(
        "| proportional memory (PSS) of each of {} children | {each:.1} MiB | | | <= 40 MiB |",
        memory.len()
    );
    let id = bench.text(&["ls", "--ids"]).lines().next().unwrap().to_owned();
    let json: serde_json::Value =
        serde_json::from_str(&bench.text(&["ping", &id, "-c", "100", "--json"])).unwrap();
    let pings = json["milliseconds"].as_array().unwrap().iter().map(|time| time.as_f64().unwrap()).collect();
    println!("| ping of a running child | {:.2} ms | | | |", median(pings));
    bench.text(&["kill", "--all"]);

    let mut parent = "guest".to_owned();
    for depth in 1..=10 {
        let tag = format!("link{depth}");
        let exec = format!("/run/forkd/agent eval 'x{depth} = np.random.rand({depth} * 20000)'");
        bench.text(&["snapshot-diff", "--from", &parent, "--tag", &tag, "--exec", &exec]);
        parent = tag;
    }
    bench.text(&["snapshot-compact", "--from", &parent, "--to", "flat"]);
    let (mut chain, mut flat) = (Vec::new(), Vec::new());
    for _ in 0..runs * 2 {
        chain.push(bench.first_answer(&parent));
        flat.push(bench.first_answer("flat"));
    }
    row(
        "fork of a chain of depth 10; baseline: of its compacted twin",
        median(chain),
        median(flat),
        "s",
        "<= 1.10",
    );

    bench.bake(rootfs, "dirty", &["--append", "init_on_free=0"]);
    let mib = |tag: &str| bench.compressed_memory(tag) / f64::from(1 << 20);
    row(
        "memory, zstd -3; baseline: without zeroing freed memory",
        mib("guest"),
        mib("dirty"),
        "MiB",
        "<= 0.75",
    );
}
