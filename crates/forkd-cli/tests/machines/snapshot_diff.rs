//! `forkd snapshot-diff` and what becomes of chains.

use crate::common::User;
use crate::{nothing_is_left, user_with_demo};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_chain_travels_and_forks", a_chain_travels_and_forks),
    ("a_link_that_fails_leaves_no_tag", a_link_that_fails_leaves_no_tag),
];

fn link(user: &User, from: &str, tag: &str, exec: &str) {
    let seen = user.run(&["snapshot-diff", "--from", from, "--tag", tag, "--exec", exec]);
    assert_eq!(seen.code, 0, "{}", seen.err);
    assert!(seen.out.contains("pages changed"), "{}", seen.out);
}

fn a_chain_travels_and_forks() {
    let user = user_with_demo();
    // Memory that is filled, then freed: with pages zeroed as they are freed, the next link's child has zeros there.
    link(&user, "demo", "one", "echo one > /one; head -c 8000000 /dev/urandom > /dev/shm/big; sync");
    link(&user, "one", "two", "echo two > /two; rm /dev/shm/big; sync");
    link(&user, "two", "three", "cat /run/warm /one /two > /three; ls /dev/shm >> /three; sync");
    let text = std::fs::read_to_string(user.snapshot("two", "snapshot.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let zeroed: u64 = json["zero_pages"].as_array().unwrap().iter().map(|run| run[1].as_u64().unwrap()).sum();
    assert!(zeroed > 1500, "8 MB were freed: {zeroed} pages");
    let info = user.json(&["snapshot-info", "three"]);
    assert_eq!(info["links"].as_array().unwrap().len(), 4);
    user.ok(&["verify", "three"]);
    assert!(user.fails(1, &["rmi", "one"]).contains("'two'"));
    let (_, noted) = user.ok_noted(&["pack", "--tag", "three", "--out", "chain.pack"]);
    assert!(noted.contains("each of # links carries its whole disk"), "{noted}");

    let other = User::new();
    std::fs::rename(user.path("chain.pack"), other.path("chain.pack")).unwrap();
    drop(user);
    let out = other.ok(&["unpack", "chain.pack"]);
    assert!(out.contains("unpacked # chain link(s), head = 'three'"), "{out}");
    assert!(!other.path("data/forkd/assembled").exists());
    let command = ["--", "cat", "/three"];
    for tag in ["three", "three"] {
        let report = other.json(&[&["fork", "--tag", tag, "-n", "2"], &command[..]].concat());
        for child in report["children"].as_array().unwrap() {
            assert_eq!(child["stdout"], "warm\none\ntwo\n");
        }
    }
    assert_eq!(crate::common::names(&other.path("data/forkd/assembled"), ""), 2, "the memory and its note");
    // The link in the middle has the freed pages as zeros: its memory is what was frozen, to the byte.
    let json = other.json(&["fork", "--tag", "two", "--", "sh", "-c", "ls /dev/shm; cat /two"]);
    assert_eq!(json["children"][0]["stdout"], "two\n");
    other.ok(&["snapshot-compact", "--from", "three", "--to", "flat"]);
    let report = other.json(&[&["fork", "--tag", "flat"], &command[..]].concat());
    assert_eq!(report["children"][0]["stdout"], "warm\none\ntwo\n");
    other.ok(&["verify", "flat"]);
    // An altered link is not assembled.
    other.ok(&["rmi", "three"]);
    assert_eq!(
        crate::common::names(&other.path("data/forkd/assembled"), ""),
        2,
        "that of 'two', and its note"
    );
    other.ok(&["rmi", "two"]);
    assert!(!other.path("data/forkd/assembled").exists());
    let memory = other.snapshot("demo", "memory.bin");
    let mut bytes = std::fs::read(&memory).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[last] ^= 1;
    std::fs::write(&memory, bytes).unwrap();
    assert_eq!(other.run(&["fork", "--tag", "one"]).code, 6);
    nothing_is_left(&other);
}

fn a_link_that_fails_leaves_no_tag() {
    let user = user_with_demo();
    let before = forkd_testing::tree(&user.store());
    let error = user.fails(1, &["snapshot-diff", "--from", "demo", "--tag", "new", "--exec", "exit 9"]);
    assert!(error.contains("ended with exit code #"), "{error}");
    assert_eq!(user.run(&["snapshot-diff", "--from", "none", "--tag", "new", "--exec", "true"]).code, 3);
    assert_eq!(user.run(&["snapshot-diff", "--from", "demo", "--tag", "demo", "--exec", "true"]).code, 1);
    assert_eq!(forkd_testing::tree(&user.store()), before);
    nothing_is_left(&user);
}
