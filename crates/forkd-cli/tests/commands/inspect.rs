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
