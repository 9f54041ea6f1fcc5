//! `forkd from-image` and `forkd bake`, with Debian's docker-registry, umoci and skopeo.

use crate::common::User;
use crate::{guests, processes};
use serde_json::Value;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("an_image_of_a_registry_is_forked_as_it_is", an_image_of_a_registry_is_forked_as_it_is),
    ("packages_are_installed_by_the_guest", packages_are_installed_by_the_guest),
    ("images_that_cannot_be_had_leave_nothing", images_that_cannot_be_had_leave_nothing),
    ("an_image_without_a_shell_takes_no_commands", an_image_without_a_shell_takes_no_commands),
    ("a_recipe_is_baked_only_if_its_tests_succeed", a_recipe_is_baked_only_if_its_tests_succeed),
];

/// A user with a cache of their own, in which there is a kernel already.
struct Host(User);

impl Host {
    fn new() -> Self {
        let host = Self(User::new());
        let cache = host.0.path("cache/forkd");
        std::fs::create_dir_all(&cache).unwrap();
        for name in ["kernels", "kvm.json"] {
            std::os::unix::fs::symlink(guests().join("cache/forkd").join(name), cache.join(name)).unwrap();
        }
        host
    }

    fn output(&self, args: &[&str]) -> Output {
        self.0.command(args).env("XDG_CACHE_HOME", self.0.path("cache")).output().unwrap()
    }

    /// Runs, expects success; gives standard output.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs, expects this exit code, and that nothing is left; gives standard error.
    #[track_caller]
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.output(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{said}");
        assert_eq!(processes(&self.0), 0);
        assert_eq!(forkd_testing::tree(&self.0.store().join("forkd/staging")).len(), 0);
        assert!(!self.0.store().join("forkd/snapshots/x").exists());
        let disks = self.0.path("cache/forkd/rootfs");
        let partial = std::fs::read_dir(disks).into_iter().flatten().flatten();
        assert_eq!(
            partial.filter(|entry| entry.file_name().to_string_lossy().contains("partial")).count(),
            0
        );
        said
    }
}

