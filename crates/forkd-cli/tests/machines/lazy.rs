//! Snapshots that are forked while they arrive: `forkd fork URL`, `forkd pull --lazy`, `forkd record`.

use crate::common::User;
use crate::{nothing_is_left, processes, user_with_demo};
use forkd_testing::{TestHub, pseudo_random};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_recording_is_kept_and_packed", a_recording_is_kept_and_packed),
    ("a_fork_starts_before_all_is_here", a_fork_starts_before_all_is_here),
    ("what_is_arriving_is_shown_and_can_be_removed", what_is_arriving_is_shown_and_can_be_removed),
    ("a_source_that_ends_stops_who_needs_it", a_source_that_ends_stops_who_needs_it),
    (
        "a_server_that_is_killed_leaves_nothing_but_what_came",
        a_server_that_is_killed_leaves_nothing_but_what_came,
    ),
    ("sources_and_servers_that_fail_at_random", sources_and_servers_that_fail_at_random),
];

/// A hub with the small guest as a pack of format 3 that has a working set: `demo.pack`.
fn hub() -> (TestHub, u64) {
    let dir = hub_dir();
    (TestHub::start(&dir), dir.join("demo.pack").metadata().unwrap().len())
}

fn hub_dir() -> PathBuf {
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
fn servers(user: &User) -> Vec<u32> {
    let pids = Command::new("pgrep").args(["-f", "serve-arrival"]).output().unwrap();
    let pids = String::from_utf8(pids.stdout).unwrap();
    let of_user = |pid: &u32| {
        std::fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|env| String::from_utf8_lossy(&env).contains(user.dir.path().to_str().unwrap()))
    };
    pids.lines().filter_map(|pid| pid.parse().ok()).filter(of_user).collect()
}

#[track_caller]
fn until(what: &str, ready: impl Fn() -> bool) {
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Nothing runs and nothing is mounted.
#[track_caller]
fn all_is_over(user: &User) {
    until("the server does not end", || servers(user).is_empty());
    nothing_is_left(user);
    assert!(!std::fs::read_to_string("/proc/mounts").unwrap().contains(" fuse "));
}

fn kill(pid: u32) {
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

fn a_source_that_ends_stops_who_needs_it() {
    let (hub, size) = hub();
    let user = User::new();
    // No byte behind the first third comes, ever; the child reads all of its disk.
    let url = hub.url(&format!("cut/{}/demo.pack", size / 3));
    let error = user.fails(5, &["fork", &url, "--", "sh", "-c", "cat /dev/vda > /dev/null"]);
    assert!(error.contains("it was stopped: bytes") && error.contains("did not come"), "{error}");
    until("the child lives", || processes(&user) == 0);
    // A pull goes on where it was.
    let from = hub.requests().len();
    user.ok_noted(&["pull", &hub.url("demo.pack")]);
    let sent: u64 = hub.requests()[from..].iter().map(forkd_testing::LoggedRequest::bytes).sum();
    assert!(sent < size * 9 / 10, "{sent} of {size}");
    user.ok(&["verify", "demo"]);
    all_is_over(&user);
}

fn a_server_that_is_killed_leaves_nothing_but_what_came() {
    let (hub, size) = hub();
    let user = User::new();
    let url = hub.url(&format!("slow/{}/demo.pack", size / 15));
    user.ok(&["fork", "--jobs", "1", &url, "--detach", "--", "cat", "/run/warm"]);
    let [server] = servers(&user)[..] else { panic!("{:?}", servers(&user)) };
    kill(server);
    until("the server lives", || servers(&user).is_empty());
    assert!(user.ok(&["images"]).contains("nobody is fetching the rest"));
    let error = user.fails(3, &["fork", "--tag", "demo"]);
    assert!(error.contains("nobody is fetching the rest"), "{error}");
    // Whoever forks it by its name goes on with it.
    user.ok(&["fork", &hub.url("demo.pack"), "--", "cat", "/run/warm"]);
    until("it never is whole", || user.snapshot("demo", "").exists());
    user.ok(&["verify", "demo"]);
    user.ok(&["kill", "--all"]);
    all_is_over(&user);
}

/// A source that is cut, stalls or lies, and a server that is killed, at random moments: no hang, no wrong byte, no leftovers, and the
/// next run succeeds.
fn sources_and_servers_that_fail_at_random() {
    let (hub, size) = hub();
    let runs = forkd_testing::often(8, 200);
    let mut random = pseudo_random(11);
    let user = user_with_demo();
    let sum = Command::new("md5sum").arg(user.snapshot("demo", "rootfs.ext4")).output().unwrap().stdout;
    let disk = String::from_utf8(sum).unwrap()[..32].to_owned();
    for run in 0..runs {
        let user = User::new();
        let at = random() % size;
        let fault = match random() % 4 {
            0 => format!("cut/{at}/"),
            1 => format!("stall/{at}/"),
            2 => {
                let mut bytes = std::fs::read(hub_dir().join("demo.pack")).unwrap();
                bytes[at as usize] ^= 0x10;
                std::fs::create_dir_all(hub_dir().join("lie")).unwrap();
                std::fs::write(hub_dir().join("lie/demo.pack"), bytes).unwrap();
                "lie/".to_owned()
            }
            _ => format!("slow/{}/", size * 2),
        };
        let begun = Instant::now();
        let mut command = user.command(&[
            "fork",
            &hub.url(&format!("{fault}demo.pack")),
            "--detach",
            "--",
            "sh",
            "-c",
            "md5sum < /dev/vda",
        ]);
        let output = command.output().unwrap();
        let seen = user.seen(&output);
        assert!(begun.elapsed() < Duration::from_secs(60), "run {run}, {fault}: hangs");
        assert!([0, 5, 6].contains(&seen.code), "run {run}, {fault}: {} {}", seen.code, seen.err);
        if seen.code == 0 {
            let out = String::from_utf8_lossy(&output.stdout);
            assert!(out.contains(&disk), "run {run}, {fault}: {out} instead of {disk}");
        }
        std::thread::sleep(Duration::from_millis(random() % 300));
        servers(&user).into_iter().for_each(kill);
        until("the server lives", || servers(&user).is_empty());
        let out = user.run(&["fork", &hub.url("demo.pack"), "--", "cat", "/run/warm"]);
        assert!(out.code == 0 && out.out.contains("#| warm"), "run {run}, {fault}: {} {}", out.out, out.err);
        user.run(&["pull", &hub.url("demo.pack")]);
        user.ok(&["verify", "demo"]);
        user.ok(&["kill", "--all"]);
        all_is_over(&user);
    }
}
