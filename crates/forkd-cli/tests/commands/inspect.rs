//! `forkd inspect`.

use crate::common::User;

#[test]
fn inspect_reads_tags_and_files() {
    let user = User::new();
    user.with("t", 1).ok(&["pack", "--tag", "t", "--out", "p", "--description", "bell \x07 and \u{1b}[2J"]);
    let text = user.ok(&["inspect", "p"]);
    assert!(text.contains("description bell \\u{#} and \\u{#b}[#J"), "{text}");
    let json = user.json(&["inspect", "p"]);
    assert_eq!(
        (json["pack_version"].as_u64(), json["links"][0]["files"][3]["path"].as_str()),
        (Some(1), Some("memory.bin"))
    );
    assert_eq!(user.json(&["inspect", "t"])["links"][0]["files"][0]["sha256"], serde_json::Value::Null);
    user.ok(&["unpack", "p", "--tag", "own"]);
    let digest = forkd_testing::sha256(&user.snapshot("own", "memory.bin"));
    assert_eq!(user.json(&["inspect", "own"])["links"][0]["files"][3]["sha256"], digest);
    assert!(user.fails(3, &["inspect", "none"]).contains("neither a snapshot"));
    let secret = user.fails(2, &["inspect", "https://u:pw@h/p?X-Amz-Signature=abc"]);
    assert!(!secret.contains("abc") && !secret.contains("pw"), "{secret}");
}

#[test]
fn a_snapshot_that_lacks_a_file_is_damaged() {
    let user = User::new();
    user.with("t", 1);
    std::fs::remove_file(user.snapshot("t", "vmstate")).unwrap();
    let error = user.fails(6, &["inspect", "t"]);
    assert!(error.contains("vmstate is missing; `forkd rmi t`"), "{error}");
}

#[test]
fn a_registry_may_be_a_path() {
    let user = User::new();
    let digest = forkd_testing::digest(b"pack");
    let version = format!(r#"{{"url": "p.zst", "sha256": "{digest}", "size_bytes": 4}}"#);
    let registry =
        format!(r#"{{"schema_version": 1, "packages": {{"a/b": {{"versions": {{"latest": {version}}}}}}}}}"#);
    std::fs::write(user.path("registry.json"), registry).unwrap();
    let absolute = user.path("registry.json").display().to_string();
    assert!(user.fails(3, &["inspect", "a/b", "--hub", "registry.json"]).contains("/p.zst"));
    std::fs::write(user.path("p.zst"), "a longer pack").unwrap();
    let other = user.fails(6, &["inspect", "a/b", "--hub", "registry.json"]);
    assert!(other.contains("offers # bytes; the registry declares #"), "{other}");
    std::fs::write(user.path("p.zst"), "pack").unwrap();
    for hub in ["registry.json", &absolute] {
        assert!(user.ok(&["inspect", "a/b", "--hub", hub]).contains("/p.zst"), "{hub}");
    }
    let mut command = user.command(&["inspect", "a/b"]);
    let output = command.env("FORKD_HUB_URL", "nowhere.json").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(2) && error.starts_with("forkd: FORKD_HUB_URL ('nowhere.json'): "),
        "{error}"
    );
}
