//! Locks (test catalogue, item 13).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{Home, env};
use forkd_core::store::LockKind;
use forkd_core::{Cancel, Env, Error, Kind, Progress, Store};
use forkd_testing::{entries, tar_of, zst};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn start(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

#[test]
fn two_writers_never_hold_one_tag() {
    let home = Home::new();
    let (inside, most, runs) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let _lock = home.store.lock(&"t".parse().unwrap(), LockKind::Exclusive, env()).unwrap();
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    runs.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!((most.into_inner(), runs.into_inner()), (1, 160));
    assert_eq!(home.tree().len(), 0, "locks leave nothing behind: {:?}", home.tree());
}

#[test]
fn readers_share_and_a_waiter_names_what_it_waits_for() {
    let home = Home::new();
    let tag = "t".parse().unwrap();
    let _one = home.store.lock(&tag, LockKind::Shared, env()).unwrap();
    let _two = home.store.lock(&tag, LockKind::Shared, env()).unwrap();
    let impatient =
        Store::new(home.store.root(), "forkd rmi t").with_lock_timeout(Duration::from_millis(150));
    let notes = Notes::default();
    let cancel = Cancel::default();
    let begun = Instant::now();
    let waiting = Env { progress: &notes, cancel: &cancel, jobs: 1 };
    let error = impatient.lock(&tag, LockKind::Exclusive, waiting).unwrap_err();
    assert!(begun.elapsed() >= Duration::from_millis(150));
    assert_eq!(error.kind(), Kind::Locked);
    let holder = format!("process {} (a test)", std::process::id());
    assert_eq!(
        error.to_string(),
        format!("snapshot 't' is in use by {holder}; try again when that has ended")
    );
    assert_eq!(*notes.0.lock().unwrap(), [format!("waiting for snapshot 't', in use by {holder}")]);
    cancel.cancel();
    assert!(matches!(home.store.lock(&tag, LockKind::Exclusive, waiting), Err(Error::Interrupted)));
}

#[test]
fn a_killed_holder_frees_at_once() {
    let home = Home::new();
    let path = home.store.root().join("locks/t.lock");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    // A shell that takes the lock, says so, and becomes `sleep`: one process, killed with SIGKILL.
    let script = r#"exec 9<>"$1"; flock 9; echo locked; exec sleep 100"#;
    let mut holder =
        Command::new("bash").args(["-c", script, "-"]).arg(&path).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "locked\n");
    let tag = "t".parse().unwrap();
    let impatient = home.store.clone().with_lock_timeout(Duration::from_millis(50));
    assert_eq!(impatient.lock(&tag, LockKind::Exclusive, env()).unwrap_err().kind(), Kind::Locked);
    holder.kill().unwrap();
    holder.wait().unwrap();
    let begun = Instant::now();
    home.store.lock(&tag, LockKind::Exclusive, env()).unwrap();
    assert!(begun.elapsed() < Duration::from_millis(500));
}

#[test]
fn many_unpacks_of_one_pack_leave_one_whole_snapshot() {
    let home = Home::new();
    let file = home.file(&zst(&tar_of(&entries("t", 1))));
    let created = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let report = forkd_core::unpack_file(&home.store, &file, &Default::default(), env()).unwrap();
                created.fetch_add(usize::from(!report.nothing_new()), Ordering::SeqCst);
            });
        }
    });
    assert_eq!(created.into_inner(), 1);
    assert_eq!(forkd_core::verify_tag(&home.store, &"t".parse().unwrap(), env()).unwrap().damage, []);
}

#[test]
fn a_link_in_the_place_of_a_lock_is_not_followed() {
    let home = Home::new();
    let locks = home.store.root().join("locks");
    std::fs::create_dir_all(&locks).unwrap();
    let target = home.dir.path().join("precious");
    std::fs::write(&target, "precious").unwrap();
    std::os::unix::fs::symlink(&target, locks.join("t.lock")).unwrap();
    assert!(home.store.lock(&"t".parse().unwrap(), LockKind::Exclusive, env()).is_err());
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
}
