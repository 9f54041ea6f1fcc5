//! Pulls from a web server that others wrote, and into stores that are full, read-only or short of files (test catalogue, item 11).
//! What a machine lacks for them counts as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

#[path = "commands/common/mod.rs"]
mod common;

use common::User;
use common::shop::{Shop, kill, longest_frame, noise, spawn, until};
use libtest_mimic::{Arguments, Failed, Trial};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    let trial = |name: &str, test: fn(), ready: bool| {
        Trial::test(name, move || std::panic::catch_unwind(test).map_err(|_| Failed::from("see above")))
            .with_ignored_flag(!ready)
    };
    let (nginx, mounts) = (nginx().is_some(), Room::new(1).is_some());
    let openssl = Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success());
    let trials = vec![
        trial("nginx_gives_ranges_and_goes_on_after_a_kill", nginx_goes_on, nginx),
        trial("nginx_is_asked_once_for_what_is_here", nginx_is_asked_once, nginx),
        trial("a_certificate_is_told_and_not_tried_again", a_certificate, openssl),
        trial("a_full_disk_is_told_and_gone_on_from", a_full_disk, mounts),
        trial("a_read_only_store_is_told", a_read_only_store, mounts),
        trial("too_few_files_are_told", too_few_files, true),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn nginx() -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    path.split(':').map(|dir| Path::new(dir).join("nginx")).find(|path| path.exists())
}

/// An nginx of its own; it ends with this value.
struct Nginx {
    child: Child,
    port: u16,
    log: PathBuf,
    /// Where its files lie.
    _prefix: tempfile::TempDir,
}

impl Nginx {
    /// Serves a folder; below `/slow/` no faster than so many bytes a second.
    fn start(dir: &Path, rate: u64) -> Self {
        let prefix = tempfile::tempdir().unwrap();
        // Whoever takes the port in between makes the test fail, and nothing else.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let (dir, at) = (dir.display(), prefix.path().display());
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {at}/{name};\n"))
            .collect();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/error.log;\nevents {{}}\nhttp {{\n{temporary}\
             log_format own '$status $body_bytes_sent $uri';\naccess_log {at}/access.log own;\n\
             server {{ listen 127.0.0.1:{port}; root {dir};\n\
             location /slow/ {{ alias {dir}/; limit_rate {rate}; }} }}\n}}\n"
        );
        std::fs::write(prefix.path().join("nginx.conf"), config).unwrap();
        let child = Command::new(nginx().unwrap())
            .args([
                "-p",
                &at.to_string(),
                "-c",
                &format!("{at}/nginx.conf"),
                "-e",
                &format!("{at}/error.log"),
            ])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "nginx does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, port, log: prefix.path().join("access.log"), _prefix: prefix }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// Status and bytes of each request that has ended, for paths that end so.
    fn answers(&self, end: &str) -> Vec<(u16, u64)> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines = text.lines().filter(|line| line.ends_with(end));
        lines
            .map(|line| {
                let mut words = line.split(' ');
                (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap())
            })
            .collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A publisher of `py`, of about 11 MiB: more than one range.
fn shop() -> Shop {
    let shop = Shop::new();
    noise(&shop.user, "py", &[1, 2, 3, 0, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    shop.pack("py", "full.zst", &["--format", "3"]).pack("py", "one.zst", &[]);
    shop.list(&[("v1", shop.version("one.zst", &[shop.artifact("full.zst")]))]);
    shop
}

fn nginx_goes_on() {
    let shop = shop();
    let size = shop.size("full.zst");
    let nginx = Nginx::start(&shop.user.path("hub"), size / 3);
    let user = User::new();
    let slow = ["pull", "acme/py", "--hub", &nginx.url("slow/registry.json")];
    let mut child = spawn(&user, &slow);
    let journal = || {
        let partial = std::fs::read_dir(user.path("data/forkd/partial")).ok()?.flatten().next()?;
        partial.path().join("journal").metadata().ok()
    };
    until(&mut child, || journal().is_some_and(|journal| journal.len() >= 4 * 5));
    kill(child);
    assert!(!user.snapshot("py", "").exists());
    let report = user.json(&["pull", "acme/py", "--hub", &nginx.url("registry.json")]);
    assert!(report["resumed_bytes"].as_u64().unwrap() > 2 << 20, "{report}");
    shop.check(&user, "py");
    user.ok(&["verify", "py"]);
    let answers = nginx.answers("/full.zst");
    assert!(answers.iter().all(|(status, _)| *status == 206), "{answers:?}");
    let came = report["downloaded_bytes"].as_u64().unwrap() + report["resumed_bytes"].as_u64().unwrap();
    assert!(came <= size + longest_frame(&shop.file("full.zst")) + shop.head("full.zst"), "{report}");
    // Streams go on by range too.
    let user = User::new();
    let digest = forkd_testing::sha256(&shop.file("one.zst"));
    let url = |prefix: &str| format!("{}#sha256={digest}", nginx.url(&format!("{prefix}one.zst")));
    let mut child = spawn(&user, &["pull", &url("slow/")]);
    let kept = || {
        let partial = std::fs::read_dir(user.path("data/forkd/partial")).ok()?.flatten().next()?;
        partial.path().join("pack").metadata().ok()
    };
    until(&mut child, || kept().is_some_and(|pack| pack.len() > size / 2));
    kill(child);
    let (_, err) = user.ok_noted(&["pull", &url("")]);
    assert!(err.contains("going on after the # bytes"), "{err}");
    user.run(&["gc"]);
    shop.check(&user, "py");
    let last = nginx.answers(" /one.zst").pop().unwrap();
    assert!(last.0 == 206 && last.1 < size * 6 / 10, "{last:?}");
}

fn nginx_is_asked_once() {
    let shop = shop();
    let nginx = Nginx::start(&shop.user.path("hub"), 1 << 30);
    for (args, path) in [
        (
            vec!["pull".to_owned(), "acme/py".into(), "--hub".into(), nginx.url("registry.json")],
            "registry.json",
        ),
        (vec!["pull".into(), nginx.url("full.zst")], "full.zst"),
        (vec!["pull".into(), nginx.url("one.zst")], "one.zst"),
    ] {
        let user = User::new();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        user.ok(&args);
        let before = nginx.answers("").len();
        assert!(user.ok(&args).contains("✓ nothing to download"), "{path}");
        // nginx writes its log after its answer.
        let begun = Instant::now();
        while nginx.answers("").len() == before && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(nginx.answers("")[before..], [(304, 0)], "{path}");
        shop.check(&user, "py");
    }
}

/// A small filesystem as a user's data folder; it goes with this value.
struct Room {
    user: User,
}

impl Room {
    /// `None` where this user may not mount.
    fn new(mib: u32) -> Option<Self> {
        let user = User::new();
        let options = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "none"])
            .arg(user.store())
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self { user })
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        assert!(
            Command::new("mount").args(["-o", &options]).arg(self.user.store()).status().unwrap().success()
        );
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.user.store()).status();
    }
}

