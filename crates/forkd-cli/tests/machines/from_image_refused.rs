//! `forkd from-image` where something is wrong or in the way, and packages that a guest installs.

use crate::common::User;
use crate::from_image::{Registry, detached, exec, from_image, nothing_was_made, sh, shared, user};
use crate::{guests, nothing_is_left};
use forkd_testing::TestHub;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_guest_installs_packages", a_guest_installs_packages),
    ("a_killed_fetch_is_gone_on_from", a_killed_fetch_is_gone_on_from),
    ("an_image_of_one_program_serves", an_image_of_one_program_serves),
    ("references_that_lead_nowhere_are_told", references_that_lead_nowhere_are_told),
    ("images_that_are_wrong_are_refused", images_that_are_wrong_are_refused),
    ("passwords_are_asked_for", passwords_are_asked_for),
];

/// Fails so, with these words, and nothing is left.
#[track_caller]
fn refused(user: &User, image: &str, more: &[&str], code: i32, words: &[&str]) {
    let (found, said) = from_image(user, image, "refused", more);
    assert_eq!(found, code, "{image} {more:?}: {said}");
    for words in words {
        assert!(said.contains(&user.plain(words)), "{image} {more:?}: {words}: {said}");
    }
    nothing_was_made(user);
}

/// Passes bytes on to a registry. What comes back beyond the allowed waits.
struct Proxy {
    address: SocketAddr,
    allowed: AtomicU64,
    passed: AtomicU64,
    /// Of each request for a blob, the range, or nothing.
    ranges: Mutex<Vec<String>>,
}

impl Proxy {
    fn start(target: &str, allowed: u64) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (allowed, passed) = (AtomicU64::new(allowed), AtomicU64::new(0));
        let proxy = Arc::new(Self { address, allowed, passed, ranges: Mutex::default() });
        let (shared, target) = (Arc::clone(&proxy), target.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&target) else { continue };
                let (reader, writer) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (up, down) = (Arc::clone(&shared), Arc::clone(&shared));
                std::thread::spawn(move || up.requests(reader, writer));
                std::thread::spawn(move || down.answers(server, client));
            }
        });
        proxy
    }

    fn requests(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 << 10];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..len]).to_lowercase();
            if text.starts_with("get ") && text.contains("/blobs/") {
                let range = text.lines().find_map(|line| line.strip_prefix("range: "));
                self.ranges.lock().unwrap().push(range.unwrap_or_default().to_owned());
            }
            if to.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    }

    fn answers(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 << 10];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            while self.passed.load(SeqCst) >= self.allowed.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(10));
            }
            if to.write_all(&buffer[..len]).is_err() {
                break;
            }
            self.passed.fetch_add(len as u64, SeqCst);
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    }
}

