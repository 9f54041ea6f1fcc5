//! `forkd unpack`.

use crate::common::{User, three_links};
use forkd_testing::{entries, sha256, tar_of, tree, zst};
use std::process::Command;

#[test]
fn a_base_and_a_second_time() {
    let (a, b) = (User::new(), User::new());
    a.with("py", 1).ok(&["pack", "--tag", "py", "--out", "p"]);
    let pack = a.path("p");
    let pack = pack.to_str().unwrap();
    assert_eq!(
        b.ok(&["unpack", pack]),
        "✓ unpacked tag 'py' at ~/data/forkd/snapshots/py/\n  next: forkd fork --tag py -n <N>\n"
    );
    assert_eq!(
        b.ok(&["unpack", pack]),
        "✓ tag 'py' is already at ~/data/forkd/snapshots/py/ with the same bytes\n  next: forkd fork --tag py -n <N>\n"
    );
    assert_eq!(b.json(&["unpack", pack, "--tag", "other"])["links"][0]["outcome"], "created");
    let json = std::fs::read_to_string(b.snapshot("other", "snapshot.json")).unwrap();
    assert_eq!(
        b.plain(&json),
        r#"{"vmstate":"~/data/forkd/snapshots/other/vmstate","memory":"~/data/forkd/snapshots/other/memory.bin","volumes":[],"x_unknown":[#,"two"]}"#
    );
    assert_eq!(b.ok(&["unpack", pack, "-q"]), "");
}

#[test]
fn who_unpacks_what_cannot_be_forked_here_is_told() {
    let (a, b) = (User::new(), User::new());
    a.with("py", 1).ok(&["pack", "--tag", "py", "--out", "p"]);
    let pack = a.path("p");
    let told = |path: &str| {
        let mut command = b.command(&["unpack", pack.to_str().unwrap(), "--force", "--tag", path]);
        let output =
            command.env("PATH", if path == "none" { "/none" } else { "/usr/bin:/bin" }).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(told("none").contains("'py' cannot be forked here: qemu-system-x86_64 is not installed"));
    if Command::new("qemu-system-x86_64").arg("--version").output().is_ok() {
        assert!(told("here").contains("'py' cannot be forked here: snapshot.json has no 'engine'"));
    }
}

#[test]
fn a_chain_is_told_link_by_link() {
    let (a, b) = (User::new(), User::new());
    three_links(&a);
    a.ok(&["pack", "--tag", "top", "--out", "p"]);
    let pack = a.path("p");
    let pack = pack.to_str().unwrap();
    assert_eq!(
        b.ok(&["unpack", pack]),
        "✓ link 'base' → 'base' at ~/data/forkd/snapshots/base/
✓ link 'mid'  → 'mid'  at ~/data/forkd/snapshots/mid/  (chain parent: base)
✓ link 'top'  → 'top'  at ~/data/forkd/snapshots/top/  (chain parent: mid)
✓ unpacked # chain link(s), head = 'top'
  next: forkd fork --tag top -n <N>
"
    );
    assert!(b.fails(2, &["unpack", pack, "--tag", "x"]).contains("a chain of #"));
}

#[test]
fn other_bytes_need_force() {
    let (a, b) = (User::new(), User::new());
    a.with("t", 1).ok(&["pack", "--tag", "t", "--out", "p"]);
    b.with("t", 2);
    let pack = a.path("p");
    let pack = pack.to_str().unwrap();
    let before = tree(b.dir.path());
    assert_eq!(
        b.fails(1, &["unpack", pack]),
        "forkd: 't' is already at ~/data/forkd/snapshots/t with other bytes: its vmstate differs. Use --force to replace it, or \
         --tag to unpack under another name\n"
    );
    assert_eq!(tree(b.dir.path()), before);
    b.ok_noted(&["unpack", pack, "--force"]);
    assert_eq!(sha256(&b.snapshot("t", "memory.bin")), sha256(&a.snapshot("t", "memory.bin")));
}

#[test]
fn force_repairs_damage_that_no_time_stamp_shows() {
    let (a, b) = (User::new(), User::new());
    a.with("t", 1).ok(&["pack", "--tag", "t", "--out", "p"]);
    let pack = a.path("p");
    b.ok(&["unpack", pack.to_str().unwrap()]);
    let memory = b.snapshot("t", "memory.bin");
    let time = memory.metadata().unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&memory).unwrap();
    bytes[9] ^= 1;
    std::fs::write(&memory, bytes).unwrap();
    std::fs::File::options().write(true).open(&memory).unwrap().set_modified(time).unwrap();
    b.fails(6, &["verify", "t"]);
    b.ok_noted(&["unpack", pack.to_str().unwrap(), "--force"]);
    b.ok(&["verify", "t"]);
}

