//! `forkd verify`.

use crate::common::{User, three_links};

#[test]
fn verify_names_damage_and_exits_with_6() {
    let user = User::new();
    user.with("t", 1).ok(&["pack", "--tag", "t", "--out", "p"]);
    assert_eq!(user.ok(&["verify", "p"]), "✓ verified 'p': # files, # MiB\n");
    user.ok(&["unpack", "p", "--tag", "own"]);
    assert_eq!(user.ok(&["verify", "own"]), "✓ verified 'own': # files, # MiB\n");
    assert!(user.ok(&["verify", "t"]).contains("! no digests were ever recorded for 't'"));
    let vmstate = user.snapshot("own", "vmstate");
    std::fs::remove_file(&vmstate).unwrap();
    std::fs::write(&vmstate, "short").unwrap();
    let seen = user.run(&["verify", "own"]);
    assert_eq!(seen.code, 6);
    assert_eq!(seen.out, "✗ ~/data/forkd/snapshots/own/vmstate: # bytes; recorded were #; damaged bytes #\n");
    std::fs::write(user.snapshot("own", "forkd.json").with_file_name("x"), "").unwrap();
    std::fs::remove_file(user.snapshot("own", "forkd.json")).unwrap();
    std::fs::write(user.snapshot("own", "forkd.json"), "{").unwrap();
    assert!(user.fails(6, &["verify", "own"]).contains("forkd.json"));
    // An altered description is found, and --force repairs it.
    user.ok_noted(&["unpack", "p", "--tag", "own", "--force"]);
    let json = user.snapshot("own", "snapshot.json");
    let text = std::fs::read_to_string(&json).unwrap();
    std::fs::remove_file(&json).unwrap();
    std::fs::write(&json, text.replace("two", "2nd")).unwrap();
    assert_eq!(user.run(&["verify", "own"]).code, 6);
    user.ok_noted(&["unpack", "p", "--tag", "own", "--force"]);
    user.ok(&["verify", "own"]);
}

#[test]
fn verify_checks_chain_edges() {
    let user = User::new();
    three_links(&user);
    let memory = user.snapshot("base", "memory.bin");
    let mut bytes = std::fs::read(&memory).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&memory, bytes).unwrap();
    let seen = user.run(&["verify", "top"]);
    assert_eq!(seen.code, 6);
    assert!(seen.out.contains("mid/snapshot.json: parent_content_hash is "), "{}", seen.out);
}

#[test]
fn a_copied_store_is_believed_again_once_it_was_verified() {
    let user = User::new();
    user.with("t", 1).ok(&["pack", "--tag", "t", "--out", "p"]);
    user.ok(&["unpack", "p", "--tag", "own"]);
    let recorded = || std::fs::read_to_string(user.snapshot("own", "forkd.json")).unwrap();
    let before = recorded();
    let touch = |name: &str| {
        let file = std::fs::File::open(user.snapshot("own", name)).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    };
    touch("memory.bin");
    touch("vmstate");
    let out = user.ok(&["verify", "own"]);
    assert!(out.starts_with("✓ # files have new times, and the right bytes: recorded, "), "{out}");
    assert_ne!(recorded(), before);
    assert_eq!(user.ok(&["verify", "own"]), "✓ verified 'own': # files, # MiB\n", "they are recorded");
    // What is damaged is not believed.
    std::fs::remove_file(user.snapshot("own", "vmstate")).unwrap();
    std::fs::write(user.snapshot("own", "vmstate"), "x").unwrap();
    std::fs::File::open(user.snapshot("own", "memory.bin"))
        .unwrap()
        .set_modified(std::time::SystemTime::now())
        .unwrap();
    let report = user.command(&["verify", "own", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!((&report["renewed_times"], &report["ok"]), (&1.into(), &false.into()), "{report}");
    assert!(!user.path("data/forkd/staging").exists());
}
