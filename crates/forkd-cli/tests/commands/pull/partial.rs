//! What a pull that broke off leaves behind, and what the next one makes of it: calls of the disk that fail, and leftovers that
//! are not what they were.

use crate::common::User;
use crate::common::shop::{Shop, kill, noise, spawn, until};
use forkd_core::hub::Location;
use forkd_core::{
    Cancel, Dependents, Env, PullOptions, PullReport, PullTarget, Result, Silent, Store, UnpackOptions,
};
use forkd_format::Tag;
use forkd_remote::{AnyRemote, HttpOptions};
use forkd_sys::{Call, DiskIo};
use std::fs::{File, Permissions};
use std::io::{Read, Seek};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

static REMOTE: LazyLock<AnyRemote> = LazyLock::new(|| AnyRemote::new(&HttpOptions::default()).unwrap());
static NEVER: LazyLock<Cancel> = LazyLock::new(Cancel::default);

fn env() -> Env<'static> {
    Env { progress: &Silent, cancel: &NEVER, jobs: 2 }
}

fn store(user: &User) -> Store {
    Store::new(&user.path("data/forkd"), "a test")
}

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

/// Pulls from a folder, into a store whose calls may fail.
fn pull(store: &Store, pack: &Path, force: bool) -> Result<PullReport> {
    let target = PullTarget::Url(Location::parse(&format!("file://{}", pack.display())).unwrap());
    let options = PullOptions {
        target,
        unpack: UnpackOptions { force, ..UnpackOptions::default() },
        connections: Some(2),
        arrivals: None,
    };
    forkd_core::pull(store, &*REMOTE, &options, env())
}