fn a_full_disk() {
    let shop = shop();
    for name in ["full.zst", "one.zst"] {
        let room = Room::new(6).unwrap();
        let user = &room.user;
        let error = user.fails(7, &["pull", &shop.pinned("", name)]);
        assert!(error.contains("No space left on device"), "{error}");
        assert!(!user.snapshot("py", "").exists());
        room.remount("size=60m");
        let report = user.json(&["pull", &shop.pinned("", name)]);
        shop.check(user, "py");
        user.ok(&["verify", "py"]);
        let again = report["downloaded_bytes"].as_u64().unwrap();
        assert!(again < shop.size(name) * 9 / 10, "{name}: {report}");
        user.run(&["gc"]);
        assert!(!user.path("data/forkd/partial").exists());
    }
    // Where there is no room for anything at all.
    let room = Room::new(1).unwrap();
    std::fs::write(room.user.store().join("ballast"), vec![1; (1 << 20) - (12 << 10)]).unwrap();
    room.user.fails(7, &["pull", &shop.pinned("", "full.zst")]);
    std::fs::remove_file(room.user.store().join("ballast")).unwrap();
    room.user.fails(7, &["pull", &shop.pinned("", "full.zst")]);
    room.user.run(&["gc"]);
    assert!(room.user.is_untouched());
}

fn a_read_only_store() {
    let shop = shop();
    let room = Room::new(60).unwrap();
    room.remount("ro");
    for name in ["full.zst", "one.zst"] {
        let error = room.user.fails(1, &["pull", &shop.pinned("", name)]);
        assert!(error.contains("Read-only file system"), "{error}");
    }
    room.remount("rw");
    room.user.ok(&["pull", &shop.pinned("", "full.zst")]);
    shop.check(&room.user, "py");
}

fn too_few_files() {
    let shop = shop();
    let user = User::new();
    for files in [5, 8, 10, 12, 14, 16, 18, 20, 24] {
        let plain = user.command(&["pull", &shop.pinned("", "full.zst"), "--jobs", "4"]);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")]);
        command.arg(plain.get_program()).args(plain.get_args()).current_dir(user.dir.path());
        command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let seen = user.seen(&command.output().unwrap());
        if seen.code == 0 {
            break;
        }
        assert!(!user.snapshot("py", "").exists(), "{files}: {}", seen.err);
        assert!(!seen.err.is_empty() && !seen.err.contains("panicked"), "{files}: {}", seen.err);
    }
    user.ok(&["pull", &shop.pinned("", "full.zst")]);
    shop.check(&user, "py");
    user.run(&["gc"]);
    assert!(!user.path("data/forkd/partial").exists() && !user.path("data/forkd/staging").exists());
}

/// A web server with TLS; it ends with this value.
struct TlsServer(Child);

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_certificate() {
    let user = User::new();
    let openssl = |args: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(args).current_dir(user.dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let request =
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "cert", "-days", "3"];
    let name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
    assert!(openssl(&[&request[..], &name].concat()).status().unwrap().success());
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port().to_string();
    let address = format!("127.0.0.1:{port}");
    let serve = ["s_server", "-quiet", "-accept", &address, "-cert", "cert", "-key", "key", "-WWW"];
    let mut server = TlsServer(openssl(&serve).stdin(Stdio::piped()).spawn().unwrap());
    until(&mut server.0, || TcpStream::connect(&address).is_ok());
    let pull = |url: &str, certificates: Option<&str>| {
        let mut command = user.command(&["pull", url]);
        command.env("FORKD_BACKOFF_MS", "20").envs(certificates.map(|file| ("SSL_CERT_FILE", file)));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = pull(&format!("https://localhost:{port}/p"), None);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("certificate is not trusted") && error.contains("SSL_CERT_FILE"), "{error}");
    assert!(!error.contains("try again"), "{error}");
    let (code, error) = pull(&format!("https://localhost:{port}/p"), Some("/nothing.pem"));
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("SSL_CERT_FILE names /nothing.pem"), "{error}");
    // Something else than TLS.
    let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = plain.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in plain.incoming() {
            let _ = std::io::Write::write_all(&mut stream.unwrap(), b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let (code, error) = pull(&format!("https://localhost:{port}/p"), None);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("does not speak TLS"), "{error}");
}
