//! The main job on real input: a warm Python with NumPy, baked here, forked there, by a user without privileges.

use crate::common::User;
use crate::{guests, nothing_is_left};
use forkd_testing::{SIGNATURE, TestHub};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

pub(crate) const TESTS: &[(&str, fn())] =
    &[("a_warm_python_travels_and_answers_for_anyone", a_warm_python_travels_and_answers_for_anyone)];

/// A command of a user who has no privileges: one who is unknown, where we are root.
fn unprivileged(user: &User, id: u32, forkd: &Path, args: &[&str]) -> Command {
    let like = user.command(args);
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut command = Command::new(if root { Path::new("setpriv") } else { forkd });
    if root {
        command
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--no-new-privs",
                "--bounding-set=-all",
            ])
            .arg(forkd);
        for dir in [user.dir.path(), &user.store(), &user.tmp()] {
            std::os::unix::fs::chown(dir, Some(id), Some(id)).unwrap();
        }
    }
    command.args(args).current_dir(user.dir.path()).env_clear();
    command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

fn a_warm_python_travels_and_answers_for_anyone() {
    let (a, b) = (User::new(), User::new());
    // The binary, the guest and the kernel lie below folders that nobody else may enter.
    let copy = |from: &Path, to: &str| {
        let status =
            Command::new("cp").args(["-r", "--sparse=always"]).arg(from).arg(a.path(to)).status().unwrap();
        assert!(status.success());
    };
    std::fs::create_dir_all(a.path("cache/forkd")).unwrap();
    copy(Path::new(env!("CARGO_BIN_EXE_forkd")), "forkd");
    copy(&guests().join("python-numpy/rootfs.ext4"), "rootfs.ext4");
    copy(&guests().join("cache/forkd/kernels"), "cache/forkd/kernels");
    let open = ["-R", "a+rwX", a.dir.path().to_str().unwrap(), b.dir.path().to_str().unwrap()];
    assert!(Command::new("chmod").args(open).status().unwrap().success());
    let run = |user: &User, args: &[&str]| {
        let id = if std::ptr::eq(user, &raw const a) { 65_533 } else { 65_534 };
        let mut command = unprivileged(user, id, &a.path("forkd"), args);
        let output = command.env("XDG_CACHE_HOME", a.path("cache")).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let rootfs = a.path("rootfs.ext4").display().to_string();
    let warm = "python3 /usr/local/lib/forkd/eval-server.py";
    run(&a, &["snapshot", "--tag", "python-numpy", "--rootfs", &rootfs, "--warm", warm]);
    let text = std::fs::read_to_string(a.snapshot("python-numpy", "snapshot.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let hub = TestHub::start(dir.path());
    run(&a, &["push", "--tag", "python-numpy", &hub.url(&format!("py.zst?{SIGNATURE}"))]);
    std::fs::remove_dir_all(a.path("data")).unwrap();
    let (pack, registry) = (dir.path().join("py.zst"), dir.path().join("registry.json"));
    let entry = format!(
        r#"{{"url":"py.zst","sha256":"{}","size_bytes":{}}}"#,
        forkd_testing::sha256(&pack),
        pack.metadata().unwrap().len()
    );
    let packages = format!(r#"{{"acme/python-numpy":{{"versions":{{"latest":{entry}}}}}}}"#);
    std::fs::write(registry, format!(r#"{{"schema_version":1,"packages":{packages}}}"#)).unwrap();
    run(&b, &["pull", "acme/python-numpy", "--hub", &hub.url("registry.json")]);
    let before = forkd_testing::tree(&b.snapshot("python-numpy", ""));
    let expression = "[os.urandom(8).hex(), np.random.rand(), random.random(), os.uname().nodename, \
                      open('/etc/machine-id').read(), int(np.arange(1000).sum())]";
    let out = run(
        &b,
        &[
            "fork",
            "--tag",
            "python-numpy",
            "-n",
            "8",
            "--json",
            "--eval",
            &format!("__import__('json').dumps({expression})"),
        ],
    );
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let answers: Vec<serde_json::Value> = report["children"]
        .as_array()
        .unwrap()
        .iter()
        .map(|child| serde_json::from_str(child["answer"].as_str().unwrap()).unwrap())
        .collect();
    assert_eq!(answers.len(), 8);
    for (i, what) in
        ["os.urandom", "numpy.random", "random", "host name", "machine-id"].into_iter().enumerate()
    {
        let distinct: BTreeSet<String> = answers.iter().map(|answer| answer[i].to_string()).collect();
        assert_eq!(distinct.len(), 8, "{what}: {answers:?}");
    }
    for answer in &answers {
        assert_eq!(answer[5], 499_500);
    }
    assert_eq!(forkd_testing::tree(&b.snapshot("python-numpy", "")), before);
    assert!(text.contains("\"release\""));

    // The clock of a child lies between two looks at the host's.
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    run(&b, &["fork", "--tag", "python-numpy", "-n", "3", "--detach"]);
    for id in run(&b, &["ls", "--ids"]).lines() {
        let before = now();
        let guest: f64 = run(&b, &["eval", id, "time.time()"]).trim().parse().unwrap();
        let after = now();
        assert!(before - 0.1 < guest && guest < after + 0.1, "{before} {guest} {after}");
    }
    run(&b, &["kill", "--all"]);
    nothing_is_left(&b);
}