#[test]
fn refusals_name_file_and_rule_and_exit_with_6() {
    let user = User::new();
    assert!(user.fails(3, &["unpack", "none.zst"]).contains("none.zst"));
    assert!(user.fails(2, &["unpack", "."]).contains("not a regular file"));
    for (bytes, words) in [
        (&b"not a pack"[..], "something else; expected what `forkd pack` writes"),
        (b"\x1f\x8b\x08\0", "compressed by gzip; an image that `docker save` made is for `forkd from-image"),
        (b"PK\x03\x04", "a zip archive; unzip it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page; check the URL"),
        (b" {\"schema_version\": 1}", "JSON; a registry is for --hub"),
    ] {
        std::fs::write(user.path("other"), bytes).unwrap();
        let error = user.fails(6, &["unpack", "other"]);
        assert!(error.starts_with(&format!("forkd: other: no pack (zstd): it is {words}")), "{error}");
    }
    let mut bad = entries("t", 1);
    bad[3].bytes[6000] ^= 1;
    std::fs::write(user.path("bad"), zst(&tar_of(&bad))).unwrap();
    let before = tree(user.dir.path());
    assert!(user.fails(6, &["unpack", "bad"]).starts_with("forkd: bad: memory.bin: sha# is "));
    Command::new("mkfifo").arg(user.path("pipe")).status().unwrap();
    assert!(user.fails(2, &["unpack", "pipe"]).contains("not a regular file"));
    std::fs::remove_file(user.path("pipe")).unwrap();
    assert_eq!(tree(user.dir.path()), before, "nothing is left behind");
}

#[test]
fn bombs_take_little_memory() {
    let user = User::new();
    let good = tar_of(&entries("t", 1));
    let zeros = zstd::bulk::compress(&vec![0; 4 << 20], 3).unwrap();
    let mut pack = zst(&good[..good.len() - 1024]);
    (0..3000).for_each(|_| pack.extend_from_slice(&zeros));
    std::fs::write(user.path("frames"), pack).unwrap();
    // One frame with a window of 128 MiB: the most that is allowed.
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    let mut random = forkd_testing::pseudo_random(5);
    let mut large = entries("t", 1);
    large[3].bytes = (0..160 << 17).flat_map(|_| random().to_le_bytes()).collect();
    let files: Vec<_> = large[1..].iter().map(|entry| (entry.name.clone(), entry.bytes.clone())).collect();
    large[0].bytes = forkd_testing::manifest("t", &files).into_bytes();
    large[3].bytes[1 << 20] ^= 1;
    std::io::Write::write_all(&mut encoder, &tar_of(&large)).unwrap();
    std::fs::write(user.path("window"), encoder.finish().unwrap()).unwrap();
    for name in ["frames", "window"] {
        let mut child = user.command(&["unpack", name]).spawn().unwrap();
        let mut peak = 0;
        let status = loop {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            peak = peak.max(line.map_or(0, |kib| kib.trim().trim_end_matches(" kB").parse().unwrap()));
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
        };
        assert_eq!(status.code(), Some(6), "{name}");
        assert!(peak > 0 && peak < 256 << 10, "{name}: {peak} KiB");
    }
}

#[test]
fn a_pack_that_holds_nothing_for_ever_ends() {
    let user = User::new();
    let declared = zst(&tar_of(&entries("t", 1))[..2048]);
    // Frames of nothing, frames that are skipped, and blocks of nothing in one frame: raw, of 0 bytes, not the last.
    let empty = zstd::bulk::compress(b"", 3).unwrap().repeat(4_000_000);
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18], &(1_u32 << 20).to_le_bytes()[..], &vec![0; 1 << 20]].concat();
    let blocks = [vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x58], [0, 0, 0].repeat(12_000_000)].concat();
    for (name, tail) in [("empty", empty), ("skipped", skipped.repeat(40)), ("blocks", blocks)] {
        std::fs::write(user.path(name), [declared.clone(), tail].concat()).unwrap();
        let error = user.fails(6, &["unpack", name]);
        assert!(error.contains("compressed bytes for what is declared"), "{name}: {error}");
    }
    assert!(user.is_untouched());
}

