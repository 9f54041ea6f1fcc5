//! Debian's docker-registry, filled by umoci and skopeo.

use crate::{bytes, pull, pull_for, sources};
use forkd_core::Kind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("real::a_pull_and_another", a_pull_and_another),
    ("real::passwords", passwords),
    ("real::two_platforms", two_platforms),
    ("real::folders_and_archives", folders_and_archives),
];

pub(crate) fn installed() -> bool {
    let runs =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    ["docker-registry", "skopeo", "umoci"].into_iter().all(runs)
}

#[track_caller]
fn run(dir: &Path, line: &[&str]) {
    let output = Command::new(line[0]).args(&line[1..]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Registry {
    child: Child,
    host: String,
    log: PathBuf,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    fn start(root: &Path, auth: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let dir = root.display();
        let config = format!(
            "version: 0.1\nlog:\n  accesslog:\n    disabled: false\nstorage:\n  filesystem:\n    rootdirectory: {dir}/storage\n\
http:\n  addr: {host}\n{auth}"
        );
        std::fs::write(root.join("config.yml"), config).unwrap();
        let log = root.join("log");
        let output = || Stdio::from(std::fs::File::options().create(true).append(true).open(&log).unwrap());
        let child = Command::new("docker-registry")
            .args(["serve", "config.yml"])
            .current_dir(root)
            .stdout(output())
            .stderr(output())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while std::net::TcpStream::connect(&host).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{}", std::fs::read_to_string(&log).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, host, log }
    }

    /// GET requests for blobs so far.
    fn blobs(&self) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.lines().filter(|line| line.contains("\"GET /v2/") && line.contains("/blobs/")).count()
    }
}

/// A layout `layout` with the tag `v1`: two layers with a file each.
fn layout(root: &Path) {
    run(root, &["umoci", "init", "--layout", "layout"]);
    run(root, &["umoci", "new", "--image", "layout:v1"]);
    for name in ["one", "two"] {
        std::fs::write(root.join(name), name.repeat(5000)).unwrap();
        run(root, &["umoci", "insert", "--rootless", "--image", "layout:v1", name, &format!("/{name}")]);
    }
    let config = [
        "--config.cmd",
        "/two",
        "--config.env",
        "A=b",
        "--config.user",
        "1:2",
        "--os",
        "linux",
        "--architecture",
        "amd64",
    ];
    run(root, &[&["umoci", "config", "--image", "layout:v1"], &config[..]].concat());
}

fn push(root: &Path, registry: &Registry, more: &[&str]) {
    let target = format!("docker://{}/a/b:v1", registry.host);
    let line = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false"];
    run(root, &[&line, more, &["oci:layout:v1", &target]].concat());
}

fn a_pull_and_another() {
    let root = tempfile::tempdir().unwrap();
    layout(root.path());
    let registry = Registry::start(root.path(), "");
    let name = format!("{}/a/b:v1", registry.host);
    for format in ["oci", "v2s2"] {
        let _ = std::fs::remove_dir_all(root.path().join("cache"));
        push(root.path(), &registry, &["--format", format]);
        let sources = sources(root.path());
        let before = registry.blobs();
        let (image, report) = pull(&sources, &name).unwrap();
        assert_eq!((report.fetched_layers, image.layers.len()), (2, 2));
        assert_eq!(report.fetched_bytes, image.layers.iter().map(|layer| layer.size).sum::<u64>());
        assert_eq!(
            (image.config.cmd.as_slice(), image.config.user.as_str()),
            (&["/two".to_owned()][..], "1:2")
        );
        assert!(image.config.env.contains(&"A=b".to_owned()));
        assert_eq!(registry.blobs(), before + 3, "two layers and the configuration");
        let (again, report) = pull(&sources, &name).unwrap();
        assert_eq!((report.fetched_layers, report.cached_layers, registry.blobs()), (0, 2, before + 3));
        assert_eq!(again.digest, image.digest);
        assert!(bytes(&again) == bytes(&image));
    }
    for (name, words) in
        [(format!("{}/a/b:v9", registry.host), "no 'v9'"), (format!("{}/none", registry.host), "check")]
    {
        let error = pull(&sources(root.path()), &name).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

fn passwords() {
    let root = tempfile::tempdir().unwrap();
    layout(root.path());
    // hunter2, as `htpasswd -B` has it.
    let line =
        "import crypt; print('u:' + crypt.crypt('hunter2', crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))";
    let output = Command::new("python3").args(["-W", "ignore", "-c", line]).output();
    let hash = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let hash = hash.unwrap_or_else(|| {
        let output = Command::new("htpasswd").args(["-Bbn", "u", "hunter2"]).output().unwrap();
        output.stdout
    });
    std::fs::write(root.path().join("htpasswd"), hash).unwrap();
    let auth = "auth:\n  htpasswd:\n    realm: test\n    path: htpasswd\n";
    let registry = Registry::start(root.path(), auth);
    push(root.path(), &registry, &["--dest-creds", "u:hunter2"]);
    let (sources, name) = (sources(root.path()), format!("{}/a/b:v1", registry.host));
    let error = pull(&sources, &name).unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorised, "{error}");
    let file = root.path().join("auth.json").display().to_string();
    let login = [
        "skopeo",
        "login",
        "--tls-verify=false",
        "--authfile",
        &file,
        "-u",
        "u",
        "-p",
        "hunter2",
        &registry.host,
    ];
    run(root.path(), &login);
    assert_eq!(pull(&sources, &name).unwrap().1.fetched_layers, 2);
}

fn two_platforms() {
    let root = tempfile::tempdir().unwrap();
    layout(root.path());
    let registry = Registry::start(root.path(), "");
    push(root.path(), &registry, &[]);
    let sources = sources(root.path());
    let name = format!("{}/a/b:v1", registry.host);
    let (amd, _) = pull(&sources, &name).unwrap();
    let error = pull_for(&sources, &name, "linux/arm64").unwrap_err();
    assert_eq!(error.kind(), Kind::Incompatible, "{error}");
    let arm = ["umoci", "config", "--image", "layout:v1", "--architecture", "arm64"];
    run(root.path(), &arm);
    push(root.path(), &registry, &[]);
    let (arm, report) = pull_for(&sources, &name, "linux/arm64").unwrap();
    assert_eq!(report.fetched_layers, 0, "the layers are the same");
    let entry = |digest: &forkd_format::Digest, architecture: &str| {
        let path = root.path().join(format!("cache/blobs/{digest}"));
        let size = path.metadata().unwrap().len();
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{digest}","size":{size},
"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#
        )
    };
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{},{}]}}"#,
        entry(&amd.digest, "amd64"),
        entry(&arm.digest, "arm64")
    );
    // skopeo copies lists only from where they are: this one is put by hand.
    std::fs::write(root.path().join("index"), index).unwrap();
    let url = format!("http://{}/v2/a/b/manifests/both", registry.host);
    let kind = "Content-Type: application/vnd.oci.image.index.v1+json";
    run(
        root.path(),
        &["curl", "-sSf", "--noproxy", "*", "-X", "PUT", "-H", kind, "--data-binary", "@index", &url],
    );
    let both = format!("{}/a/b:both", registry.host);
    for (platform, digest) in [("linux/amd64", amd.digest), ("linux/arm64/v8", arm.digest)] {
        let _ = std::fs::remove_dir_all(root.path().join("cache"));
        let (image, _) = pull_for(&sources, &both, platform).unwrap();
        assert_eq!(image.digest, digest);
        assert_eq!(bytes(&image).len(), 2);
    }
    let error = pull_for(&sources, &both, "linux/s390x").unwrap_err();
    assert_eq!(error.kind(), Kind::Incompatible);
    assert!(error.to_string().contains("linux/amd64, linux/arm64"), "{error}");
}

