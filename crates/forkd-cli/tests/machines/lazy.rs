//! Snapshots that are forked while they arrive: `forkd fork URL`, `forkd pull --lazy`, `forkd record`.

use crate::common::User;
use crate::{nothing_is_left, user_with_demo};
use forkd_testing::TestHub;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_recording_is_kept_and_packed", a_recording_is_kept_and_packed),
    ("a_fork_starts_before_all_is_here", a_fork_starts_before_all_is_here),
    ("what_is_arriving_is_shown_and_can_be_removed", what_is_arriving_is_shown_and_can_be_removed),
    ("a_chain_is_forked_as_it_arrives", a_chain_is_forked_as_it_arrives),
    ("two_who_fork_at_once_share_an_arrival", two_who_fork_at_once_share_an_arrival),
];

pub(crate) const AS_ROOT: &[(&str, fn())] =
    &[("an_ordinary_user_forks_what_is_not_here", an_ordinary_user_forks_what_is_not_here)];

/// A hub with the small guest as a pack of format 3 that has a working set: `demo.pack`.
pub(crate) fn hub() -> (TestHub, u64) {
    let dir = hub_dir();
    (TestHub::start(&dir), dir.join("demo.pack").metadata().unwrap().len())
}

pub(crate) fn hub_dir() -> PathBuf {
    static PACK: OnceLock<(User, PathBuf)> = OnceLock::new();
    let (_, dir) = PACK.get_or_init(|| {
        let user = user_with_demo();
        user.ok_noted(&["record", "demo", "--", "cat", "/run/warm"]);
        std::fs::create_dir(user.path("hub")).unwrap();
        user.ok(&["pack", "--format", "3", "--tag", "demo", "--out", "hub/demo.pack"]);
        let dir = user.path("hub");
        (user, dir)
    });
    dir.clone()
}

/// The processes that fetch and serve for a user.
pub(crate) fn servers(user: &User) -> Vec<u32> {
    of_user("serve-arrival", user)
}

fn of_user(pattern: &str, user: &User) -> Vec<u32> {
    let pids = Command::new("pgrep").args(["-f", pattern]).output().unwrap();
    let pids = String::from_utf8(pids.stdout).unwrap();
    let of_user = |pid: &u32| {
        std::fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|env| String::from_utf8_lossy(&env).contains(user.dir.path().to_str().unwrap()))
    };
    pids.lines().filter_map(|pid| pid.parse().ok()).filter(of_user).collect()
}

