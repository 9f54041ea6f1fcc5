//! What a child shares with its siblings and its host: as little as can be.

use crate::{nothing_is_left, user_with_demo};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("children_differ_from_each_other", children_differ_from_each_other),
    ("a_child_reaches_nothing_without_net", a_child_reaches_nothing_without_net),
];

fn answers(report: &serde_json::Value) -> Vec<Vec<String>> {
    let children = report["children"].as_array().unwrap();
    children
        .iter()
        .map(|child| child["stdout"].as_str().unwrap().lines().map(str::to_owned).collect())
        .collect()
}

fn children_differ_from_each_other() {
    let user = user_with_demo();
    let before = forkd_testing::tree(&user.snapshot("demo", ""));
    let script = "head -c 16 /dev/urandom | sha256sum; hostname; cat /etc/machine-id; \
                  head -c 10000000 /dev/urandom > /same; sync; sha256sum < /same; echo 3 > /proc/sys/vm/drop_caches; sha256sum < /same";
    let report = user.json(&["fork", "--tag", "demo", "-n", "8", "--", "sh", "-c", script]);
    let answers = answers(&report);
    assert_eq!(answers.len(), 8);
    for (line, what) in ["random bytes", "host names", "machine-ids"].into_iter().enumerate() {
        let distinct: BTreeSet<&String> = answers.iter().map(|lines| &lines[line]).collect();
        assert_eq!(distinct.len(), 8, "{what}");
    }
    for lines in &answers {
        assert_eq!(lines[3], lines[4], "what was written is read back from the disk");
        assert_eq!(lines[2].len(), 32);
    }
    let written: BTreeSet<&String> = answers.iter().map(|lines| &lines[3]).collect();
    assert_eq!(written.len(), 8);
    assert_eq!(forkd_testing::tree(&user.snapshot("demo", "")), before);
    nothing_is_left(&user);
}

fn a_child_reaches_nothing_without_net() {
    let user = user_with_demo();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"reached\n");
        }
    });
    // The host's loopback is 10.0.2.2 behind QEMU's user network.
    let script = format!(
        "ls /sys/class/net; ip route; nc -w 3 10.0.2.2 {port} </dev/null; nc -w 3 127.0.0.1 {port} </dev/null; true"
    );
    let report = user.json(&["fork", "--tag", "demo", "--", "sh", "-c", &script]);
    let out = report["children"][0]["stdout"].as_str().unwrap();
    assert!(!out.contains("reached") && !out.contains("default via"), "{out}");
    let script = format!("nc -w 10 10.0.2.2 {port} </dev/null");
    let report = user.json(&["fork", "--tag", "demo", "--net", "--", "sh", "-c", &script]);
    assert_eq!(report["children"][0]["stdout"], "reached\n", "{report}");
    nothing_is_left(&user);
}