fn folders_and_archives() {
    let root = tempfile::tempdir().unwrap();
    layout(root.path());
    let path = |name: &str| root.path().join(name).display().to_string();
    let copy = |target: &str| run(root.path(), &["skopeo", "copy", "--quiet", "oci:layout:v1", target]);
    copy("docker-archive:d.tar:example.com/x:v1");
    copy("oci-archive:o.tar:v1");
    run(root.path(), &["gzip", "-k", "d.tar"]);
    let sources = sources(root.path());
    let (layout, _) = pull(&sources, &format!("oci:{}:v1", path("layout"))).unwrap();
    let stored = bytes(&layout);
    let (archived, _) = pull(&sources, &format!("oci-archive:{}:v1", path("o.tar"))).unwrap();
    assert_eq!(archived.digest, layout.digest);
    assert!(bytes(&archived) == stored);
    for name in ["d.tar", "d.tar:example.com/x:v1", "d.tar:@0", "d.tar.gz"] {
        let (image, _) = pull(&sources, &format!("docker-archive:{}", path(name))).unwrap();
        let digests: Vec<_> = bytes(&image).iter().map(|bytes| forkd_format::Digest::of(bytes)).collect();
        assert_eq!(digests, layout.config.diff_ids, "{name}");
        assert_eq!(image.config.cmd, ["/two"]);
    }
    for (name, kind, words) in [
        (format!("docker-archive:{}:y", path("d.tar")), Kind::NotFound, "example.com/x:v1"),
        (format!("docker-archive:{}", path("o.tar")), Kind::Usage, "oci-archive:"),
        (format!("oci:{}:v2", path("layout")), Kind::NotFound, "there are: v1"),
        (format!("oci:{}", path("none")), Kind::NotFound, "no index.json"),
        (format!("docker-archive:{}", path("one")), Kind::Integrity, "no tar"),
    ] {
        let error = pull(&sources, &name).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    run(root.path(), &["umoci", "tag", "--image", "layout:v1", "v2"]);
    assert_eq!(pull(&sources, &format!("oci:{}", path("layout"))).unwrap_err().kind(), Kind::Usage);
    // A blob that was altered is noticed: the manifest at once, a layer when it is read.
    let blob = |digest: &forkd_format::Digest| root.path().join(format!("layout/blobs/sha256/{digest}"));
    let first = blob(&layout.layers[0].digest);
    let mut altered = std::fs::read(&first).unwrap();
    altered[9] ^= 1;
    std::fs::write(&first, altered).unwrap();
    let (image, _) = pull(&sources, &format!("oci:{}:v1", path("layout"))).unwrap();
    let error = std::io::copy(&mut image.layers[0].open().unwrap(), &mut std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("the image says"), "{error}");
}
