//! Disks made of hand-made layers, judged by e2fsprogs.
#![allow(clippy::unwrap_used, reason = "tests")]

use forkd_core::{Cancel, Env, Kind, Silent};
use forkd_format::Digest;
use forkd_image::{DiskOptions, DiskReport, ExtraFile, LayerSource, build_disk};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tar::{Builder, EntryType, Header};

/// A layer that is being written.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn raw(
        mut self,
        path: &str,
        kind: EntryType,
        link: &str,
        contents: &[u8],
        change: impl Fn(&mut Header),
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(contents.len() as u64);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        // Not through the crate's checks: names of all kinds are wanted.
        header.as_old_mut().name[..path.len().min(100)]
            .copy_from_slice(&path.as_bytes()[..path.len().min(100)]);
        header.as_old_mut().linkname[..link.len().min(100)]
            .copy_from_slice(&link.as_bytes()[..link.len().min(100)]);
        change(&mut header);
        header.set_cksum();
        self.0.append(&header, contents).unwrap();
        self
    }

    fn file(self, path: &str, contents: &[u8]) -> Self {
        self.raw(path, EntryType::Regular, "", contents, |_| ())
    }

    fn dir(self, path: &str) -> Self {
        self.raw(path, EntryType::Directory, "", b"", |_| ())
    }

    fn link(self, path: &str, to: &str) -> Self {
        self.raw(path, EntryType::Symlink, to, b"", |_| ())
    }

    fn hard(self, path: &str, to: &str) -> Self {
        self.raw(path, EntryType::Link, to, b"", |_| ())
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn source(bytes: Vec<u8>, diff_id: Option<Digest>) -> LayerSource {
    let open = move || -> forkd_core::Result<Box<dyn std::io::Read + Send>> {
        Ok(Box::new(std::io::Cursor::new(bytes.clone())))
    };
    LayerSource { open: Box::new(open), diff_id, name: "test".into() }
}

struct Disk {
    _dir: tempfile::TempDir,
    path: PathBuf,
    report: DiskReport,
}

fn try_build(layers: &[LayerSource], options: &DiskOptions) -> forkd_core::Result<Disk> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rootfs.ext4");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let env = Env { progress: &Silent, cancel: &Cancel::default(), jobs: 2 };
    let report = build_disk(layers, &file, options, env)?;
    Ok(Disk { _dir: dir, path, report })
}

fn build(layers: Vec<Layer>) -> Disk {
    let layers: Vec<_> = layers
        .into_iter()
        .map(|layer| {
            let bytes = layer.bytes();
            let digest = Digest::of(&bytes);
            source(bytes, Some(digest))
        })
        .collect();
    let disk = try_build(&layers, &DiskOptions::default()).unwrap();
    disk.check();
    disk
}

fn tool(name: &str) -> Command {
    let path = ["/usr/sbin", "/sbin", "/usr/bin"]
        .map(|dir| Path::new(dir).join(name))
        .into_iter()
        .find(|path| path.exists());
    Command::new(path.unwrap_or_else(|| panic!("{name} is missing: apt-get install e2fsprogs")))
}

