//! Arrivals whose source, disk or server fails.

use crate::common::User;
use crate::lazy::{all_is_over, hub, hub_dir, kill, servers, until};
use crate::{processes, user_with_demo};
use forkd_testing::pseudo_random;
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_source_that_ends_stops_who_needs_it", a_source_that_ends_stops_who_needs_it),
    (
        "a_server_that_is_killed_leaves_nothing_but_what_came",
        a_server_that_is_killed_leaves_nothing_but_what_came,
    ),
    ("a_full_disk_stops_an_arrival", a_full_disk_stops_an_arrival),
    ("servers_with_faults_are_forked_from", servers_with_faults_are_forked_from),
    ("many_who_ask_at_once_are_one_download", many_who_ask_at_once_are_one_download),
    ("sources_and_servers_that_fail_at_random", sources_and_servers_that_fail_at_random),
];

fn a_source_that_ends_stops_who_needs_it() {
    let (hub, size) = hub();
    let user = User::new();
    // No byte behind the first third comes, ever; the child reads all of its disk.
    let url = hub.url(&format!("cut/{}/demo.pack", size / 3));
    let error = user.fails(5, &["fork", &url, "--", "sh", "-c", "cat /dev/vda > /dev/null"]);
    assert!(error.contains("it was stopped: bytes") && error.contains("did not come"), "{error}");
    until("the child lives", || processes(&user) == 0);
    let images = user.ok(&["images"]);
    assert!(images.contains("nobody is fetching the rest: ") && images.contains("demo.pack: "), "{images}");
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
    assert_eq!(processes(&user), 1);
    kill(server);
    until("the child lives", || processes(&user) == 0);
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

fn a_full_disk_stops_an_arrival() {
    let (hub, _) = hub();
    let user = User::new();
    let script = |command: &str| Command::new("sh").args(["-c", command]).status().unwrap().success();
    let store = user.store().display().to_string();
    if !script(&format!("mount -t tmpfs -o size=10m none {store} 2>/dev/null")) {
        println!("cannot mount here: the full disk was not tried");
        return;
    }
    let full = user.run(&["fork", &hub.url("demo.pack"), "--", "sh", "-c", "cat /dev/vda > /dev/null"]);
    until("the server lives", || servers(&user).is_empty());
    let images = user.run(&["images"]);
    script(&format!("mount -o remount,size=300m {store}"));
    let again = user.run(&["fork", &hub.url("demo.pack"), "--", "cat", "/run/warm"]);
    let pulled = user.run(&["pull", &hub.url("demo.pack")]);
    let verified = user.run(&["verify", "demo"]);
    until("the server lives", || servers(&user).is_empty());
    script(&format!("umount -l {store}"));
    assert_eq!(full.code, 7, "{} {}", full.out, full.err);
    assert!(full.err.contains("No space left"), "{}", full.err);
    assert_eq!(images.code, 0, "{}", images.err);
    assert_eq!((again.code, pulled.code, verified.code), (0, 0, 0), "{} {}", again.err, pulled.err);
    assert!(again.out.contains("#| warm"), "{}", again.out);
    all_is_over(&user);
}

fn servers_with_faults_are_forked_from() {
    let (hub, size) = hub();
    let half = size / 2;
    let faults = [
        ("flaky/2/".to_owned(), true),
        ("random/30/".to_owned(), true),
        (format!("once-cut/{half}/"), true),
        (format!("once-stall/{half}/"), true),
        (format!("cut-each/{}/", size / 4), true),
        ("noranges/".to_owned(), true),
        ("unknown-total/".to_owned(), true),
        ("noetag/".to_owned(), true),
        // What came of one copy does not go with another: that is told, and nothing of it stays.
        ("changing/".to_owned(), false),
        ("misranged/".to_owned(), false),
    ];
    for (fault, succeeds) in faults {
        let user = User::new();
        let url = hub.url(&format!("{fault}demo.pack"));
        let seen = user.run(&["fork", &url, "--", "sh", "-c", "cat /run/warm; cat /dev/vda > /dev/null"]);
        if succeeds {
            assert!(seen.code == 0 && seen.out.contains("#| warm"), "{fault}: {} {}", seen.out, seen.err);
            user.ok_noted(&["pull", &url]);
        } else {
            assert!([0, 1, 5, 6].contains(&seen.code), "{fault}: {} {}", seen.code, seen.err);
        }
        user.ok_noted(&["pull", &hub.url("demo.pack")]);
        user.ok(&["verify", "demo"]);
        all_is_over(&user);
    }
}

fn many_who_ask_at_once_are_one_download() {
    let (hub, size) = hub();
    let user = User::new();
    let url = hub.url(&format!("slow/{}/demo.pack", size / 4));
    std::thread::scope(|scope| {
        for _ in 0..forkd_testing::often(12, 50) {
            scope.spawn(|| {
                let seen = user.run(&["pull", "--lazy", "--jobs", "2", &url]);
                assert!(seen.code == 0 && seen.err.is_empty(), "{} {}", seen.out, seen.err);
            });
        }
    });
    user.ok_noted(&["pull", &url]);
    let sent: u64 = hub.requests().iter().map(forkd_testing::LoggedRequest::bytes).sum();
    assert!(sent < size + (2 << 20), "{sent} of {size}");
    user.ok(&["verify", "demo"]);
    assert!(user.ok(&["fork", "--tag", "demo", "--", "cat", "/run/warm"]).contains("#| warm"));
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
        // Whatever others do meanwhile.
        match random() % 5 {
            0 => drop(user.run(&["gc"])),
            1 => drop(user.run(&["rmi", "demo"])),
            2 => drop(user.run(&["verify", "demo"])),
            3 => drop(user.run(&["pull", &hub.url("demo.pack")])),
            _ => {}
        }
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