fn a_killed_fetch_is_gone_on_from() {
    let (shared, user) = (shared(), user());
    let layout = "cp -r bare large && head -c 8000000 /dev/urandom > large/random && tar -C large -cf large.tar . && \
                  cp -r layout killed && umoci tag --image killed:bare large && umoci raw add-layer --image killed:large large.tar";
    sh(shared.dir.path(), layout);
    shared.registry.push("killed:large", "team/killed:v1", "");
    let proxy = Proxy::start(&shared.registry.host, 3_000_000);
    let image = format!("{}/team/killed:v1", proxy.address);
    let args = ["from-image", &image, "--tag", "killed", "--mem-size-mib", "128"];
    let mut command = user.command(&args);
    command.env("FORKD_STALL_TIMEOUT_MS", "60000").stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = command.spawn().unwrap();
    let begun = Instant::now();
    while proxy.passed.load(SeqCst) < 3_000_000 {
        assert!(begun.elapsed() < Duration::from_secs(60) && run.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(300));
    run.kill().unwrap();
    run.wait().unwrap();
    nothing_is_left(&user);
    let blobs = std::fs::read_dir(user.path("cache/forkd/blobs")).unwrap().flatten();
    let lens = blobs.filter(|blob| blob.file_name().to_string_lossy().ends_with(".partial"));
    let lens: Vec<u64> = lens.map(|blob| blob.metadata().unwrap().len()).filter(|len| *len > 0).collect();
    assert!(!lens.is_empty() && lens.iter().sum::<u64>() > 1_000_000, "{lens:?}");
    proxy.ranges.lock().unwrap().clear();
    proxy.passed.store(0, SeqCst);
    proxy.allowed.store(u64::MAX, SeqCst);
    let (code, said) = from_image(&user, &image, "killed", &[]);
    assert_eq!(code, 0, "{said}");
    let ranges = proxy.ranges.lock().unwrap().clone();
    for len in &lens {
        assert!(ranges.contains(&format!("bytes={len}-")), "{ranges:?}, {lens:?}");
    }
    let total: u64 = std::fs::read_dir(user.path("cache/forkd/blobs"))
        .unwrap()
        .map(|blob| blob.unwrap().metadata().unwrap().len())
        .sum();
    let (came, rest) = (proxy.passed.load(SeqCst), total - lens.iter().sum::<u64>());
    // The killed run's connections still take what the proxy held for them.
    assert!(came < rest + 100_000, "{came} bytes came, {rest} were missing");
    nothing_is_left(&user);
}

/// A repository with one package, whose program is `forkd-hello`.
fn repository(dir: &Path) {
    let script = r#"
mkdir -p deb/DEBIAN deb/usr/bin
printf '#!/bin/sh\necho hello from a package\n' > deb/usr/bin/forkd-hello
chmod 755 deb/usr/bin/forkd-hello
printf 'Package: forkd-hello\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.com>\nDescription: says hello\n' > deb/DEBIAN/control
mkdir -p web/flat
dpkg-deb --root-owner-group -b deb web/flat/forkd-hello.deb
cat deb/DEBIAN/control > web/flat/Packages
echo "Filename: flat/forkd-hello.deb
Size: $(stat -c %s web/flat/forkd-hello.deb)
SHA256: $(sha256sum web/flat/forkd-hello.deb | cut -d' ' -f1)" >> web/flat/Packages"#;
    sh(dir, script);
}

fn a_guest_installs_packages() {
    let user = user();
    let dir = tempfile::tempdir().unwrap();
    repository(dir.path());
    let hub = TestHub::start(&dir.path().join("web"));
    let layer = format!(
        "mkdir -p over/etc/apt && echo 'deb [trusted=yes] http://10.0.2.2:{} flat/' > over/etc/apt/sources.list && \
         tar -C over --owner=0 --group=0 -cf over.tar etc/apt/sources.list && cp -r {} image && \
         umoci raw add-layer --image image:latest over.tar",
        hub.address.port(),
        guests().join("image/image").display()
    );
    sh(dir.path(), &layer);
    let image = format!("oci:{}", dir.path().join("image").display());
    // No option can be smuggled in, nor is anything made before that is seen.
    refused(&user, &image, &["--extra=-o"], 2, &["--extra: '-o' is no package name"]);
    refused(&user, &image, &["--extra", "a b"], 2, &["'a b' is no package name"]);
    assert!(!user.path("cache/forkd/rootfs").exists());
    refused(&user, &image, &["--extra", "no-such-thing"], 1, &["E: Unable to locate package no-such-thing"]);
    let (code, said) = from_image(&user, &image, "extra", &["--extra", "forkd-hello"]);
    assert_eq!(code, 0, "{said}");
    for words in ["root disk: from the cache", "Setting up forkd-hello", "✓ set up in #s"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(hub.requests().iter().any(|asked| asked.uri.ends_with("forkd-hello.deb")));
    drop(hub);
    let id = &*detached(&user, "extra");
    assert_eq!(user.ok(&["exec", id, "--", "forkd-hello"]), "hello from a package\n");
    assert_eq!(exec(&user, &[id], &["wc", "-l", "/proc/net/route"]), "1 /proc/net/route", "no network");
    assert_eq!(exec(&user, &[id], &["ls", "/var/lib/apt/lists"]), "");
    user.ok(&["kill", id]);
    nothing_is_left(&user);
}

fn an_image_of_one_program_serves() {
    let (shared, user) = (shared(), user());
    let bare = shared.layout("bare");
    refused(&user, &bare, &["--warm", "true"], 2, &["/bin/sh"]);
    refused(&user, &bare, &["--extra", "hello"], 2, &["/bin/sh"]);
    refused(&user, &shared.layout("small"), &["--extra", "hello"], 1, &["neither apt-get nor apk"]);
    let (code, said) = from_image(&user, &bare, "bare", &[]);
    assert_eq!(code, 0, "{said}");
    let id = &*detached(&user, "bare");
    assert_eq!(user.ok(&["exec", id, "--", "/busybox", "echo", "it runs"]), "it runs\n");
    assert_eq!(user.run(&["exec", id, "--", "sh"]).code, 127);
    user.ok(&["kill", id]);
    nothing_is_left(&user);
}

fn references_that_lead_nowhere_are_told() {
    let (shared, user) = (shared(), user());
    let (none, v9) = (shared.image("none:v1"), shared.image("small:v9"));
    refused(&user, &none, &[], 3, &["team/none"]);
    refused(&user, &v9, &[], 3, &["no 'v9'"]);
    refused(&user, "oci:/none/at/all", &[], 3, &["/none/at/all"]);
    refused(&user, &shared.layout("v9"), &[], 3, &["there are: small, bare, arm"]);
    refused(&user, "docker-archive:/none.tar", &[], 3, &["/none.tar"]);
    for wrong in ["Not A Reference", "UPPER/case", "host.example/x@sha256:12", "oci:", ""] {
        refused(&user, wrong, &[], 2, &[]);
    }
    refused(&user, &shared.image("arm:v1"), &[], 8, &["linux/arm64", "linux/amd64"]);
    refused(&user, &shared.layout("arm"), &[], 8, &["linux/arm64"]);
    refused(&user, &shared.image("small:v1"), &["--platform", "linux/arm64"], 8, &["guests are linux/amd64"]);
    refused(&user, &shared.image("small:v1"), &["--platform", "x"], 2, &[]);
    // A list, which skopeo copies only from where one is.
    let list = r#"
image=$(curl -sSf --noproxy '*' -H 'Accept: application/vnd.oci.image.manifest.v1+json' http://HOST/v2/team/arm/manifests/v1 | tee arm.json | sha256sum | cut -d' ' -f1)
echo '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",
"digest":"sha256:'$image'","size":'$(stat -c %s arm.json)',"platform":{"os":"linux","architecture":"arm64"}}]}' > list.json
curl -sSf --noproxy '*' -X PUT -H 'Content-Type: application/vnd.oci.image.index.v1+json' --data-binary @list.json http://HOST/v2/team/arm/manifests/list"#;
    sh(shared.dir.path(), &list.replace("HOST", &shared.registry.host));
    refused(&user, &shared.image("arm:list"), &[], 8, &["linux/arm64"]);
    // Nobody listens there.
    refused(&user, "127.0.0.1:9/team/x", &[], 5, &["127.0.0.1:9"]);
}

