//! Layers as they are found in the wild: what other tools write and read, made by GNU tar and by hand, judged by e2fsprogs.
#![allow(clippy::unwrap_used, reason = "tests")]

use forkd_core::{Cancel, Env, Silent};
use forkd_image::{DiskOptions, LayerSource, build_disk};
use std::fs::{self, File};
use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

struct Disk {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Disk {
    /// Made of one layer, and held to be whole by e2fsck.
    fn of(tar: Vec<u8>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        let open =
            move || -> forkd_core::Result<Box<dyn Read + Send>> { Ok(Box::new(Cursor::new(tar.clone()))) };
        let layer = LayerSource { open: Box::new(open), diff_id: None, name: "wild".into() };
        let cancel = Cancel::default();
        let env = Env { progress: &Silent, cancel: &cancel, jobs: 2 };
        build_disk(&[layer], &file, &DiskOptions::default(), env).unwrap();
        let checked = Command::new("e2fsck").args(["-fn"]).arg(&path).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
        Self { _dir: dir, path }
    }

    fn debugfs(&self, request: &str) -> Vec<u8> {
        Command::new("debugfs").args(["-R", request]).arg(&self.path).output().unwrap().stdout
    }

    fn stat(&self, name: &str) -> String {
        String::from_utf8(self.debugfs(&format!("stat {name}"))).unwrap()
    }
}

fn header(name: &[u8], kind: u8, change: impl Fn(&mut tar::Header)) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkflag = [kind];
    header.set_size(0);
    header.set_mode(0o640);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(5);
    change(&mut header);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn end() -> Vec<u8> {
    vec![0; 1024]
}

#[test]
fn a_leading_slash_is_the_images_root() {
    let link = |header: &mut tar::Header| header.as_old_mut().linkname[..6].copy_from_slice(b"/nix/x");
    let disk = Disk::of(
        [
            header(b"/", b'5', |header| header.set_mode(0o711)),
            header(b"/nix", b'5', |_| ()),
            header(b"/nix/x", b'0', |_| ()),
            header(b"/nix/y", b'1', link),
            end(),
        ]
        .concat(),
    );
    assert!(disk.stat("/nix/y").contains("Links: 2"), "{}", disk.stat("/nix/y"));
    assert!(disk.stat("/").contains("Mode:  0711"), "{}", disk.stat("/"));
}

#[test]
fn devices_are_made_as_the_layer_says() {
    let device = |major, minor| {
        move |header: &mut tar::Header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        }
    };
    let disk = Disk::of(
        [header(b"null", b'3', device(1, 3)), header(b"far", b'4', device(259, 70_000)), end()].concat(),
    );
    let null = disk.stat("/null");
    assert!(null.contains("Type: character special") && null.contains("01:03"), "{null}");
    let far = disk.stat("/far");
    assert!(far.contains("Type: block special") && far.contains("259:70000"), "{far}");
}

#[test]
fn numbers_may_be_blank_and_times_odd() {
    let blank = |header: &mut tar::Header| {
        let old = header.as_old_mut();
        (old.uid, old.gid, old.mtime) = ([b' '; 8], [0; 8], [b' '; 12]);
    };
    // Two's complement: a day before 1970, and a time that no ext4 has.
    let before = |header: &mut tar::Header| {
        header.as_old_mut().mtime = [0xff; 12];
        header.as_old_mut().mtime[10..].copy_from_slice(&[0xae, 0x80]);
    };
    let ahead = |header: &mut tar::Header| header.as_old_mut().mtime = *b"777777777777";
    let disk = Disk::of(
        [
            header(b"blank", b'0', blank),
            header(b"before", b'0', before),
            header(b"ahead", b'0', ahead),
            end(),
        ]
        .concat(),
    );
    assert!(disk.stat("/blank").contains("User:     0   Group:     0"), "{}", disk.stat("/blank"));
    // Printed by debugfs in the host's zone.
    assert!(disk.stat("/before").contains("1969"), "{}", disk.stat("/before"));
    assert!(disk.stat("/ahead").contains("2446"), "{}", disk.stat("/ahead"));
}

#[test]
fn sparse_files_of_all_forms_keep_their_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lastlog");
    let mut file = File::create(&path).unwrap();
    // Data at odd places, more stretches than a header has room for, and a hole at the end.
    for at in (0..40).map(|n| n * 300_000 + 7) {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(format!("at {at}").as_bytes()).unwrap();
    }
    file.set_len(2 << 30).unwrap();
    drop(file);
    for form in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let mut tar = Command::new("tar");
        tar.args(form).args(["-S", "-cf", "-", "-C"]).arg(dir.path()).arg("lastlog");
        let tar = tar.output().unwrap().stdout;
        assert!(tar.len() < 2 << 20, "{form:?}: tar made no sparse entry");
        let disk = Disk::of(tar);
        let copy = dir.path().join("copy");
        disk.debugfs(&format!("dump /lastlog {}", copy.display()));
        let same = Command::new("cmp").args([&path, &copy]).status().unwrap();
        assert!(same.success(), "{form:?}");
        assert!(fs::metadata(&disk.path).unwrap().blocks() * 512 < 16 << 20, "{form:?}");
        let stat = disk.stat("/lastlog");
        assert!(stat.contains("Size: 2147483648"), "{stat}");
        fs::remove_file(copy).unwrap();
    }
}