impl Disk {
    fn check(&self) {
        let output = tool("e2fsck").args(["-fn"]).arg(&self.path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    fn debugfs(&self, request: &str) -> String {
        let output = tool("debugfs").args(["-R", request]).arg(&self.path).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn cat(&self, path: &str) -> Vec<u8> {
        tool("debugfs").args(["-R", &format!("cat {path}")]).arg(&self.path).output().unwrap().stdout
    }

    /// The names in a folder.
    fn names(&self, path: &str) -> Vec<String> {
        let listed = self.debugfs(&format!("ls -p {path}"));
        let names = listed.lines().filter_map(|line| line.split('/').nth(5)).map(str::to_owned);
        let mut names: Vec<_> =
            names.filter(|name| !matches!(name.as_str(), "" | "." | ".." | "lost+found")).collect();
        names.sort();
        names
    }
}

#[test]
fn an_empty_image_is_an_empty_disk() {
    let disk = build(vec![Layer::new()]);
    assert!(disk.names("/").is_empty());
    assert_eq!(disk.path.metadata().unwrap().len(), disk.report.size);
    // Little but the tables' first blocks takes room.
    assert!(disk.path.metadata().unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_else() {
    let base = Layer::new()
        .dir("a")
        .file("a/old", b"1")
        .file("a/gone", b"2")
        .dir("b")
        .file("b/x", b"3")
        .file("c", b"4");
    // The marker of an opaque folder may come before or after what the same layer puts there.
    let before = Layer::new()
        .dir("b")
        .file("b/.wh..wh..opq", b"")
        .file("b/y", b"5")
        .file("a/.wh.gone", b"")
        .file(".wh.c", b"");
    let disk = build(vec![base, before]);
    assert_eq!(
        (disk.names("/"), disk.names("/a"), disk.names("/b")),
        (vec!["a".into(), "b".into()], vec!["old".to_owned()], vec!["y".to_owned()])
    );

    let base = Layer::new().dir("b").file("b/x", b"3").dir("b/d").file("b/d/old", b"1");
    let after = Layer::new()
        .dir("b")
        .file("b/y", b"5")
        .file("b/d/new", b"2")
        .file("b/.wh..wh..opq", b"")
        .file("b/.wh.y", b"");
    let disk = build(vec![base, after]);
    assert_eq!(
        (disk.names("/b"), disk.names("/b/d")),
        (vec!["d".to_owned(), "y".into()], vec!["new".to_owned()])
    );

    // What was hidden may come back, and what is not there may be hidden.
    let disk = build(vec![
        Layer::new().file("x", b"1"),
        Layer::new().file(".wh.x", b"").file("none/.wh.y", b"").file(".wh..wh.plnk", b""),
        Layer::new().file("x", b"2"),
    ]);
    assert_eq!((disk.names("/"), disk.cat("/x")), (vec!["x".to_owned()], b"2".to_vec()));
}

#[test]
fn upper_layers_replace_and_merge() {
    let base = Layer::new()
        .dir("d")
        .file("d/1", b"1")
        .file("f", b"file")
        .link("l", "d")
        .dir("t")
        .dir("t/u")
        .file("t/u/v", b"v");
    let upper = Layer::new()
        .raw("d", EntryType::Directory, "", b"", |header| header.set_mode(0o1777))
        .file("d/2", b"2")
        .dir("f")
        .file("f/in", b"in")
        .dir("l")
        .file("t", b"now a file");
    let disk = build(vec![base, upper]);
    assert_eq!(disk.names("/d"), ["1", "2"]);
    assert!(disk.debugfs("stat /d").contains("Mode:  01777"));
    assert_eq!((disk.names("/f"), disk.names("/l")), (vec!["in".to_owned()], vec![]));
    assert_eq!(disk.cat("/t"), b"now a file");
}

#[test]
fn links_on_the_way_are_followed_inside_the_image() {
    let base = Layer::new()
        .dir("usr")
        .dir("usr/lib")
        .link("lib", "usr/lib")
        .link("up", "../../../etc")
        .link("abs", "/usr");
    let upper = Layer::new().file("lib/x", b"x").file("up/passwd", b"guest").file("abs/lib/../y", b"y");
    assert!(try_build(&[source(upper.bytes(), None)], &DiskOptions::default()).is_err());
    let upper = Layer::new().file("lib/x", b"x").dir("etc").file("up/passwd", b"guest").file("abs/y", b"y");
    let disk = build(vec![base, upper]);
    assert_eq!(
        (disk.cat("/usr/lib/x"), disk.cat("/etc/passwd"), disk.cat("/usr/y")),
        (b"x".to_vec(), b"guest".to_vec(), b"y".to_vec())
    );
    assert!(disk.debugfs("stat /lib").contains("Type: symlink"));
}

#[test]
fn hard_links_share_an_inode_across_layers() {
    let disk = build(vec![
        Layer::new().file("a", b"shared").hard("b", "a"),
        Layer::new().hard("c", "./a").file("a", b"another"),
    ]);
    let inode =
        |path: &str| disk.debugfs(&format!("stat {path}")).split_whitespace().nth(1).map(str::to_owned);
    assert_eq!(inode("/b"), inode("/c"));
    assert_ne!(inode("/a"), inode("/b"));
    assert_eq!((disk.cat("/a"), disk.cat("/c")), (b"another".to_vec(), b"shared".to_vec()));
    assert!(disk.debugfs("stat /b").contains("Links: 2"));
}

#[test]
fn metadata_survives() {
    let long = "n".repeat(200);
    let layer = Layer::new()
        .raw("s", EntryType::Regular, "", b"x", |header| {
            header.set_mode(0o6755);
            header.set_uid(100_000);
            header.set_gid(70_000);
        })
        .pax(&[("mtime", b"4000000000.123456789"), ("uid", b"3000000000"), ("path", long.as_bytes())])
        .file("short", b"long")
        .pax(&[("SCHILY.xattr.user.small", b"v"), ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0")])
        .file("caps", b"")
        .pax(&[("SCHILY.xattr.user.big", &[b'z'; 3000]), ("SCHILY.xattr.trusted.t", b"t"), ("SCHILY.xattr.odd.name", b"x")])
        .file("big", b"")
        .pax(&[("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff")])
        .file("acl", b"")
        .raw("fifo", EntryType::Fifo, "", b"", |_| ())
        .link("far", &"t".repeat(99));
    let disk = build(vec![layer]);
    let stat = disk.debugfs("stat /s");
    assert!(stat.contains("Mode:  06755") && stat.contains("User: 100000   Group: 70000"), "{stat}");
    let stat = disk.debugfs(&format!("stat /{long}"));
    assert!(stat.contains("User: -1294967296") && stat.contains("0xee6b2800:1d6f3455"), "{stat}");
    assert_eq!(disk.cat(&format!("/{long}")), b"long");
    assert!(disk.debugfs("ea_get /caps security.capability").contains("01 00 00 02 00 04"));
    assert!(disk.debugfs("ea_get /caps user.small").contains("\"v\""));
    assert!(disk.debugfs("ea_get /big user.big").contains(&"z".repeat(3000)));
    assert!(
        disk.debugfs("ea_list /big").contains("trusted.t") && !disk.debugfs("ea_list /big").contains("odd")
    );
    // A named user's entry; debugfs shows the numbers that the others do not have as zero.
    let acl = disk.debugfs("ea_get /acl system.posix_acl_access");
    assert!(
        acl.contains("(44) = 02 00 00 00 01 00 06 00 00 00 00 00 02 00 04 00 e8 03 00 00 04 00 04 00"),
        "{acl}"
    );
    assert!(disk.debugfs("stat /fifo").contains("Type: FIFO"));
    assert!(
        disk.debugfs("stat /far").contains(&"t".repeat(20)) || disk.debugfs("stat /far").contains("Size: 99")
    );
}

#[test]
fn many_files_and_large_ones_fit() {
    let mut layer = Layer::new().dir("many");
    for number in 0..30_000 {
        layer = layer.file(&format!("many/a-name-of-some-length-{number}"), b"");
    }
    // 2,000 pieces with holes between them: a tree of extents two levels deep.
    let mut holes = vec![0u8; 4000 * 4096];
    for (number, block) in holes.chunks_mut(8192).enumerate() {
        block[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
    }
    let mut odd = vec![7u8; 300 << 20];
    odd.push(1);
    let disk = build(vec![
        layer,
        Layer::new().file("holes", &holes).file("odd", &odd).file("zero", &vec![0; 50 << 20]),
    ]);
    assert_eq!(disk.names("/many").len(), 30_000);
    assert_eq!(Digest::of(&disk.cat("/holes")), Digest::of(&holes));
    assert_eq!(Digest::of(&disk.cat("/odd")), Digest::of(&odd));
    assert!(disk.debugfs("stat /zero").contains("Blockcount: 0"));
    assert!(disk.debugfs("stat /holes").contains("Blockcount: 160"));
}

#[test]
fn layers_are_read_in_each_compression_and_must_be_what_they_should() {
    let tar = Layer::new().file("a", &[5; 100_000]).bytes();
    let digest = Digest::of(&tar);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar[..1000]).unwrap();
    let mut members = gzip.finish().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar[1000..]).unwrap();
    members.extend(gzip.finish().unwrap());
    let frames =
        [zstd::encode_all(&tar[..5000], 3).unwrap(), zstd::encode_all(&tar[5000..], 3).unwrap()].concat();
    for bytes in [tar, members, frames] {
        let whole = |bytes: Vec<u8>, id| try_build(&[source(bytes, Some(id))], &DiskOptions::default());
        let disk = whole(bytes.clone(), digest).unwrap();
        disk.check();
        assert_eq!(disk.cat("/a"), [5; 100_000]);
        let error = whole(bytes.clone(), Digest::of(b"another")).err().unwrap();
        assert_eq!(error.kind(), Kind::Integrity);
        for len in [0, 3, 100, 700, bytes.len() / 2, bytes.len().saturating_sub(600), bytes.len() - 1] {
            let Some(cut) = bytes.get(..len) else { continue };
            let error = whole(cut.to_vec(), digest).err().unwrap();
            assert_eq!(error.kind(), Kind::Integrity, "{len}: {error}");
            assert!(
                error.to_string().starts_with("layer test: ")
                    && !error.to_string()[5..].contains("layer test"),
                "{error}"
            );
        }
    }
}

#[test]
fn hostile_layers_are_refused() {
    let device = Layer::new().raw("dev", EntryType::Char, "", b"", |header| {
        header.set_device_major(1 << 20).unwrap();
    });
    let huge = |size: u64| {
        let mut layer =
            Layer::new().raw("x", EntryType::Regular, "", b"", |header| header.set_size(size)).bytes();
        layer.truncate(512);
        layer
    };
    let cases = [
        (Layer::new().file("../x", b"").bytes(), "leads out"),
        (Layer::new().file("a/../../x", b"").bytes(), "leads out"),
        (Layer::new().hard("x", "../../etc/passwd").bytes(), "leads out"),
        (Layer::new().hard("x", "none").bytes(), "not there"),
        (Layer::new().dir("d").hard("x", "d").bytes(), "folder"),
        (Layer::new().link("a", "b").link("b", "a").file("a/x", b"").bytes(), "too many links"),
        (Layer::new().file("f", b"").file("f/x", b"").bytes(), "no folder"),
        (device.bytes(), "a device 1048576:0"),
        (Layer::new().raw("x", EntryType::new(b'Z'), "", b"", |_| ()).bytes(), "type 'Z'"),
        (Layer::new().pax(&[("path", &[b'a'; 256])]).file("x", b"").bytes(), "256 bytes"),
        (
            Layer::new()
                .pax(&[("path", &[b"a/".repeat(2100).as_slice(), b"x"].concat())])
                .file("x", b"")
                .bytes(),
            "4201 bytes",
        ),
        (
            Layer::new().pax(&[("path", &b"a/".repeat(1100))]).dir("x").file("a/.wh.a", b"").bytes(),
            "folders deep",
        ),
        (Layer::new().pax(&[("path", b"a\0b")]).file("x", b"").bytes(), "zero byte"),
        (
            Layer::new().pax(&[("SCHILY.xattr.user.x", &[1; 5000])]).file("x", b"").bytes(),
            "extended attributes",
        ),
        (Layer::new().pax(&[("uid", b"5000000000")]).file("x", b"").bytes(), "32 bits"),
        (Layer::new().pax(&[("GNU.sparse.major", b"1")]).file("x", b"").bytes(), "sparse"),
        (Layer::new().pax(&[("comment", &vec![b'a'; 2 << 20])]).file("x", b"").bytes(), "extended header"),
        (Layer::new().file(".wh.", b"").bytes(), "whiteout"),
        (Layer::new().link("x", "").bytes(), "target"),
        (vec![1; 512], "no tar stream"),
        (huge(1 << 33), "ends in the middle"),
    ];
    for (bytes, words) in cases {
        let error = try_build(&[source(bytes, None)], &DiskOptions::default()).err().unwrap();
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert_eq!(error.kind(), Kind::Integrity, "{error}");
    }
    let bomb = huge(4 << 40);
    let error = try_build(&[source(bomb, None)], &DiskOptions::default()).err().unwrap();
    assert!(error.to_string().contains("are allowed in all"), "{error}");
}

#[test]
fn a_disk_too_small_is_told() {
    let layer = || source(Layer::new().file("a", &vec![9; 3 << 20]).bytes(), None);
    let sized =
        |mib: u64| try_build(&[layer()], &DiskOptions { size: Some(mib << 20), ..DiskOptions::default() });
    for mib in [1, 2, 3] {
        let error = sized(mib).err().unwrap();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains("--size-mib"), "{error}");
    }
    for mib in [4, 5, 127, 128, 129, 300, 5000] {
        let disk = sized(mib).unwrap_or_else(|e| panic!("{mib}: {e}"));
        disk.check();
        assert_eq!(disk.report.size, mib << 20);
    }
}

#[test]
fn files_of_the_hosts_are_put_on_top() {
    let layer =
        source(Layer::new().link("srv", "var/srv").dir("var").file("etc", b"in the way?").bytes(), None);
    let extra = |path: &str| ExtraFile { path: path.into(), mode: 0o755, contents: b"hello".to_vec() };
    let options = DiskOptions {
        extra: vec![extra("/usr/local/x"), extra("/srv/deep/y")],
        folders: vec!["/data/deep".into(), "/usr/local/x/none".into()],
        ..DiskOptions::default()
    };
    let disk = try_build(&[layer], &options).unwrap();
    disk.check();
    assert_eq!(
        (disk.cat("/usr/local/x"), disk.cat("/var/srv/deep/y")),
        (b"hello".to_vec(), b"hello".to_vec())
    );
    assert!(disk.debugfs("stat /usr/local/x").contains("Mode:  0755"));
}

#[test]
fn the_same_layers_make_the_same_bytes() {
    let layers = || {
        let base = Layer::new().dir("a").file("a/b", &[3; 70_000]).file("c", &[4; 9000]);
        [base, Layer::new().file("c", &[5; 100]).file("a/.wh.b", b"")]
            .map(|layer| source(layer.bytes(), None))
    };
    let [one, two] = [0, 1].map(|_| try_build(&layers(), &DiskOptions::default()).unwrap());
    one.check();
    assert_eq!(
        Digest::of(&std::fs::read(&one.path).unwrap()),
        Digest::of(&std::fs::read(&two.path).unwrap())
    );
}
