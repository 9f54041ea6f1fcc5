//! `forkd doctor`.

use crate::common::{self, User};

pub(crate) const TESTS: &[(&str, fn())] = &[("the_doctor_says_what_is_here", the_doctor_says_what_is_here)];

fn the_doctor_says_what_is_here() {
    let user = User::new();
    let out = user.run(&["doctor"]);
    assert_eq!(out.code, 0, "{}", out.out);
    assert!(out.out.contains("✓ QEMU ") && out.out.ends_with("this host bakes and forks\n"), "{}", out.out);
    let mut command = user.command(&["doctor"]);
    let without = user.seen(&command.env("PATH", "/none").output().unwrap());
    assert_eq!(without.code, 8);
    assert!(without.out.contains("fix: apt-get install qemu-system-x#"), "{}", without.out);
    // What it says of folders it has tried.
    let mut command = user.command(&["doctor"]);
    let nowhere = user
        .seen(&command.env("XDG_DATA_HOME", "/proc/x").env("XDG_CACHE_HOME", "/proc/y").output().unwrap());
    assert_eq!(nowhere.code, 8, "{}", nowhere.out);
    for line in
        ["✗ store            /proc/x/forkd: ", "- cache            /proc/y/forkd: ", "KVM              "]
    {
        assert!(nowhere.out.contains(line), "{line}\n{}", nowhere.out);
    }
    assert_eq!(common::names(&user.tmp(), "forkd-initrd-"), 0);
}