#[track_caller]
fn run(dir: &Path, line: &[&str]) -> Vec<u8> {
    let output = Command::new(line[0]).args(&line[1..]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
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
    fn start(root: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let dir = root.display();
        let config = format!(
            "version: 0.1\nlog:\n  accesslog:\n    disabled: false\nstorage:\n  filesystem:\n    rootdirectory: {dir}/storage\n\
http:\n  addr: {host}\n"
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

fn image() -> PathBuf {
    guests().join("image/image")
}

/// The lines of two trees that differ.
fn differences(a: &str, b: &str) -> Vec<String> {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    assert!(a.len() > 5000 && b.len() > 5000, "{} and {} entries", a.len(), b.len());
    let only = |these: &[&str], those: &[&str], mark: &str| {
        let those: std::collections::HashSet<&str> = those.iter().copied().collect();
        these
            .iter()
            .filter(|line| !those.contains(*line))
            .map(|line| format!("{mark} {line}"))
            .collect::<Vec<_>>()
    };
    [only(&a, &b, "-"), only(&b, &a, "+")].concat()
}

fn an_image_of_a_registry_is_forked_as_it_is() {
    let host = Host::new();
    let root = host.0.path("registry");
    std::fs::create_dir(&root).unwrap();
    let registry = Registry::start(&root);
    let name = format!("{}/team/test:v1", registry.host);
    let layout = format!("oci:{}:latest", image().display());
    run(
        &root,
        &["skopeo", "copy", "--quiet", "--dest-tls-verify=false", &layout, &format!("docker://{name}")],
    );

    let bake = |tag: &str| host.ok(&["from-image", &name, "--tag", tag, "--mem-size-mib", "256"]);
    let said = bake("one");
    assert!(said.contains("✓ 6 layers: 6 fetched ("), "{said}");
    let before = registry.blobs();
    // The same again: the disk is there. Without the disk: the layers are.
    assert!(!bake("two").contains("layers"));
    std::fs::remove_dir_all(host.0.path("cache/forkd/rootfs")).unwrap();
    assert!(bake("three").contains("✓ 6 layers: none fetched"));
    assert_eq!(registry.blobs(), before);
    drop(registry);

    let seen = |command: &[&str]| host.ok(&[&["fork", "--tag", "three", "--"], command].concat());
    let env = seen(&["env"]);
    for line in
        ["1| GREETING=hello world", "1| PATH=/srv/app/bin:/usr/sbin:/usr/bin:/sbin:/bin", "1| HOME=/srv/app"]
    {
        assert!(env.lines().any(|seen| seen == line), "{line}: {env}");
    }
    assert!(seen(&["pwd"]).starts_with("1| /srv/app\n"));
    assert!(seen(&["id"]).starts_with("1| uid=1234(app) gid=1234(app) groups=1234(app),77(extra)\n"));

    host.ok(&["fork", "--tag", "one", "--detach"]);
    let id = host.ok(&["ls", "--ids"]).trim().to_owned();
    let exec = |more: &[&str]| host.output(&[&["exec", &id], more].concat());
    let text = |output: Output| String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text(exec(&["-u", "root", "-w", "/", "-e", "A=b", "--", "sh", "-c", "id -un; pwd; echo $A $HOME"])),
        "root\n/\nb /root\n"
    );
    assert_eq!(
        text(exec(&["-u", "4321:77", "--", "sh", "-c", "id -u; id -g; echo x > /dev/stdout"])),
        "4321\n77\nx\n"
    );
    let unknown = exec(&["-u", "nobody-here", "--", "id"]);
    assert_eq!(unknown.status.code(), Some(126));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no user 'nobody-here' in /etc/passwd"));

    let json: Value =
        serde_json::from_slice(&std::fs::read(host.0.snapshot("one", "snapshot.json")).unwrap()).unwrap();
    assert_eq!(json["image"]["reference"], name.as_str());
    assert_eq!(json["image"]["entrypoint"], serde_json::json!(["/bin/sh", "-c"]));

    // Entry by entry what umoci makes of it. Only root may give files away.
    if crate::is_root() {
        run(&root, &["umoci", "unpack", "--image", &format!("{}:latest", image().display()), "bundle"]);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machines/tree.py");
        let expected = run(&root, &["python3", script.to_str().unwrap(), "bundle/rootfs"]);
        host.ok(&["cp", script.to_str().unwrap(), &format!("{id}:/run/tree.py")]);
        let found = text(exec(&["-u", "root", "--", "python3", "/run/tree.py", "/"]));
        let different = differences(&String::from_utf8(expected).unwrap(), &found);
        assert!(
            different.is_empty(),
            "{} lines:\n{}",
            different.len(),
            different[..different.len().min(20)].join("\n")
        );
    }
    host.ok(&["kill", "--all"]);

    let used: Value = serde_json::from_str(&host.ok(&["df", "--json"])).unwrap();
    assert_eq!((&used["snapshots"]["count"], &used["disks"]["count"]), (&3.into(), &1.into()));
    assert_eq!(used["images"]["count"], 8);
    let freed = host.ok(&["gc", "--cache-limit-mib", "150"]);
    assert!(freed.contains("of the cache's files (freed"), "{freed}");
    let used: Value = serde_json::from_str(&host.ok(&["df", "--json"])).unwrap();
    assert!(
        used["images"]["bytes"].as_u64().unwrap() + used["disks"]["bytes"].as_u64().unwrap() <= 150 << 20,
        "{used}"
    );
}

fn packages_are_installed_by_the_guest() {
    let host = Host::new();
    // A repository with one package, and an image that knows it.
    let repository = host.0.path("hub/debs");
    std::fs::create_dir_all(repository.join("hello/DEBIAN")).unwrap();
    std::fs::create_dir_all(repository.join("hello/usr/bin")).unwrap();
    let control = "Package: hello-forkd\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@example.com>\nDescription: says so\n";
    std::fs::write(repository.join("hello/DEBIAN/control"), control).unwrap();
    std::fs::write(repository.join("hello/usr/bin/hello-forkd"), "#!/bin/sh\necho hello from a package\n")
        .unwrap();
    run(&repository, &["chmod", "755", "hello/usr/bin/hello-forkd"]);
    run(&repository, &["dpkg-deb", "--root-owner-group", "--build", "hello", "hello.deb"]);
    let deb = repository.join("hello.deb");
    let packages = format!(
        "{control}Filename: debs/hello.deb\nSize: {}\nSHA256: {}\n",
        deb.metadata().unwrap().len(),
        forkd_testing::sha256(&deb)
    );
    std::fs::write(repository.join("Packages"), packages).unwrap();
    let hub = forkd_testing::Hub::start(&host.0.path("hub"));

    let layout = host.0.path("layout");
    run(host.0.dir.path(), &["cp", "-r", image().to_str().unwrap(), "layout"]);
    let etc = host.0.path("layer/etc/apt");
    std::fs::create_dir_all(&etc).unwrap();
    let source = format!("deb [trusted=yes] http://10.0.2.2:{} debs/\n", hub.address.port());
    std::fs::write(etc.join("sources.list"), source).unwrap();
    run(
        host.0.dir.path(),
        &["tar", "-C", "layer", "--owner=0", "--group=0", "-cf", "layer.tar", "etc/apt/sources.list"],
    );
    let latest = format!("{}:latest", layout.display());
    run(host.0.dir.path(), &["umoci", "raw", "add-layer", "--image", &latest, "layer.tar"]);
    let name = format!("oci:{latest}");

    let from = ["from-image", &name, "--mem-size-mib", "256", "--tag"];
    host.ok(&[&from[..], &["extra", "--extra", "hello-forkd"]].concat());
    let said = host.ok(&["fork", "--tag", "extra", "--", "hello-forkd"]);
    assert!(said.starts_with("1| hello from a package\n"), "{said}");

    let said = host.fails(1, &[&from[..], &["x", "--extra", "no-such-package"]].concat());
    assert!(said.contains("Unable to locate package no-such-package"), "{said}");
    assert!(said.contains("the setup command ended with exit code 100"), "{said}");
    let said = host.fails(2, &["from-image", &name, "--tag", "x", "--extra=-o"]);
    assert!(said.contains("'-o' is no package name"), "{said}");
}

/// A layout of one layer with these files.
fn small_image(dir: &Path, more: &[&str], files: &[(&str, &[u8])]) -> String {
    let tree = dir.join("files");
    for (name, bytes) in files {
        let path = tree.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        run(dir, &["chmod", "755", path.to_str().unwrap()]);
    }
    run(dir, &["tar", "-C", "files", "--owner=0", "--group=0", "-cf", "layer.tar", "."]);
    run(dir, &["umoci", "init", "--layout", "small"]);
    run(dir, &["umoci", "new", "--image", "small:v1"]);
    run(dir, &["umoci", "raw", "add-layer", "--image", "small:v1", "layer.tar"]);
    run(dir, &[&["umoci", "config", "--image", "small:v1", "--os", "linux"], more].concat());
    format!("oci:{}:v1", dir.join("small").display())
}

fn images_that_cannot_be_had_leave_nothing() {
    let host = Host::new();
    let root = host.0.path("registry");
    std::fs::create_dir(&root).unwrap();
    let registry = Registry::start(&root);
    let arm = small_image(host.0.dir.path(), &["--architecture", "arm64"], &[("a", b"a")]);
    let unknown = format!("{}/none/none:v1", registry.host);
    let real = format!("oci:{}:latest", image().display());
    let cases: [(i32, &[&str], &str); 8] = [
        (3, &[&unknown], "none"),
        (3, &["oci:/nowhere/at/all"], "/nowhere/at/all"),
        (3, &[&format!("oci:{}:other", image().display())], "other"),
        (2, &["Not A Reference"], "Not A Reference"),
        (8, &[&arm], "arm64"),
        (8, &[&real, "--platform", "linux/arm64"], "linux/amd64"),
        (2, &[&real, "--size-mib", "100"], "--size-mib"),
        (5, &["127.0.0.1:1/a/b"], "127.0.0.1:1"),
    ];
    for (code, more, words) in cases {
        let said = host.fails(code, &[&["from-image", "--tag", "x"], more].concat());
        assert!(said.starts_with("forkd: ") || said.contains("\nforkd: "), "{said}");
        assert!(said.contains(words), "{more:?}: {said}");
    }

    // A layer that is not what the manifest says.
    let dir = host.0.path("cut");
    std::fs::create_dir(&dir).unwrap();
    let name = small_image(&dir, &["--architecture", "amd64"], &[("big", &[7; 200_000]), ("bin/sh", b"x")]);
    let manifest = &serde_json::from_slice::<Value>(&std::fs::read(dir.join("small/index.json")).unwrap())
        .unwrap()["manifests"][0];
    let blob = |digest: &Value| {
        dir.join("small/blobs/sha256").join(digest.as_str().unwrap().trim_start_matches("sha256:"))
    };
    let manifest: Value = serde_json::from_slice(&std::fs::read(blob(&manifest["digest"])).unwrap()).unwrap();
    let layer = blob(&manifest["layers"][0]["digest"]);
    let bytes = std::fs::read(&layer).unwrap();
    std::fs::set_permissions(&layer, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&layer, &bytes[..bytes.len() / 2]).unwrap();
    let said = host.fails(6, &["from-image", &name, "--tag", "x"]);
    assert!(said.contains(layer.file_name().unwrap().to_str().unwrap().get(..8).unwrap()), "{said}");
    assert!(host.ok(&["images"]).contains("no snapshots here yet"));
}

fn an_image_without_a_shell_takes_no_commands() {
    let host = Host::new();
    let busybox = std::fs::read("/bin/busybox").unwrap();
    // One that is not called sh does not become one.
    let name = small_image(host.0.dir.path(), &["--architecture", "amd64"], &[("app/echo", &busybox)]);
    let bake = ["from-image", &name, "--tag", "x", "--mem-size-mib", "96"];
    let said = host.fails(2, &[&bake[..], &["--warm", "true"]].concat());
    assert!(said.contains("the guest has no shell (/bin/sh)"), "{said}");
    host.ok(&bake);
    let said = host.ok(&["fork", "--tag", "x", "--", "/app/echo", "from", "a", "static", "program"]);
    assert!(said.starts_with("1| from a static program\n"), "{said}");
}

fn a_recipe_is_baked_only_if_its_tests_succeed() {
    let host = Host::new();
    let recipe = host.0.path("recipes/small");
    std::fs::create_dir_all(host.0.path("recipes/common")).unwrap();
    std::fs::create_dir_all(&recipe).unwrap();
    std::fs::write(host.0.path("recipes/common/words"), "words from a file\n").unwrap();
    let write = |more: &str| {
        let text = format!(
            "description = \"A test\"\nimage = \"oci:{}:latest\"\nmemory_mib = 256\nwait_secs = 60\nuser = \"root\"\n\
             files = [{{ from = \"../common/words\", to = \"/srv/words\", mode = \"0600\" }}, {{ content = \"two\", to = \"/srv/two\" }}]\n\
             setup = [\"echo $DEBIAN_FRONTEND > /srv/set-up; ip=$(cat /etc/resolv.conf); echo $ip >> /srv/set-up\"]\n\
             warm = \"cp /srv/words /run/warm; (sleep 1; touch /run/ready) &\"\nready = \"test -e /run/ready\"\n{more}",
            image().display()
        );
        std::fs::write(recipe.join("recipe.toml"), text).unwrap();
    };
    let path = recipe.display().to_string();
    write(
        "[[tests]]\nrun = \"cat /run/warm; stat -c %a:%U /srv/words\"\nexpect = \"words from a file\\n600:root\"\n[[tests]]\nrun = \"cat /srv/set-up\"\ncontains = \"noninteractive\"\n",
    );
    let said = host.ok(&["bake", &path]);
    assert!(
        said.contains("✓ test 1 in ")
            && said.contains("✓ test 2 in ")
            && said.contains("✓ snapshot 'small' at"),
        "{said}"
    );
    // The network was the setup's, not the children's.
    let routes = host.ok(&["fork", "--tag", "small", "--", "cat", "/proc/net/route", "/srv/two"]);
    assert!(routes.contains("1| two") && !routes.contains("0202000A"), "{routes}");

    write("[[tests]]\nrun = \"true\"\n[[tests]]\nrun = \"echo one\"\nexpect = \"another\"\n");
    let said = host.fails(1, &["bake", &path, "--tag", "x"]);
    assert!(said.contains("test 2 of the recipe: expected 'another', found 'one'"), "{said}");
    write("[[tests]]\nrun = \"echo oh no >&2; exit 3\"\n");
    let said = host.fails(1, &["bake", &path, "--tag", "x"]);
    assert!(said.contains("test 1 of the recipe: exit code 3") && said.contains("oh no"), "{said}");
    write("memory = 3\n");
    let said = host.fails(2, &["bake", &path, "--tag", "x"]);
    assert!(said.contains("recipes/small/recipe.toml: ") && said.contains("memory"), "{said}");
    std::fs::remove_file(host.0.path("recipes/common/words")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", host.0.path("recipes/common/words")).unwrap();
    write("");
    let said = host.fails(2, &["bake", &path, "--tag", "x"]);
    assert!(said.contains("leads out of"), "{said}");
    let said = host.fails(3, &["bake", "nowhere", "--tag", "x"]);
    assert!(said.contains("nowhere"), "{said}");
}
