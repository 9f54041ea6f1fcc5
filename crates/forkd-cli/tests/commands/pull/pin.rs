//! What names a pack: a digest of a manifest never vouches for a stream, whatever a hub lists, a server sends or a store remembers.

use crate::common::User;
use crate::common::shop::{Shop, frames, kill, noise, spawn, until};
use forkd_testing::{sha256, tree};
use serde_json::{Value, json};

/// A publisher of `py`, whose only paged pack was replaced by somebody's stream pack, padded to the size that is listed.
struct Swap {
    shop: Shop,
    /// What the registry says of the paged pack, which is not there any more.
    listed: Value,
    registry: String,
}

/// What a command that ends so says, to the letter.
#[track_caller]
fn said(user: &User, code: i32, args: &[&str]) -> String {
    let output = user.command(args).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    said
}

/// All that is in the store, but for the locks of those that were killed.
fn left(user: &User) -> Vec<(std::path::PathBuf, String)> {
    tree(&user.store()).into_iter().filter(|(path, _)| !path.starts_with("forkd/locks")).collect()
}

impl Swap {
    /// `prefix` is what the server does wrong on the way to the paged pack.
    fn new(prefix: &str) -> Self {
        let shop = Shop::new();
        noise(&shop.user, "py", &[1, 2, 3]);
        noise(&shop.user, "evil", &[9]);
        shop.pack("py", "one.zst", &[]).pack("py", "paged.zst", &["--format", "3"]).pack(
            "evil",
            "evil.zst",
            &[],
        );
        let mut listed = shop.artifact("paged.zst");
        listed["url"] = format!("{prefix}paged.zst").into();
        let registry = shop.list(&[("v1", shop.version("one.zst", &[listed.clone()]))]);
        Self { shop, listed, registry }
    }

    /// Puts the padded stream pack in the place of the paged one.
    fn swap(self) -> Self {
        let room = self.shop.size("paged.zst") - self.shop.size("evil.zst");
        let mut bytes = std::fs::read(self.shop.file("evil.zst")).unwrap();
        // A skippable frame (RFC 8878, 3.1.2) behind the manifest's.
        let mut padding = 0x184D_2A50_u32.to_le_bytes().to_vec();
        padding.extend(u32::try_from(room - 8).unwrap().to_le_bytes());
        padding.resize(usize::try_from(room).unwrap(), 0);
        let at = frames(&self.shop.file("evil.zst"))[1].0;
        bytes.splice(at..at, padding);
        std::fs::write(self.shop.file("paged.zst"), bytes).unwrap();
        self
    }

    fn digest(&self) -> &str {
        self.listed["manifest_sha256"].as_str().unwrap()
    }

    fn pinned(&self) -> String {
        format!("acme/py@v1@sha256:{}", self.digest())
    }

    #[track_caller]
    fn refused(&self, user: &User, args: &[&str]) {
        let before = left(user);
        let text = said(user, 6, args);
        assert!(
            text.contains("a pack of format 1 came; the hub offers format 3") && text.contains(self.digest()),
            "{text}"
        );
        assert_eq!(left(user), before, "something was left");
    }
}

#[test]
fn a_stream_that_comes_for_a_paged_pack_is_refused_by_all_paths() {
    for prefix in ["", "noranges/"] {
        let swap = Swap::new(prefix).swap();
        let (hub, pinned, user) = (&swap.registry, swap.pinned(), User::new());
        // One offer, because the reference pins it; several, of which it is the smallest.
        swap.refused(&user, &["pull", &pinned, "--hub", hub]);
        swap.refused(&user, &["pull", "acme/py", "--hub", hub]);
        swap.refused(&user, &["pull", &pinned, "--hub", hub, "--dry-run"]);
        swap.refused(&user, &["pull", "acme/py", "--hub", hub, "--dry-run"]);
        swap.refused(&user, &["pull", &pinned, "--hub", hub, "--force", "--tag", "other"]);
        // A registry that lists the manifest's digest as that of the whole file does not help.
        let mut version = swap.shop.version("one.zst", &[]);
        version["url"] = format!("{prefix}paged.zst").into();
        version["sha256"] = swap.digest().into();
        version["size_bytes"] = swap.shop.size("paged.zst").into();
        swap.shop.list(&[("v1", version)]);
        let text = said(&user, 6, &["pull", "acme/py", "--hub", hub]);
        assert!(text.contains("expected") && text.contains(swap.digest()), "{text}");
        let text = said(&user, 6, &["pull", &pinned, "--hub", hub]);
        assert!(text.contains("expected") && text.contains(swap.digest()), "{text}");
        // Nor does a URL.
        let url = format!("{}#sha256={}", swap.shop.hub.url(&format!("{prefix}paged.zst")), swap.digest());
        let text = said(&user, 6, &["pull", &url]);
        assert!(text.contains(&format!("expected {}", swap.digest())), "{text}");
        assert!(user.is_untouched());
    }
}

