//! The site in a real browser: Debian's chromium, driven by playwright-core, looked at by axe-core. `./test` installs them; where they are missing the
//! test counts as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test")]

use forkd_format::Digest;
use forkd_format::registry::details;
use forkd_page::{SiteOptions, site};
use libtest_mimic::{Arguments, Trial};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One after the other: they measure times.
    arguments.test_threads = Some(1);
    let modules = std::env::var_os("FORKD_TEST_BROWSER").map(PathBuf::from);
    let missing = !(modules.as_ref().is_some_and(|dir| dir.join("node_modules/playwright-core").is_dir())
        && has_node());
    let modules = modules.unwrap_or_default();
    let other = modules.clone();
    let trials = vec![
        Trial::test("files", move || look(&modules, false)).with_ignored_flag(missing),
        Trial::test("web_server_below_a_path", move || look(&other, true)).with_ignored_flag(missing),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Whether there is a Node.js that playwright-core runs on: 20 or later.
fn has_node() -> bool {
    let output = Command::new("node").arg("--version").output();
    let version =
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major >= 20)
}

/// A registry of 10,000 packages; one of them has history and a chain, one is hostile.
fn registry() -> String {
    let entry = |name: &str, size: u64, more: &str| {
        let digest = Digest::of(name.as_bytes());
        format!(
            r#"{{"url":"packs/{name}","sha256":"{digest}","size_bytes":{size},"memory_mib":512,"created_at":"2026-11-0{}T10:00:00Z"{more}}}"#,
            1 + size % 9
        )
    };
    let artifact = |size: u64, base: &str| {
        let digest = Digest::of(&size.to_le_bytes());
        let bases = if base.is_empty() { "[]".to_owned() } else { format!("[{base}]") };
        format!(
            r#"{{"format":3,"url":"w","manifest_sha256":"{digest}","size_bytes":{size},"bases":{bases}}}"#
        )
    };
    let zero = "0".repeat(64);
    let base = format!(
        r#"{{"kind":"snapshot","name":"numpy-v1","path":"memory.bin","size":1048576,"sha256":"{zero}","root":"{zero}","copied_pages":7,"similar_pages":1}}"#
    );
    let engine = r#","engine":{"name":"qemu","version":"7.2.22","machine":"pc-q35-7.2","accel":"tcg","cpu":"Nehalem-v1"},"base_image":"python:3.12-slim","chain":["numpy-base","numpy-scipy","numpy"]"#;
    let numpy = |name: &str, size: u64, update: u64| {
        let artifacts = if update == 0 {
            artifact(size * 8 / 10, "")
        } else {
            format!("{},{}", artifact(size * 8 / 10, ""), artifact(update, &base))
        };
        entry(name, size, &format!(r#"{engine},"artifacts":[{artifacts}]"#))
    };
    let mut text = format!(
        r#"{{"schema_version":1,"packages":{{"acme/numpy":{{"description":"Python 3.12 with NumPy and SciPy, imported and warm","versions":{{"v1":{},"v2":{},"v3":{},"latest":{}}}}},
"acme/evil":{{"description":"<script>alert(1)</script><img src=x onerror=alert(2)>evil","versions":{{"latest":{}}}}}"#,
        numpy("v1", 81_239_130, 0),
        numpy("v2", 84_394_491, 2_270_837),
        numpy("v3", 79_394_491, 5_270_837),
        numpy("v3", 79_394_491, 5_270_837),
        entry("evil", 5, "")
    );
    for number in 0..9_998 {
        let name = format!("package-{number}");
        let size = 1_000_000 + number * 7919;
        let _ = write!(
            text,
            r#","team-{}/{name}":{{"description":"Package number {number}: a warm Python, Node.js or Postgres for agents","versions":{{"latest":{}}}}}"#,
            number % 40,
            entry(&name, size, "")
        );
    }
    text + "}}"
}

fn look(modules: &Path, served: bool) -> Result<(), libtest_mimic::Failed> {
    let work = tempfile::tempdir().unwrap();
    let dir = work.path().join("some/path");
    let packages = details(registry().as_bytes(), &|_, _| true).unwrap();
    assert_eq!(packages.len(), 10_000);
    let options = SiteOptions {
        title: "Acme snapshots".into(),
        hub: Some("https://hub.example.com/registry.json".into()),
        made: None,
    };
    for file in site(&packages, &options).unwrap() {
        let path = dir.join(&file.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file.text).unwrap();
    }
    let server = served.then(|| forkd_testing::TestHub::start(work.path()));
    let address = match &server {
        Some(server) => server.url("some/path/index.html"),
        None => format!("file://{}/index.html", dir.display()),
    };
    let shots = modules.join(if served { "shots-web" } else { "shots" });
    std::fs::create_dir_all(&shots).unwrap();
    let script = modules.join("check.mjs");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/check.mjs"), &script).unwrap();
    let output = Command::new("node").arg(&script).arg(address).arg(&shots).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(()) } else { Err("the browser found faults; see above".into()) }
}
