//! `forkd lock` and `forkd pull --locked`.

use crate::common::User;

#[test]
fn what_is_locked_is_what_comes() {
    let user = User::new();
    user.with("one", 1).with("two", 2);
    user.ok(&["publish", "one", "acme/x@v1", "--to", "hub"]);
    let hub = user.path("hub").display().to_string();
    let to = User::new();
    assert!(to.fails(3, &["lock", "--hub", &hub]).contains("there is no forkd.lock"));
    assert!(to.fails(3, &["pull", "--locked"]).contains("there is no forkd.lock"));
    to.ok(&["lock", "acme/x", "--hub", &hub]);
    // A version that comes later changes nothing, and neither does the list that is gone.
    user.ok(&["publish", "two", "acme/x@v2", "--to", "hub"]);
    std::fs::rename(user.path("hub/registry.json"), user.path("registry.json")).unwrap();
    to.ok_noted(&["pull", "--locked"]);
    assert!(to.snapshot("one", "memory.bin").exists() && !to.snapshot("two", "memory.bin").exists());
    std::fs::rename(user.path("registry.json"), user.path("hub/registry.json")).unwrap();
    assert!(to.fails(3, &["pull", "--locked", "acme/y"]).contains("'acme/y' is not in forkd.lock"));
    // Without names all of them are looked up again.
    to.ok(&["lock", "--hub", &hub]);
    to.ok_noted(&["pull", "--locked", "acme/x"]);
    assert!(to.snapshot("two", "memory.bin").exists());
    for other in ["acme/x@v1", &format!("acme/x@sha256:{}", "0".repeat(64))] {
        assert!(to.fails(3, &["pull", "--locked", other]).contains("has acme/x@latest, not"), "{other}");
    }
    let pinned = std::fs::read_to_string(to.path("forkd.lock")).unwrap();
    let digest =
        pinned.lines().find_map(|line| line.strip_prefix("sha256 = \"")).unwrap().trim_end_matches('"');
    to.ok_noted(&["pull", "--locked", &format!("acme/x@sha256:{digest}")]);
    // Other bytes than those that were locked are refused.
    let third = User::new();
    let text = std::fs::read_to_string(to.path("forkd.lock")).unwrap();
    let flip = |key: &str| {
        let lines = text.lines().map(|line| match line.strip_prefix(&format!("{key} = \"")) {
            Some(rest) => {
                format!("{key} = \"{}{}", if rest.starts_with('0') { '1' } else { '0' }, &rest[1..])
            }
            None => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let only_stream = flip("sha256");
    let only_stream = only_stream.split("[[package.artifact]]").next().unwrap();
    std::fs::write(third.path("forkd.lock"), only_stream).unwrap();
    assert!(third.fails(6, &["pull", "--locked"]).contains("expected"));
    assert!(third.is_untouched() || !third.snapshot("two", "").exists());
    std::fs::write(third.path("forkd.lock"), "lock_version = 7\n").unwrap();
    assert!(third.fails(6, &["pull", "--locked"]).contains("forkd.lock"));
}