#[test]
fn packs_of_other_tools_unpack() {
    let user = User::new();
    let script = r#"
import hashlib, io, json, os, subprocess, sys, tarfile
def write(name, version, links, head, extra="", pax=False):
    sha = lambda b: hashlib.sha256(b).hexdigest()
    def table(key, files):
        return "".join(f'\n[[{key}]]\npath = "{p}"\nsize = {len(b)}\nsha256 = "{sha(b)}"\n' for p, b in files)
    if version == 1:
        toml = f'forkd_pack_version = 1\ntag = "{head}"\n' + table("files", links[0][1]) + extra
    else:
        toml = f'forkd_pack_version = 2\ntag = "{head}"\nparent_tag = "{links[-2][0]}"\nfiles = []\n'
        parent = None
        for tag, files in links:
            toml += f'\n[[chain]]\ntag = "{tag}"\n'
            if parent: toml += f'parent_tag = "{parent[0]}"\nparent_content_hash = "{parent[1]}"\n'
            toml += table("chain.files", files)
            parent = (tag, sha(dict(files)["memory.bin"]))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        def add(path, data):
            info = tarfile.TarInfo(path); info.size = len(data); info.mtime = 1.5 if pax else 1
            tar.addfile(info, io.BytesIO(data))
        add("manifest.toml", toml.encode())
        for tag, files in links:
            for path, data in files: add(path if version == 1 else f"{tag}/{path}", data)
    subprocess.run(["zstd", "-q", "-f", "--long=27", "-o", name], input=out.getvalue(), check=True)
def link(seed, **json_extra):
    mem = bytearray(1 << 20)
    for i in range(0, 1 << 20, 65536): mem[i:i+4096] = hashlib.shake_128(bytes([seed]) + i.to_bytes(4, "big")).digest(4096)
    return [("snapshot.json", json.dumps({"vmstate": "/x/v", "memory": "/x/m", **json_extra}).encode()), ("vmstate", b"v" * 700), ("memory.bin", bytes(mem))]
one = link(1)
write("one.zst", 1, [("one", one)], "one", pax=True)
two = link(2, parent_tag="one", parent_content_hash=hashlib.sha256(one[2][1]).hexdigest())
write("two.zst", 2, [("one", one), ("two", two)], "two")
disk = os.urandom(5000) + bytes(100000)
digest = hashlib.sha256(disk).hexdigest()
subprocess.run(["zstd", "-q", "-o", digest[:16] + ".rootfs.zst"], input=disk, check=True)
write("side.zst", 1, [("side", link(3, rootfs="/home/x/disk.ext4"))], "side",
      f'\n[rootfs]\ntarget_path = "{os.getcwd()}/evil"\nsha256 = "{digest}"\nsize = {len(disk)}\n')
open("disk.expected", "wb").write(disk)
"#;
    assert!(
        Command::new("python3").args(["-c", script]).current_dir(user.dir.path()).status().unwrap().success()
    );
    user.ok(&["unpack", "one.zst"]);
    assert!(
        user.ok(&["unpack", "two.zst"])
            .contains("✓ link 'one' → 'one' at ~/data/forkd/snapshots/one/  (already here)")
    );
    user.ok(&["unpack", "side.zst"]);
    assert_eq!(sha256(&user.snapshot("side", "rootfs.ext4")), sha256(&user.path("disk.expected")));
    assert!(!user.path("evil").exists(), "the path that the pack names is never written");
    let json = std::fs::read_to_string(user.snapshot("side", "snapshot.json")).unwrap();
    assert!(user.plain(&json).contains(r#""rootfs":"~/data/forkd/snapshots/side/rootfs.ext#""#), "{json}");
    for tag in ["one", "two", "side"] {
        user.ok(&["verify", tag]);
    }
    // A sidecar that is missing, or not what the manifest declares, is refused.
    let side = std::fs::read_dir(user.dir.path())
        .unwrap()
        .flatten()
        .find(|e| e.file_name().to_string_lossy().ends_with(".rootfs.zst"));
    let side = side.unwrap().path();
    user.ok(&["rmi", "side"]);
    std::fs::write(&side, zstd::encode_all(&[7u8; 105_000][..], 1).unwrap()).unwrap();
    assert!(user.fails(6, &["unpack", "side.zst"]).contains("the manifest declares"));
    std::fs::remove_file(&side).unwrap();
    assert!(user.fails(3, &["unpack", "side.zst"]).contains("is missing, which belongs to the pack"));
    assert!(!user.snapshot("side", "").exists());
}

#[test]
fn a_killed_unpack_is_cleaned_by_the_next_one() {
    let user = User::new();
    user.with("big", 1);
    // Large enough that the kill comes in the middle.
    std::fs::File::options()
        .write(true)
        .open(user.snapshot("big", "memory.bin"))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    user.ok(&["pack", "--tag", "big", "--out", "p"]);
    user.ok(&["rmi", "big"]);
    let before = forkd_testing::tree(&user.store());
    for wait in [0, 5, 20, 60, 120] {
        let mut child = user.command(&["unpack", "p"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        if user.snapshot("big", "").exists() {
            user.ok(&["verify", "big"]);
            user.ok(&["rmi", "big"]);
        }
    }
    user.run(&["gc"]);
    let left: Vec<_> =
        forkd_testing::tree(&user.store()).into_keys().filter(|path| !before.contains_key(path)).collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
    user.ok(&["unpack", "p"]);
}

#[test]
fn exit_code_of_a_taken_lock() {
    let user = User::new();
    user.with("t", 1);
    std::fs::create_dir_all(user.path("data/forkd/locks")).unwrap();
    let script =
        r#"exec 9<>data/forkd/locks/t.lock; flock 9; echo "77 forkd fork --tag t" >&9; echo; exec sleep 100"#;
    let mut holder = std::process::Command::new("bash")
        .args(["-c", script])
        .current_dir(user.dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let output = user.command(&["rmi", "t"]).env("FORKD_LOCK_TIMEOUT", "0").output().unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    let seen = user.seen(&output);
    assert_eq!(
        (seen.code, seen.err.as_str()),
        (
            11,
            "forkd: snapshot 't' is in use by process # (forkd fork --tag t); try again when that has ended\n"
        )
    );
}

#[test]
fn a_chain_takes_nobodys_place() {
    let (a, b) = (User::new(), User::new());
    three_links(&a);
    let out = a.path("chain.pack");
    a.ok(&["pack", "--tag", "top", "--out", "chain.pack"]);
    // Somebody's own, under the name of a parent in the pack.
    b.with("base", 9);
    let pack = out.to_str().unwrap();
    let own = |user: &User| sha256(&user.snapshot("base", "memory.bin"));
    let before = own(&b);
    let told = b.ok(&["unpack", pack]);
    assert_eq!((own(&b), own(&b) == own(&a)), (before.clone(), false), "{told}");
    let links = b.json(&["unpack", pack, "--force"])["links"].as_array().unwrap().clone();
    let other = links[0]["local_tag"].as_str().unwrap().to_owned();
    assert!(other.starts_with("base-") && other.len() == 17, "{other}");
    assert_eq!((&links[0]["tag"], &links[1]["parent"]), (&"base".into(), &other.as_str().into()));
    assert!(links.iter().all(|link| link["outcome"] == "kept"), "a second time all is here: {links:?}");
    assert_eq!(own(&b), before);
    b.ok(&["verify", "top"]);
    assert_eq!(b.json(&["inspect", "top"])["links"][1]["parent"], other.as_str());
    // A pack of it has the same memory, and unpacks elsewhere.
    b.ok(&["pack", "--tag", "top", "--out", "again.pack"]);
    let c = User::new();
    c.ok(&["unpack", b.path("again.pack").to_str().unwrap()]);
    assert_eq!(sha256(&c.snapshot(&other, "memory.bin")), own(&a));
    // It keeps its name where the other has become free.
    b.ok(&["rmi", "base"]);
    assert_eq!(b.json(&["unpack", pack])["links"][0]["local_tag"], other.as_str());
    b.ok(&["rmi", "--cascade", &other]);
    b.ok(&["unpack", pack]);
    assert_eq!(own(&b), own(&a));
    // What was unpacked and is damaged is mended, parents too.
    std::fs::write(b.snapshot("base", "memory.bin"), "damaged").unwrap();
    let (_, noted) = b.ok_noted(&["unpack", pack, "--force"]);
    assert_eq!(noted, "'base' will be replaced\n");
    b.ok(&["verify", "top"]);
}

#[test]
fn what_is_unpacked_is_private_and_a_near_name_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let (a, b) = (User::new(), User::new());
    a.with("python", 1).ok(&["pack", "--tag", "python", "--out", "p"]);
    b.ok(&["unpack", a.path("p").to_str().unwrap()]);
    let mode = std::fs::metadata(b.path("data/forkd")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
    let error = b.fails(3, &["fork", "--tag", "pyhton"]);
    assert!(error.contains("did you mean 'python'?"), "{error}");
}