fn images_that_are_wrong_are_refused() {
    let (shared, user) = (shared(), user());
    let dir = tempfile::tempdir().unwrap();
    let host = || {
        (std::fs::read("/etc/passwd").unwrap(), std::fs::metadata("/etc/passwd").unwrap().modified().unwrap())
    };
    let before = host();
    let layers = r#"
cp -r LAYOUT layout
printf 'evil:x:0:0::/:/bin/sh\n' > passwd
tar -P -cf out.tar --transform 's,^,../../../../etc/,' passwd
tar -P -cf absolute.tar --transform 's,^,/etc/,' passwd
ln -s /etc link && tar -cf through.tar link && rm link && mkdir link && cp passwd link/passwd && tar -rf through.tar link/passwd
printf 'no tar at all' > none.tar
head -c 700 through.tar > cut.tar
for name in out absolute through none cut; do
    umoci tag --image layout:small $name
    umoci raw add-layer --image layout:$name $name.tar
done"#;
    sh(dir.path(), &layers.replace("LAYOUT", &shared.dir.path().join("layout").display().to_string()));
    let image = |tag: &str| format!("oci:{}:{tag}", dir.path().join("layout").display());
    refused(&user, &image("out"), &[], 6, &["../etc/passwd", "leads out of the image"]);
    refused(&user, &image("none"), &[], 6, &["layer"]);
    refused(&user, &image("cut"), &[], 6, &["it ends in the middle"]);
    // A link out of the image, and an absolute name, lead to the image's own folder.
    for name in ["through", "absolute"] {
        let (code, said) = from_image(&user, &image(name), name, &[]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(
            user.run(&["fork", "--tag", name, "--", "cat", "/etc/passwd"]).out.lines().next(),
            Some("#| evil:x:#:#::/:/bin/sh")
        );
        user.ok(&["rmi", name]);
    }
    std::fs::remove_dir_all(user.store()).unwrap();
    std::fs::create_dir(user.store()).unwrap();
    refused(&user, &shared.layout("small"), &["--size-mib", "1"], 2, &["--size-mib"]);
    let hostile = format!("oci:{}", guests().join("image/image").display());
    refused(&user, &hostile, &["--size-mib", "40"], 2, &["--size-mib"]);
    // A layer that is shorter than it was, in a folder and in a registry.
    let own = tempfile::tempdir().unwrap();
    let registry = Registry::start(own.path(), "");
    registry.push(&format!("{}:small", dir.path().join("layout").display()), "team/cut:v1", "");
    for folder in [own.path().join("storage"), dir.path().join("layout/blobs")] {
        sh(
            &folder,
            "file=$(find . -type f -size +100k -printf '%s %p\\n' | sort -n | tail -n 1 | cut -d' ' -f2); truncate -s 50000 $file",
        );
    }
    refused(&user, &format!("{}/team/cut:v1", registry.host), &[], 6, &["team/cut", "layer"]);
    refused(&user, &image("small"), &[], 6, &["has 50000 bytes; the image says"]);
    assert!(host() == before);
}

fn passwords_are_asked_for() {
    let (shared, user) = (shared(), user());
    let dir = tempfile::tempdir().unwrap();
    // hunter2
    let line = "u:$2b$04$W8a7kLjk2rcFSU79mRkDY.AsQY8ErK4/btcAP2a0u0HWJuI.QeQBS\n";
    std::fs::write(dir.path().join("htpasswd"), line).unwrap();
    let registry = Registry::start(dir.path(), "auth:\n  htpasswd:\n    realm: test\n    path: htpasswd\n");
    let layout = shared.dir.path().join("layout").display().to_string();
    registry.push(&format!("{layout}:small"), "team/secret:v1", "--dest-creds u:hunter2");
    let image = format!("{}/team/secret:v1", registry.host);
    refused(&user, &image, &[], 4, &[&registry.host]);
    let login = |password: &str| {
        let file = user.path(".config/containers/auth.json");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let line = format!("printf u:{password} | base64 | tr -d '\\n'");
        let words = std::process::Command::new("sh").args(["-c", &line]).output().unwrap().stdout;
        let auth = String::from_utf8(words).unwrap();
        std::fs::write(&file, format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, registry.host)).unwrap();
    };
    login("wrong");
    refused(&user, &image, &[], 4, &[&registry.host]);
    login("hunter2");
    let (code, said) = from_image(&user, &image, "secret", &[]);
    assert!(code == 0 && !said.contains("hunter2"), "{said}");
    nothing_is_left(&user);
}
