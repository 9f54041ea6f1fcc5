//! `forkd fork`.

use crate::{nothing_is_left, processes, user_with_demo};
use std::process::Stdio;
use std::time::Duration;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_command_runs_in_every_child", a_command_runs_in_every_child),
    ("no_child_outlives_the_command", no_child_outlives_the_command),
    ("two_hundred_forks_leave_nothing", two_hundred_forks_leave_nothing),
    ("a_guest_that_stands_still_is_given_up", a_guest_that_stands_still_is_given_up),
    ("memory_is_limited_where_asked", memory_is_limited_where_asked),
];

fn a_command_runs_in_every_child() {
    let user = user_with_demo();
    let before = forkd_testing::tree(&user.snapshot("demo", ""));
    let out = user.ok(&["fork", "--tag", "demo", "-n", "3", "--", "sh", "-c", "cat /run/warm; printf half"]);
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "#| half",
            "#| half",
            "#| half",
            "#| warm",
            "#| warm",
            "#| warm",
            "child # ended in #s: exit code #",
            "child # ended in #s: exit code #",
            "child # ended in #s: exit code #",
            "✓ # children of 'demo' ended in #s"
        ]
    );
    let report = user.run(&[
        "fork",
        "--tag",
        "demo",
        "-n",
        "3",
        "--json",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 5",
    ]);
    assert_eq!(report.code, 5);
    let json: serde_json::Value = serde_json::from_slice(
        &user
            .command(&["fork", "--tag", "demo", "--json", "--", "sh", "-c", "echo out; echo err >&2; exit 5"])
            .output()
            .unwrap()
            .stdout,
    )
    .unwrap();
    let child = &json["children"][0];
    assert_eq!(
        (&child["exit_code"], &child["stdout"], &child["stderr"]),
        (&5.into(), &"out\n".into(), &"err\n".into())
    );
    assert_eq!(user.run(&["fork", "--tag", "demo", "--", "no-such-program"]).code, 127);
    let late = user.run(&["fork", "--tag", "demo", "--timeout-secs", "1", "--", "sleep", "100"]);
    assert!(
        late.code == 124 && late.out.contains("child # was killed at its time limit in #s: exit code #"),
        "{} {}",
        late.code,
        late.err
    );
    let plain = user.ok(&["fork", "--tag", "demo"]);
    assert!(
        plain.starts_with("child # ready in #s: ") && plain.ends_with("✓ # child of 'demo' ready in #s\n"),
        "{plain}"
    );
    assert!(user.fails(1, &["fork", "--tag", "demo", "--eval", "1"]).contains("no eval endpoint"));
    assert_eq!(user.run(&["fork", "--tag", "none"]).code, 3);
    assert_eq!(forkd_testing::tree(&user.snapshot("demo", "")), before, "no fork changes the snapshot");
    nothing_is_left(&user);
}

fn no_child_outlives_the_command() {
    let user = user_with_demo();
    for signal in ["-INT", "-TERM", "-KILL"] {
        let mut fork = user
            .command(&["fork", "--tag", "demo", "-n", "3", "--", "sleep", "100"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while processes(&user) < 3 {
            std::thread::sleep(Duration::from_millis(2));
            assert!(fork.try_wait().unwrap().is_none(), "it ended before it could be killed");
        }
        std::process::Command::new("kill").args([signal, &fork.id().to_string()]).status().unwrap();
        let status = fork.wait().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(processes(&user), 0, "{signal}");
        if signal != "-KILL" {
            assert_eq!(status.code(), Some(130), "{signal}");
            nothing_is_left(&user);
        }
    }
    std::thread::sleep(Duration::from_millis(2100));
    user.ok(&["ls"]);
    nothing_is_left(&user);
}

fn two_hundred_forks_leave_nothing() {
    let user = user_with_demo();
    let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap();
    let before = mounts();
    for i in 0..200 {
        let out = user.ok(&["fork", "--tag", "demo", "--", "cat", "/run/warm"]);
        assert!(out.starts_with("#| warm\n"), "{i}: {out}");
    }
    assert_eq!(mounts(), before);
    nothing_is_left(&user);
    user.ok(&["verify", "demo"]);
}

fn a_guest_that_stands_still_is_given_up() {
    let user = user_with_demo();
    let halted = user.fails(1, &["fork", "--tag", "demo", "--", "halt", "-f"]);
    assert!(halted.contains("the guest has not answered for"), "{halted}");
    // When one fails the others do not keep us.
    let begun = std::time::Instant::now();
    let script = "case $(hostname) in *[02468ace]) ;; *) poweroff -f;; esac; sleep 100";
    while user
        .run(&["fork", "--tag", "demo", "-n", "3", "--timeout-secs", "3", "--", "sh", "-c", script])
        .code
        != 1
    {}
    assert!(begun.elapsed() < Duration::from_secs(60));
    let off = user.fails(1, &["fork", "--tag", "demo", "--", "poweroff", "-f"]);
    assert!(off.contains("child #: QEMU ended"), "{off}");
    // One that is only silent is not.
    user.ok(&["fork", "--tag", "demo", "--", "sleep", "14"]);
    nothing_is_left(&user);
}

fn memory_is_limited_where_asked() {
    let user = user_with_demo();
    if !forkd_engine::memory_limits() {
        let error = user.fails(8, &["fork", "--tag", "demo", "--memory-limit-mib", "128"]);
        assert!(error.contains("cannot make control groups"), "{error}");
        return;
    }
    user.ok(&["fork", "--tag", "demo", "--memory-limit-mib", "256", "--", "true"]);
    // A guest that fills its memory makes QEMU's grow beyond what it may have.
    let seen = user.run(&[
        "fork",
        "--tag",
        "demo",
        "--memory-limit-mib",
        "40",
        "--",
        "sh",
        "-c",
        "dd if=/dev/urandom of=/dev/shm/x bs=1M count=60",
    ]);
    assert_ne!(seen.code, 0, "{}", seen.out);
    nothing_is_left(&user);
}