#[test]
fn a_download_that_began_with_the_right_pack_does_not_go_on_with_another() {
    let swap = Swap::new("slow/400000/");
    let (hub, pinned, user) = (swap.registry.clone(), swap.pinned(), User::new());
    let mut child = spawn(&user, &["pull", &pinned, "--hub", &hub]);
    let partial = user.store().join("forkd/partial");
    until(&mut child, || {
        let folders = std::fs::read_dir(&partial).into_iter().flatten().flatten();
        folders
            .map(|folder| folder.path().join("journal"))
            .any(|it| it.metadata().is_ok_and(|it| it.len() > 0))
    });
    kill(child);
    let swap = swap.swap();
    swap.refused(&user, &["pull", &pinned, "--hub", &hub]);
    assert!(!user.snapshot("py", "").exists());
}

#[test]
fn what_is_here_under_a_name_is_found_by_that_kind_of_name_only() {
    let swap = Swap::new("");
    let (hub, pinned, user) = (&swap.registry.clone(), swap.pinned(), User::new());
    let report = user.json(&["pull", &pinned, "--hub", hub]);
    assert_eq!((&report["sha256"], &report["format"]), (&json!(swap.digest()), &json!(3)));
    let record = std::fs::read_to_string(user.snapshot("py", "forkd.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["source"]["manifest_sha256"], swap.digest());
    assert_eq!(record["source"].get("sha256"), None, "nobody computed the digest of the whole file");
    let swap = swap.swap();
    // Here already: nothing is asked for, and what was computed then is what is told.
    let report = user.json(&["pull", &pinned, "--hub", hub]);
    assert_eq!((&report["sha256"], &report["downloaded_bytes"]), (&json!(swap.digest()), &json!(0)));
    assert!(user.ok(&["pull", &pinned, "--hub", hub, "--dry-run"]).contains("nothing to fetch"));
    // Listed as the digest of a file it names another pack, which is not here.
    let mut version = swap.shop.version("one.zst", &[]);
    version["url"] = "paged.zst".into();
    version["sha256"] = swap.digest().into();
    version["size_bytes"] = swap.shop.size("paged.zst").into();
    swap.shop.list(&[("v1", version)]);
    let before = tree(&user.store());
    said(&user, 6, &["pull", "acme/py", "--hub", hub, "--tag", "other"]);
    assert_eq!(tree(&user.store()), before);
}

#[test]
fn what_is_told_as_verified_was_computed() {
    let shop = Shop::new();
    noise(&shop.user, "py", &[1]);
    shop.pack("py", "one.zst", &[]).pack("py", "paged.zst", &["--format", "3"]);
    let user = User::new();
    // Nothing pinned, nothing verified; but what came is noted.
    let report = user.json(&["pull", &shop.hub.url("one.zst")]);
    assert_eq!((&report["sha256"], &report["format"]), (&Value::Null, &json!(1)));
    let record = std::fs::read_to_string(user.snapshot("py", "forkd.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["source"]["sha256"], sha256(&shop.file("one.zst")));
    let user = User::new();
    let (said, _) = user.ok_noted(&["pull", &shop.hub.url("paged.zst")]);
    assert!(said.contains("! no sha# was given"), "{said}");
    let user = User::new();
    let report = user.json(&["pull", &shop.pinned("", "one.zst")]);
    assert_eq!(report["sha256"], sha256(&shop.file("one.zst")));
}