/// The store with its n-th call failing, or that and all after it, as if the process had died there.
fn failing(store: &Store, at: usize, forever: bool) -> (Store, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let probe = Arc::new(move |_: Call, _: &Path| {
        let number = counter.fetch_add(1, Ordering::SeqCst);
        if number == at || (forever && number > at) {
            Err(std::io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        }
    });
    (store.clone().with_disk(DiskIo::with_probe(probe)), count)
}

fn nothing_left(store: &Store, when: &str) {
    for name in ["partial", "staging", "locks"] {
        assert!(!store.root().join(name).exists(), "{when}: {name} is there");
    }
}

/// Pulls with the n-th call failing, for every n; then the same pull again, which must succeed and leave nothing.
fn survives(shop: &Shop, pack: &str, tags: &[&str], prepare: &dyn Fn(&User), removed: bool) {
    // A removal is between runs that were killed; every third call of a chain is enough, for its links are alike.
    for forever in if removed { vec![true] } else { vec![false, true] } {
        for n in (usize::from(forever)..).step_by(if tags.len() > 1 { 3 } else { 1 }) {
            let user = User::in_memory();
            prepare(&user);
            let store = store(&user);
            // Children may run on what is replaced.
            let used = File::open(user.snapshot(tags[0], "memory.bin")).ok();
            let bytes = |file: &File| {
                let mut bytes = Vec::new();
                file.try_clone().unwrap().rewind().unwrap();
                file.try_clone().unwrap().read_to_end(&mut bytes).unwrap();
                bytes
            };
            let before = used.as_ref().map(bytes);
            let (failing, count) = failing(&store, n, forever);
            let outcome = pull(&failing, &shop.file(pack), true);
            let when = format!("{pack}, call {n}, forever {forever}");
            let done = count.load(Ordering::SeqCst) <= n;
            assert!(outcome.is_err() || done || !forever, "{when}: it said that it was done");
            for there in store.tags().unwrap() {
                let report = forkd_core::verify_tag(&store, &there, env()).unwrap();
                assert_eq!(report.damage, [], "{when}");
            }
            if removed {
                let there = store.tags().unwrap();
                forkd_core::remove(&store, &there, Dependents::Refuse, env()).unwrap();
            }
            if let Err(error) = pull(&store, &shop.file(pack), true) {
                panic!("{when}, then: {error}");
            }
            assert!(used.as_ref().map(bytes) == before, "{when}: what was replaced was written to");
            for tag in tags {
                shop.check(&user, tag);
                let report = forkd_core::verify_tag(&store, &tag.parse().unwrap(), env()).unwrap();
                assert_eq!(report.damage, [], "{when}");
            }
            store.gc(&Silent).unwrap();
            nothing_left(&store, &when);
            if done {
                assert!(n > 10, "the probe saw only {n} calls");
                break;
            }
        }
    }
}

#[test]
fn the_next_run_goes_on_after_any_failed_call() {
    let shop = Shop::new();
    noise(&shop.user, "py", &[1, 0]);
    shop.pack("py", "p.zst", &["--format", "3"]);
    survives(&shop, "p.zst", &["py"], &|_| {}, false);
}

#[test]
fn a_chain_goes_on_after_any_failed_call() {
    let shop = Shop::new();
    crate::common::three_links(&shop.user);
    shop.pack("top", "p.zst", &["--format", "3"]);
    survives(&shop, "p.zst", &["base", "mid", "top"], &|_| {}, false);
}

#[test]
fn what_was_replaced_never_comes_back() {
    let shop = Shop::new();
    noise(&shop.user, "py", &[1, 0]);
    shop.pack("py", "p.zst", &["--format", "3"]);
    // Other bytes where the new ones are zero, and a file that the new one has not.
    let older = |user: &User| {
        noise(user, "py", &[8, 9]);
        std::fs::write(user.snapshot("py", "rootfs.ext4"), [7; 5000]).unwrap();
        let json = format!(
            r#"{{"vmstate":"{0}vmstate","memory":"{0}memory.bin","rootfs":"{0}rootfs.ext4","volumes":[]}}"#,
            user.snapshot("py", "").display()
        );
        std::fs::write(user.snapshot("py", "snapshot.json"), json).unwrap();
    };
    for removed in [false, true] {
        survives(&shop, "p.zst", &["py"], &older, removed);
    }
}

/// A pull that broke off after most of it had come; gives the folder of what has.
fn broken(shop: &Shop, user: &User) -> std::path::PathBuf {
    let at = shop.size("p.zst") * 3 / 4;
    user.fails(5, &["pull", &shop.pinned(&format!("cut/{at}/"), "p.zst")]);
    let partial = std::fs::read_dir(user.path("data/forkd/partial")).unwrap().next().unwrap().unwrap();
    partial.path()
}

fn shop() -> Shop {
    let shop = Shop::new();
    noise(&shop.user, "py", &[1, 0, 2, 3]);
    shop.pack("py", "p.zst", &["--format", "3"]);
    shop
}

#[test]
fn what_lies_there_is_not_believed() {
    let shop = shop();
    let right = std::fs::read(shop.user.snapshot("py", "memory.bin")).unwrap();
    for damage in 0..6 {
        let user = User::new();
        let partial = broken(&shop, &user);
        let (memory, journal) = (partial.join("0/memory.bin"), partial.join("journal"));
        let file = File::options().write(true).open(&memory).unwrap();
        match damage {
            // Where there should be zeros, in frames that have landed, that have not, and that never come.
            0 => {
                for page in (0..right.len()).step_by(4096).filter(|at| right[*at..*at + 4096] == [0; 4096]) {
                    file.write_all_at(b"stale", page as u64 + 17).unwrap();
                }
            }
            1 => file.write_all_at(&[0; 9000], 4096).unwrap(),
            2 => file.set_len(70_000).unwrap(),
            3 => std::fs::remove_file(&memory).unwrap(),
            4 => std::fs::write(&journal, [255; 4001]).unwrap(),
            _ => std::fs::remove_file(&journal).unwrap(),
        }
        user.ok(&["pull", &shop.pinned("", "p.zst")]);
        assert!(std::fs::read(user.snapshot("py", "memory.bin")).unwrap() == right, "damage {damage}");
        user.ok(&["verify", "py"]);
        nothing_left(&store(&user), &format!("damage {damage}"));
    }
}

#[test]
fn files_that_were_sealed_are_opened_again() {
    let shop = shop();
    let user = User::new();
    let partial = broken(&shop, &user);
    // As a run that ends between sealing and publishing leaves them.
    for name in ["memory.bin", "vmstate"] {
        std::fs::set_permissions(partial.join("0").join(name), Permissions::from_mode(0o444)).unwrap();
    }
    for name in ["snapshot.json", "forkd.json", "other"] {
        std::fs::write(partial.join("0").join(name), "{}").unwrap();
    }
    // Who may do everything is not held back by a file's mode.
    let plain = user.command(&["pull", &shop.pinned("", "p.zst")]);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-dac_override", "--inh-caps=-dac_override"]);
    command.arg(plain.get_program()).args(plain.get_args()).current_dir(user.dir.path());
    command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let seen = user.seen(&command.output().unwrap());
    assert_eq!((seen.code, seen.err.as_str()), (0, ""));
    shop.check(&user, "py");
    assert!(!user.snapshot("py", "other").exists());
    user.ok(&["verify", "py"]);
}

#[test]
fn a_beginning_of_version_3_is_not_taken_for_a_stream() {
    let shop = shop();
    for at in [1, 200, 500] {
        let user = User::new();
        // One URL all the time, which says nothing of the format: it is cut off within the head, and then not any more.
        let real = shop.file("p.zst");
        let whole = std::fs::read(&real).unwrap();
        let url = shop.hub.url(&format!("noetag/cut/{at}/p.zst"));
        user.fails(5, &["pull", &url]);
        assert_eq!(std::fs::read(&real).unwrap(), whole);
        let url = shop.pinned(&format!("cut/{at}/"), "p.zst");
        user.fails(5, &["pull", &url]);
        user.ok_noted(&["pull", &shop.pinned("", "p.zst")]);
        shop.check(&user, "py");
    }
}

#[test]
fn a_stream_of_which_all_has_come_needs_no_more() {
    let shop = Shop::new();
    noise(&shop.user, "py", &[1, 0]);
    shop.pack("py", "p.zst", &[]);
    for pinned in [true, false] {
        let (user, size) = (User::new(), shop.size("p.zst"));
        let slow = format!("slow/{size}/");
        let url = if pinned { shop.pinned(&slow, "p.zst") } else { shop.hub.url(&format!("{slow}p.zst")) };
        let (store, from) = (store(&user), shop.hub.requests().len());
        let mut child = spawn(&user, &["pull", &url]);
        until(&mut child, || shop.sent(from, "p.zst") > size / 3);
        kill(child);
        // As where it is killed while all that has come is synced.
        let partial = std::fs::read_dir(store.root().join("partial")).unwrap().next().unwrap().unwrap();
        std::fs::copy(shop.file("p.zst"), partial.path().join("pack")).unwrap();
        let from = shop.hub.requests().len();
        user.ok_noted(&["pull", &url]);
        assert_eq!(shop.sent(from, "p.zst"), 1, "pinned: {pinned}");
        shop.check(&user, "py");
        store.gc(&Silent).unwrap();
        nothing_left(&store, "after gc");
        assert!(store.contains(&tag("py")));
    }
}

#[test]
fn what_is_refused_leaves_nothing() {
    let shop = shop();
    crate::common::three_links(&shop.user);
    shop.pack("top", "chain.zst", &["--format", "3"]);
    let user = User::new();
    assert!(user.fails(2, &["pull", &shop.pinned("", "chain.zst"), "--tag", "x"]).contains("--tag renames"));
    assert!(user.is_untouched());
    noise(&user, "py", &[5]);
    let before = forkd_testing::tree(&user.store());
    assert!(user.fails(1, &["pull", &shop.pinned("", "p.zst")]).contains("with other bytes"));
    assert_eq!(forkd_testing::tree(&user.store()), before);
    user.ok_noted(&["pull", &shop.pinned("", "p.zst"), "--force"]);
    shop.check(&user, "py");
    // What was begun under one tag is gone on with under another.
    let user = User::new();
    broken(&shop, &user);
    let report = user.json(&["pull", &shop.pinned("", "p.zst"), "--tag", "other"]);
    assert!(report["resumed_bytes"].as_u64().unwrap() > 1 << 20, "{report}");
    shop.check_as(&user, "py", "other");
    nothing_left(&store(&user), "in the end");
}

#[test]
fn one_pack_pulled_under_several_names_at_once() {
    let shop = shop();
    let version = shop.artifact("p.zst");
    shop.pack("py", "one.zst", &[]);
    shop.list(&[("v1", shop.version("one.zst", std::slice::from_ref(&version)))]);
    let user = User::new();
    let rate = shop.size("p.zst");
    let slow = |name: &str| shop.hub.url(&format!("slow/{rate}/{name}"));
    let by_name = [slow("registry.json"), "acme/py".to_owned()];
    let digest = version["manifest_sha256"].as_str().unwrap();
    let by_digest = [slow("registry.json"), format!("acme/py@v1@sha256:{digest}")];
    let commands = [
        user.command(&["pull", &by_name[1], "--hub", &by_name[0]]),
        user.command(&["pull", &by_digest[1], "--hub", &by_digest[0]]),
        user.command(&["pull", &slow("p.zst")]),
        user.command(&["pull", &shop.pinned("", "p.zst")]),
    ];
    let children: Vec<_> = commands
        .into_iter()
        .map(|mut command| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap()
        })
        .collect();
    for (n, child) in children.into_iter().enumerate() {
        let seen = user.seen(&child.wait_with_output().unwrap());
        assert_eq!(seen.code, 0, "{n}: {}", seen.err);
    }
    shop.check(&user, "py");
    nothing_left(&store(&user), "in the end");
}