#[track_caller]
pub(crate) fn until(what: &str, ready: impl Fn() -> bool) {
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Nothing runs and nothing is mounted.
#[track_caller]
pub(crate) fn all_is_over(user: &User) {
    until("the server does not end", || of_user("(serve|guard)-arrival", user).is_empty());
    nothing_is_left(user);
    assert!(!std::fs::read_to_string("/proc/mounts").unwrap().contains(" fuse "));
}

pub(crate) fn kill(pid: u32) {
    Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
}

fn a_recording_is_kept_and_packed() {
    let user = user_with_demo();
    assert!(user.json(&["inspect", "demo"])["tag"] == "demo");
    let (out, _) = user.ok_noted(&["record", "demo", "--", "cat", "/run/warm"]);
    assert!(out.contains("of memory and") && out.contains("come first"), "{out}");
    let description = std::fs::read_to_string(user.snapshot("demo", "snapshot.json")).unwrap();
    assert!(description.contains("\"working_set\""));
    user.ok(&["verify", "demo"]);
    user.ok(&["tag", "demo", "again"]);
    user.ok(&["pack", "--format", "3", "--tag", "again", "--out", "p"]);
    let facts = user.json(&["inspect", "p"]);
    let pages = facts["frames"]["working_set"]["pages"].as_u64().unwrap();
    assert!((100..5000).contains(&pages), "{pages}");
    // What fails is not recorded, and the snapshot stays as it was.
    let before = forkd_testing::tree(&user.snapshot("demo", ""));
    let error = user.fails(1, &["record", "demo", "--", "false"]);
    assert!(error.contains("exit code"), "{error}");
    user.fails(3, &["record", "nothing"]);
    assert_eq!(forkd_testing::tree(&user.snapshot("demo", "")), before);
    nothing_is_left(&user);
}

fn a_fork_starts_before_all_is_here() {
    let (hub, size) = hub();
    let user = User::new();
    // One connection, and one for what is demanded: the server is slow by the request.
    let out = user.ok(&[
        "fork",
        "--jobs",
        "1",
        &hub.url(&format!("slow/{}/demo.pack", size / 8)),
        "-n",
        "2",
        "--",
        "cat",
        "/run/warm",
    ]);
    assert!(out.contains("'demo' is arriving") && out.contains("#| warm"), "{out}");
    let list = user.json(&["images"]);
    let arriving = &list["arriving"][0];
    assert_eq!((&arriving["tag"], &arriving["fetched"]), (&"demo".into(), &true.into()), "{list}");
    let (needed, total) =
        (arriving["needed_bytes"].as_u64().unwrap(), arriving["total_bytes"].as_u64().unwrap());
    // Two children whose reads wait need 40 to 60 % of so small a pack.
    assert!(needed > 0 && needed < total / 4 * 3, "{needed} of {total}");
    // It cannot be used as a whole one yet.
    let error = user.fails(3, &["pack", "--tag", "demo"]);
    assert!(error.contains("is arriving"), "{error}");
    // Others fork it too, and whoever pulls it waits.
    user.ok(&["fork", "--tag", "demo", "--", "cat", "/run/warm"]);
    user.ok_noted(&["pull", &hub.url(&format!("slow/{}/demo.pack", size / 8))]);
    user.ok(&["verify", "demo"]);
    assert_eq!(user.json(&["images"])["arriving"], serde_json::json!([]));
    user.ok(&["fork", "--tag", "demo", "--", "cat", "/run/warm"]);
    let sent: u64 = hub.requests().iter().map(forkd_testing::LoggedRequest::bytes).sum();
    // A frame that the first request cuts comes twice.
    assert!(sent < size + (2 << 20), "{sent} of {size}");
    all_is_over(&user);
}

fn what_is_arriving_is_shown_and_can_be_removed() {
    let (hub, size) = hub();
    let user = User::new();
    let url = hub.url(&format!("slow/{}/demo.pack", size / 15));
    let out = user.ok(&["pull", "--lazy", "--jobs", "1", &url]);
    assert!(out.contains("'demo' can be forked") && out.contains("next: forkd fork --tag demo"), "{out}");
    assert!(user.ok(&["images"]).contains("arriving: "));
    // A second one finds it.
    user.ok(&["pull", "--lazy", &url]);
    assert_eq!(servers(&user).len(), 1);
    user.run(&["gc"]);
    user.ok(&["fork", "--tag", "demo", "--", "cat", "/run/warm"]);
    let seen = user.run(&["rmi", "demo"]);
    assert_eq!(seen.code, 0, "{}", seen.err);
    until("the server does not end", || servers(&user).is_empty());
    user.fails(3, &["fork", "--tag", "demo"]);
    assert!(!user.path("data/forkd/partial").exists());
    all_is_over(&user);
}

fn a_chain_is_forked_as_it_arrives() {
    let user = user_with_demo();
    user.ok_noted(&["snapshot-diff", "--from", "demo", "--tag", "more", "--exec", "echo more > /run/more"]);
    user.ok_noted(&["record", "more", "--", "cat", "/run/more"]);
    std::fs::create_dir(user.path("hub")).unwrap();
    user.ok(&["pack", "--format", "3", "--tag", "more", "--out", "hub/more.pack"]);
    let size = user.path("hub/more.pack").metadata().unwrap().len();
    let hub = TestHub::start(&user.path("hub"));
    let slow = hub.url(&format!("slow/{}/more.pack", size / 8));
    let other = User::new();
    let out = other.ok(&["fork", "--jobs", "1", &slow, "-n", "2", "--", "cat", "/run/more", "/run/warm"]);
    assert!(
        out.contains("'more' is arriving") && out.contains("#| more") && out.contains("#| warm"),
        "{out}"
    );
    assert_eq!(other.json(&["images"])["arriving"][0]["tag"], "more");
    other.ok_noted(&["pull", &hub.url("more.pack")]);
    other.ok(&["verify", "more"]);
    assert!(other.ok(&["fork", "--tag", "demo", "--", "cat", "/run/warm"]).contains("#| warm"));
    all_is_over(&other);
    // Where its parent is here the child reads that.
    let third = user_with_demo();
    let from = hub.requests().len();
    let out = third.ok(&["fork", &hub.url("more.pack"), "--", "cat", "/run/more", "/run/warm"]);
    assert!(out.contains("#| more") && out.contains("#| warm"), "{out}");
    third.ok_noted(&["pull", &hub.url("more.pack")]);
    third.ok(&["verify", "more"]);
    let sent: u64 = hub.requests()[from..].iter().map(forkd_testing::LoggedRequest::bytes).sum();
    assert!(sent < size, "{sent} of {size}");
    all_is_over(&third);
}

fn two_who_fork_at_once_share_an_arrival() {
    let (hub, size) = hub();
    let user = User::new();
    let url = hub.url(&format!("slow/{}/demo.pack", size / 15));
    let fork = || user.run(&["fork", "--jobs", "1", &url, "--", "cat", "/run/warm"]);
    let seen = std::thread::scope(|scope| {
        let other = scope.spawn(fork);
        [fork(), other.join().unwrap()]
    });
    for seen in seen {
        assert_eq!((seen.code, seen.err.as_str()), (0, ""), "{}", seen.out);
        assert!(seen.out.contains("'demo' is arriving") && seen.out.contains("#| warm"), "{}", seen.out);
    }
    assert_eq!(servers(&user).len(), 1);
    user.run(&["rmi", "demo"]);
    all_is_over(&user);
}

fn an_ordinary_user_forks_what_is_not_here() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let (hub, size) = hub();
    let user = User::new();
    let id = 61_003;
    std::fs::set_permissions(user.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_forkd"), user.path("forkd")).unwrap();
    for dir in ["data", "tmp", "home", "dev"] {
        std::fs::create_dir_all(user.path(dir)).unwrap();
        chown(user.path(dir), Some(id), Some(id)).unwrap();
    }
    // On most hosts everybody may open /dev/fuse; here the command does, in a mount namespace of its own.
    let script = "mount -t tmpfs none dev && mknod -m 666 dev/fuse c 10 229 && mount --bind dev/fuse /dev/fuse && id=$1 && shift &&
        exec setpriv --reuid=$id --regid=$id --clear-groups -- \"$@\"";
    let run = |args: &[&str]| {
        let envs = user.command(args);
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-ec", script, "sh", &id.to_string()]).arg(user.path("forkd")).args(args);
        command.current_dir(user.dir.path()).stdin(std::process::Stdio::null()).env_clear();
        command.envs(envs.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("HOME", user.path("home")).env("XDG_CACHE_HOME", user.path("home/cache"));
        user.seen(&command.output().unwrap())
    };
    let slow = hub.url(&format!("slow/{}/demo.pack", size / 8));
    let seen = run(&["fork", "--jobs", "1", &slow, "-n", "2", "--", "cat", "/run/warm"]);
    assert_eq!((seen.code, seen.err.as_str()), (0, ""), "{}", seen.out);
    assert!(seen.out.contains("'demo' is arriving") && seen.out.contains("#| warm"), "{}", seen.out);
    let pulled = run(&["pull", &hub.url("demo.pack")]);
    assert_eq!(pulled.code, 0, "{}", pulled.err);
    assert_eq!(run(&["verify", "demo"]).code, 0);
    all_is_over(&user);
}
