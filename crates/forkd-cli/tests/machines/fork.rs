//! `forkd fork`.

use crate::{nothing_is_left, processes, user_with_demo};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_command_runs_in_every_child", a_command_runs_in_every_child),
    ("no_child_outlives_the_command", no_child_outlives_the_command),
    ("two_hundred_forks_leave_nothing", two_hundred_forks_leave_nothing),
    ("a_guest_that_stands_still_is_given_up", a_guest_that_stands_still_is_given_up),
    ("memory_is_limited_where_asked", memory_is_limited_where_asked),
];

/// Those that need root, to be others.
pub(crate) const AS_ROOT: &[(&str, fn())] = &[("a_group_shares_a_store", a_group_shares_a_store)];

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

/// Two users of a group, neither of whom is root: one makes a snapshot, the other forks it, adds to it and takes it away.
pub(crate) fn a_group_shares_a_store() {
    let user = user_with_demo();
    let group = 48_213;
    let as_user = |id: u32, args: &[&str]| {
        let forkd = user.command(args);
        let mut command = Command::new("setpriv");
        command.args([
            &format!("--reuid={id}"),
            &format!("--regid={id}"),
            &format!("--groups={group}"),
            "--",
        ]);
        command.arg(user.path("forkd")).args(args).current_dir("/").stdin(Stdio::null()).env_clear();
        command.envs(forkd.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let home = user.path(&format!("home-{id}"));
        command
            .env("HOME", &home)
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("XDG_RUNTIME_DIR", &home)
            .env("TMPDIR", &home);
        command.env("PATH", std::env::var_os("PATH").unwrap());
        user.seen(&command.output().unwrap())
    };
    // What is around the store is everybody's, as /srv and /usr/bin are.
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(user.dir.path(), 0o755);
    open(&user.store(), 0o755);
    std::fs::copy(env!("CARGO_BIN_EXE_forkd"), user.path("forkd")).unwrap();
    for id in [61_001, 61_002] {
        std::fs::create_dir(user.path(&format!("home-{id}"))).unwrap();
        std::os::unix::fs::chown(user.path(&format!("home-{id}")), Some(id), Some(id)).unwrap();
    }
    let refused = as_user(61_001, &["fork", "--tag", "demo", "--", "true"]);
    assert_ne!(refused.code, 0, "a store is nobody else's");
    assert!(user.fails(3, &["store", "share", "no-such-group"]).contains("no group 'no-such-group'"));
    let shared = user.ok(&["store", "share", &group.to_string()]);
    assert_eq!(shared, "✓ the store at ~/data/forkd/ is shared with group '#'\n");
    for id in [61_001, 61_002] {
        let seen = as_user(id, &["fork", "--tag", "demo", "-n", "2", "--", "cat", "/run/warm"]);
        assert_eq!(seen.code, 0, "{}", seen.err);
        assert_eq!(seen.out.matches("| warm").count(), 2, "{}", seen.out);
    }
    let tagged = as_user(61_001, &["tag", "demo", "mine"]);
    assert_eq!(tagged.code, 0, "{}", tagged.err);
    let forked = as_user(61_002, &["fork", "--tag", "mine", "--", "cat", "/run/warm"]);
    assert_eq!(forked.code, 0, "{}", forked.err);
    let diff = ["snapshot-diff", "--from", "mine", "--tag", "more", "--exec", "echo more > /run/more"];
    assert_eq!(as_user(61_002, &diff).code, 0);
    let chain = as_user(61_001, &["fork", "--tag", "more", "--", "cat", "/run/more"]);
    assert_eq!((chain.code, chain.out.matches("| more").count()), (0, 1), "{}", chain.err);
    assert_eq!(as_user(61_001, &["rmi", "mine", "--cascade"]).code, 0);
    assert_eq!(user.ok(&["images", "-q"]), "demo\n");
    user.ok(&["store", "unshare"]);
    assert_ne!(as_user(61_001, &["images"]).out, user.ok(&["images"]));
    user.ok(&["fork", "--tag", "demo", "--", "true"]);
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
