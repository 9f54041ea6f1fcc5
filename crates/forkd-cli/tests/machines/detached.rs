//! The commands on children that run detached: `ls`, `exec`, `eval`, `ping`, `logs`, `cp`, `kill`.

use crate::{nothing_is_left, processes, user_with_demo};
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("detached_children_are_spoken_to_and_ended", detached_children_are_spoken_to_and_ended),
    ("files_are_copied_in_and_out", files_are_copied_in_and_out),
    ("programs_get_input_and_terminals", programs_get_input_and_terminals),
    ("dead_children_are_cleared_away", dead_children_are_cleared_away),
    ("a_program_ends_with_its_reader", a_program_ends_with_its_reader),
];

fn detached_children_are_spoken_to_and_ended() {
    let user = user_with_demo();
    assert_eq!(user.ok(&["ls"]), "no children are running; forkd fork --tag <TAG> --detach\n");
    user.ok(&["fork", "--tag", "demo", "-n", "2", "--detach"]);
    let ids = user.ids();
    assert_eq!((ids.len(), processes(&user)), (2, 2));
    let list = user.json(&["ls"]);
    assert_eq!(list["children"][0]["tag"], "demo");
    assert!(list["children"][0]["memory_bytes"].as_u64().unwrap() > 1 << 20);
    user.ok(&["exec", &ids[0], "--", "sh", "-c", "echo mine > /mine"]);
    assert_eq!(user.ok(&["exec", &ids[0][..4], "--", "cat", "/mine"]), "mine\n");
    // As docker takes it: what follows the program is the program's.
    assert_eq!(user.ok(&["exec", &ids[0], "sh", "-c", "cat /mine"]), "mine\n");
    assert_eq!(
        user.run(&["exec", &ids[1], "--", "cat", "/mine"]).code,
        1,
        "its sibling has a disk of its own"
    );
    assert_eq!(user.run(&["exec", &ids[1], "--", "sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(
        user.ok(&["exec", &ids[1], "-e", "A=b", "-w", "/tmp", "--", "sh", "-c", "echo $A; pwd"]),
        "b\n/tmp\n"
    );
    assert_eq!(user.run(&["exec", &ids[1], "--timeout-secs", "1", "--", "sleep", "60"]).code, 124);
    assert!(user.ok(&["ping", &ids[0], "-c", "2"]).starts_with("pong from "));
    user.ok(&["exec", &ids[0], "--", "sh", "-c", "echo hello > /dev/console"]);
    assert!(user.ok(&["logs", &ids[0]]).contains("hello"));
    assert_eq!(user.run(&["exec", "ffffffffff", "--", "true"]).code, 3);
    // Four at a time, and one more that waits its turn.
    let many: Vec<_> = (0..5)
        .map(|_| {
            user.command(&["exec", &ids[0], "--", "sleep", "0.5"]).stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    assert!(many.into_iter().all(|mut exec| exec.wait().unwrap().success()));
    // Who leaves in the middle leaves nothing behind.
    let mut exec = user.command(&["exec", &ids[0], "--", "sleep", "1234"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(600));
    exec.kill().unwrap();
    exec.wait().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(user.run(&["exec", &ids[0], "--", "sh", "-c", "ps | grep -q '[s]leep 1234'"]).code, 1);
    assert!(user.fails(1, &["rmi", "demo"]).contains("children of it are running"));
    assert!(user.fails(1, &["rmi", "demo", "--cascade"]).contains("children of it are running"));
    // QEMU is not needed to see to what runs; nor does one name that is wrong keep others alive.
    let mut ls = user.command(&["ls", "--ids"]);
    assert_eq!(ls.env("PATH", "/none").output().unwrap().stdout.len(), 18);
    assert_eq!(user.ok(&["kill", &ids[0]]).trim(), user.plain(&ids[0]));
    assert_eq!(processes(&user), 1);
    user.ok(&["kill", "--all"]);
    nothing_is_left(&user);
    assert_eq!(user.ok(&["kill", "--all"]), "no children are running\n");
    user.ok(&["rmi", "demo"]);
}

fn files_are_copied_in_and_out() {
    let user = user_with_demo();
    user.ok(&["fork", "--tag", "demo", "--detach"]);
    let id = &user.ids()[0];
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
    std::fs::write(user.path("in"), &bytes).unwrap();
    user.ok(&["cp", "in", &format!("{id}:/tmp/")]);
    user.ok(&["cp", &format!("{id}:/tmp/in"), "out"]);
    assert_eq!(std::fs::read(user.path("out")).unwrap(), bytes);
    let sum = user.command(&["exec", id, "--", "sha256sum", "/tmp/in"]).output().unwrap().stdout;
    assert!(String::from_utf8(sum).unwrap().starts_with(&forkd_testing::sha256(&user.path("in"))));
    assert!(user.fails(3, &["cp", "in", &format!("{id}:/none/in")]).contains("/none/in"));
    assert!(user.fails(3, &["cp", &format!("{id}:/none"), "none"]).contains("/none"));
    assert!(!user.path("none").exists());
    // The user's mask holds for what comes out, whatever its mode there.
    user.ok(&["exec", id, "--", "chmod", "777", "/tmp/in"]);
    let mut masked = std::process::Command::new("sh");
    masked.args(["-c", "umask 077; exec \"$0\" cp \"$1\" masked"]);
    let cp = user.command(&[]);
    masked.arg(cp.get_program()).arg(format!("{id}:/tmp/in")).current_dir(user.dir.path());
    masked.envs(cp.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert!(masked.status().unwrap().success());
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&user.path("masked").metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    // A device stays one, and a link a link.
    std::fs::write(user.path("real"), "old").unwrap();
    std::os::unix::fs::symlink("real", user.path("link")).unwrap();
    user.ok(&["cp", &format!("{id}:/tmp/in"), "link"]);
    assert_eq!(std::fs::read(user.path("real")).unwrap(), bytes);
    user.ok(&["cp", &format!("{id}:/tmp/in"), "/dev/null"]);
    assert!(!std::path::Path::new("/dev/null").metadata().unwrap().is_file());
    assert_eq!(user.run(&["cp", "in", "out"]).code, 2);
    assert_eq!(user.run(&["cp", ".", &format!("{id}:/tmp/")]).code, 2);
    user.ok(&["kill", id]);
    nothing_is_left(&user);
}

fn programs_get_input_and_terminals() {
    let user = user_with_demo();
    user.ok(&["fork", "--tag", "demo", "--detach"]);
    let id = &user.ids()[0];
    let bytes: Vec<u8> = (0..5_000_000u32).map(|i| (i % 255) as u8).collect();
    let mut exec = user
        .command(&["exec", "-i", id, "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = exec.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = exec.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success() && output.stdout == bytes);
    // A program that does not want its input.
    let mut exec = user.command(&["exec", "-i", id, "--", "true"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = exec.stdin.take().unwrap();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&vec![0; 3 << 20])));
    assert!(exec.wait().unwrap().success());
    writer.join().unwrap();
    assert!(user.ok(&["exec", "-t", id, "--", "tty"]).starts_with("/dev/pts/"));
    assert_eq!(user.ok(&["exec", id, "--", "sh", "-c", "tty; true"]), "not a tty\n");
    user.ok(&["kill", id]);
}

fn dead_children_are_cleared_away() {
    let user = user_with_demo();
    user.ok(&["fork", "--tag", "demo", "-n", "2", "--detach"]);
    let list = user.json(&["ls"]);
    let pid = list["children"][0]["pid"].to_string();
    std::process::Command::new("kill").args(["-9", &pid]).status().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(user.ids().len(), 1);
    user.ok(&["kill", "--all"]);
    nothing_is_left(&user);
    // One that does not answer any more does not keep us for ever.
    user.ok(&["fork", "--tag", "demo", "--detach"]);
    let pid = user.json(&["ls"])["children"][0]["pid"].to_string();
    std::process::Command::new("kill").args(["-STOP", &pid]).status().unwrap();
    for _ in 0..5 {
        let mut ping = user.command(&["ping", &user.ids()[0]]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        std::process::Command::new("kill").args(["-INT", &ping.id().to_string()]).status().unwrap();
        assert_eq!(ping.wait().unwrap().code(), Some(130));
    }
    user.ok(&["kill", "--all"]);
    // A forkd that is killed at any moment while it detaches.
    for delay in [5, 40, 90, 150, 220, 300, 400] {
        let mut fork = user
            .command(&["fork", "--tag", "demo", "-n", "2", "--detach"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        let _ = fork.kill();
        fork.wait().unwrap();
        std::thread::sleep(Duration::from_millis(2100));
        let alive = user.ids().len();
        assert_eq!(processes(&user), alive, "killed after {delay} ms");
        user.ok(&["kill", "--all"]);
        nothing_is_left(&user);
    }
}

fn a_program_ends_with_its_reader() {
    let user = user_with_demo();
    user.ok(&["fork", "--tag", "demo", "--detach"]);
    let id = &user.ids()[0];
    for args in [&["exec", id, "--", "yes"][..], &["fork", "--tag", "demo", "--", "yes"]] {
        let mut child = user.command(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut first = [0; 1];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
        drop(child.stdout.take());
        let begun = std::time::Instant::now();
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(begun.elapsed() < Duration::from_secs(20), "{args:?} runs on"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(status.code(), Some(141), "{args:?}");
    }
    // The program is gone too.
    let running = user.run(&["exec", id, "--", "sh", "-c", "cat /proc/[0-9]*/comm"]).out;
    assert!(running.contains("cat\n") && !running.contains("yes\n"), "{running}");
    user.ok(&["kill", id]);
    nothing_is_left(&user);
}
