//! `forkd from-image`: Debian's registry, filled by skopeo, and machines baked of what is in it.

use crate::common::User;
use crate::{guests, nothing_is_left};
use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Those that compare owners, which only root can give away.
pub(crate) const AS_ROOT: &[(&str, fn())] = &[("the_whole_tree_is_the_images", the_whole_tree_is_the_images)];
pub(crate) const TESTS: &[(&str, fn())] = &[
    ("programs_run_as_the_image_says", programs_run_as_the_image_says),
    ("what_is_here_is_not_fetched_again", what_is_here_is_not_fetched_again),
    ("a_guest_is_what_a_container_would_be", a_guest_is_what_a_container_would_be),
];

/// Whether what these tests need is here.
pub(crate) fn ready() -> bool {
    let runs =
        |program: &&str| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    guests().join("image/complete").exists() && ["docker-registry", "skopeo", "umoci"].iter().all(runs)
}

/// Runs a shell's script in a folder.
#[track_caller]
pub(crate) fn sh(dir: &Path, script: &str) {
    let output = Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) struct Registry {
    child: Child,
    pub(crate) host: String,
    dir: PathBuf,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    pub(crate) fn start(dir: &Path, auth: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog:\n  accesslog:\n    disabled: false\nstorage:\n  filesystem:\n    rootdirectory: {}/storage\n\
             http:\n  addr: {host}\n{auth}",
            dir.display()
        );
        std::fs::write(dir.join("config.yml"), config).unwrap();
        let log =
            || Stdio::from(std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap());
        let mut command = Command::new("docker-registry");
        command.args(["serve", "config.yml"]).current_dir(dir).stdout(log()).stderr(log());
        let registry = Self { child: command.spawn().unwrap(), host, dir: dir.to_owned() };
        let begun = Instant::now();
        while TcpStream::connect(&registry.host).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{}", registry.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    pub(crate) fn push(&self, from: &str, to: &str, more: &str) {
        let line = format!(
            "skopeo copy --quiet --dest-tls-verify=false {more} oci:{from} docker://{}/{to}",
            self.host
        );
        sh(&self.dir, &line);
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap()
    }

    /// How many blobs of a repository were asked for.
    fn blobs(&self, name: &str) -> usize {
        let path = format!("\"GET /v2/{name}/blobs/");
        self.log().lines().filter(|line| line.contains(&path)).count()
    }
}

/// What all these tests use: made once.
pub(crate) struct Shared {
    /// With `layout`: "small", a busybox and a user; "bare", one program, which needs no other file; "arm", the same for another processor.
    pub(crate) dir: tempfile::TempDir,
    /// With these and "team/test:v1", the image of `demo/build-image`.
    pub(crate) registry: Registry,
    baked: OnceLock<User>,
}

const LAYOUT: &str = r"
mkdir -p small/bin small/etc small/home/app bare
cp /bin/busybox small/bin/busybox
cp /bin/busybox bare/busybox
for name in sh cat env id ls true sleep; do ln -s busybox small/bin/$name; done
printf 'root:x:0:0::/root:/bin/sh\napp:x:1234:1234::/home/app:/bin/sh\n' > small/etc/passwd
printf 'root:x:0:\napp:x:1234:\nextra:x:77:app\n' > small/etc/group
umoci init --layout layout
for name in small bare; do
    tar -C $name --owner=0 --group=0 -cf $name.tar .
    umoci new --image layout:$name
    umoci raw add-layer --image layout:$name $name.tar
    umoci config --image layout:$name --os linux --architecture amd64
done
umoci config --image layout:bare --tag arm --architecture arm64
mkdir -p server/run/postgresql server/var
ln -s /run server/var/run
chmod 3777 server/run/postgresql
tar --owner=999 --group=999 --transform 's,^server/run,/run,;s,^server/var,/var,' -P -cf server.tar server/run/postgresql server/var/run
umoci config --image layout:small --tag server --config.workingdir /srv/app/data
umoci raw add-layer --image layout:server server.tar";

static SHARED: Mutex<Option<Arc<Shared>>> = Mutex::new(None);

pub(crate) fn shared() -> Arc<Shared> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let make = || {
        let dir = tempfile::tempdir().unwrap();
        sh(dir.path(), LAYOUT);
        let registry = Registry::start(dir.path(), "");
        registry.push(&format!("{}:latest", guests().join("image/image").display()), "team/test:v1", "");
        for name in ["small", "bare", "arm"] {
            registry.push(&format!("layout:{name}"), &format!("team/{name}:v1"), "");
        }
        Arc::new(Shared { dir, registry, baked: OnceLock::new() })
    };
    Arc::clone(shared.get_or_insert_with(make))
}

/// Ends the registry, when all tests have run.
pub(crate) fn end() {
    drop(SHARED.lock().unwrap_or_else(PoisonError::into_inner).take());
}

impl Shared {
    pub(crate) fn layout(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.dir.path().join("layout").display())
    }

    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}/team/{name}", self.registry.host)
    }

    /// A user who has baked "team/test:v1", as `test`.
    fn baked(&self) -> &User {
        self.baked.get_or_init(|| {
            let user = user();
            let seen = from_image(&user, &self.image("test:v1"), "test", &[]);
            assert_eq!(seen.0, 0, "{}", seen.1);
            user
        })
    }
}

/// A user with an empty cache of their own, but for the kernel.
pub(crate) fn user() -> User {
    let user = User::new();
    let cache = user.path("cache/forkd");
    std::fs::create_dir_all(&cache).unwrap();
    std::os::unix::fs::symlink(guests().join("cache/forkd/kernels"), cache.join("kernels")).unwrap();
    // Whether KVM serves, which need not be found out again.
    let _ = std::fs::copy(guests().join("cache/forkd/kvm.json"), cache.join("kvm.json"));
    user
}

/// The exit code, and all that was said.
pub(crate) fn from_image(user: &User, image: &str, tag: &str, more: &[&str]) -> (i32, String) {
    let seen = user.run(&[&["from-image", image, "--tag", tag, "--mem-size-mib", "128"], more].concat());
    (seen.code, seen.out + &seen.err)
}

/// No tag, no unfinished disk, nothing that runs.
#[track_caller]
pub(crate) fn nothing_was_made(user: &User) {
    assert!(user.is_untouched(), "{:?}", forkd_testing::tree(&user.store()));
    let disks = std::fs::read_dir(user.path("cache/forkd/rootfs")).into_iter().flatten().flatten();
    let partial = disks.filter(|disk| disk.file_name().to_string_lossy().ends_with(".partial"));
    assert_eq!(partial.map(|disk| disk.path()).collect::<Vec<_>>(), Vec::<PathBuf>::new());
    nothing_is_left(user);
}

/// A program's output as it is.
#[track_caller]
pub(crate) fn exec(user: &User, options: &[&str], argv: &[&str]) -> String {
    let output = user.command(&[&["exec"], options, &["--"], argv].concat()).output().unwrap();
    assert!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A child that runs detached.
pub(crate) fn detached(user: &User, tag: &str) -> String {
    // Not by `ls`: another test may fork the same user's snapshots meanwhile.
    user.json(&["fork", "--tag", tag, "--detach"])["children"][0]["id"].as_str().unwrap().to_owned()
}

/// Every entry by its name: what `tree.py` says of it.
fn entries(lines: &str) -> BTreeMap<String, serde_json::Value> {
    let entry = |line| {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        (entry["name"].as_str().unwrap().to_owned(), entry)
    };
    lines.lines().map(entry).collect()
}

fn the_whole_tree_is_the_images() {
    let shared = shared();
    let bundle = shared.dir.path().join("bundle");
    let layout = guests().join("image/image");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machines/tree.py");
    let (script, layout) = (script.display().to_string(), layout.display());
    let unpack = format!("umoci unpack --image {layout}:latest {}", bundle.display());
    let walk = || {
        sh(shared.dir.path(), &unpack);
        Command::new("python3").args(["-B", &script]).arg(bundle.join("rootfs")).output().unwrap()
    };
    let (user, expected) = std::thread::scope(|scope| {
        let walk = scope.spawn(walk);
        (shared.baked(), walk.join().unwrap())
    });
    assert!(expected.status.success(), "{}", String::from_utf8_lossy(&expected.stderr));
    let id = &detached(user, "test");
    user.ok(&["cp", &script, &format!("{id}:/run/tree.py")]);
    let found = exec(user, &["-u", "root", id], &["python3", "-B", "/run/tree.py", "/"]);
    user.ok(&["kill", id]);
    let (found, expected) = (entries(&found), entries(&String::from_utf8(expected.stdout).unwrap()));
    let differ: Vec<_> = found
        .keys()
        .chain(expected.keys())
        .filter(|name| found.get(*name) != expected.get(*name))
        .map(|name| format!("{name:?}: {:?}\n  not {:?}", found.get(name), expected.get(name)))
        .collect();
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ[..differ.len().min(20)].join("\n"));
    assert!(found.len() > 10_000 && found["srv/app/bind"]["xattrs"]["security.capability"].is_string());
}

fn programs_run_as_the_image_says() {
    let shared = shared();
    let user = shared.baked();
    let id = &*detached(user, "test");
    let all = exec(user, &[id], &["env"]);
    let lines: Vec<&str> = all.lines().collect();
    for line in ["GREETING=hello world", "PATH=/srv/app/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/srv/app"] {
        assert!(lines.contains(&line), "{line}: {all}");
    }
    assert_eq!(exec(user, &[id], &["pwd"]), "/srv/app");
    assert_eq!(exec(user, &[id], &["id"]), "uid=1234(app) gid=1234(app) groups=1234(app),77(extra)");
    assert_eq!(exec(user, &["-u", "root", id], &["id"]), "uid=0(root) gid=0(root) groups=0(root)");
    assert!(exec(user, &["-u", "root", id], &["env"]).lines().any(|line| line == "HOME=/root"));
    assert_eq!(exec(user, &["-u", "4321:extra", id], &["id"]), "uid=4321 gid=77(extra) groups=77(extra)");
    assert_eq!(exec(user, &["-w", "/tmp", id], &["pwd"]), "/tmp");
    assert_eq!(
        exec(user, &["-e", "GREETING=bye", id], &["sh", "-c", "echo $GREETING $HOME"]),
        "bye /srv/app"
    );
    let unknown = user.fails(126, &["exec", "-u", "nobody-here", id, "--", "true"]);
    assert!(unknown.contains("nobody-here"), "{unknown}");
    // Nor can the image's user do what root can.
    assert_ne!(user.run(&["exec", id, "--", "sh", "-c", "echo x > /etc/x"]).code, 0);
    user.ok(&["kill", id]);
    let text = std::fs::read_to_string(user.snapshot("test", "snapshot.json")).unwrap();
    let image = &serde_json::from_str::<serde_json::Value>(&text).unwrap()["image"];
    assert_eq!(image["entrypoint"], serde_json::json!(["/bin/sh", "-c"]), "{text}");
    assert_eq!((&image["cmd"][0], &image["platform"]), (&"echo hello".into(), &"linux/amd64".into()));
    assert_eq!(image["reference"], shared.image("test:v1"));
    assert!(image["digest"].as_str().unwrap().starts_with("sha256:"));
    user.ok(&["verify", "test"]);
}

fn what_is_here_is_not_fetched_again() {
    let (shared, user) = (shared(), user());
    shared.registry.push("layout:small", "team/again:v1", "");
    let asked = || shared.registry.blobs("team/again");
    let image = shared.image("again:v1");
    let (code, said) = from_image(&user, &image, "one", &[]);
    assert!(code == 0 && said.contains("✓ # layers: # fetched (# MiB), # were here"), "{said}");
    assert_eq!(asked(), 2, "a layer and the configuration");
    let disk = user.path("cache/forkd/rootfs");
    let made = forkd_testing::tree(&disk);
    let (code, said) = from_image(&user, &image, "two", &["--warm", "echo warm > /run/warm"]);
    assert!(code == 0 && said.contains("✓ root disk: from the cache"), "{said}");
    assert!(!said.contains("layers"), "{said}");
    assert_eq!(forkd_testing::tree(&disk), made);
    std::fs::remove_dir_all(&disk).unwrap();
    let (code, said) = from_image(&user, &image, "three", &[]);
    assert!(code == 0 && said.contains("✓ # layers: none fetched") && said.contains("files"), "{said}");
    // The same image makes the same disk, to the byte.
    assert_eq!(forkd_testing::tree(&disk), made);
    assert_eq!(asked(), 2);
    assert!(user.fails(1, &["from-image", &image, "--tag", "one"]).contains("'one' is already at"));
    assert_eq!(
        user.run(&["fork", "--tag", "two", "--", "cat", "/run/warm"]).out.lines().next(),
        Some("#| warm")
    );
    nothing_is_left(&user);
}

/// Folders below /run, a working folder that no layer holds, names that resolve, open files, low ports.
fn a_guest_is_what_a_container_would_be() {
    let (shared, user) = (shared(), user());
    let seen = from_image(&user, &shared.layout("server"), "server", &[]);
    assert_eq!(seen.0, 0, "{}", seen.1);
    let id = detached(&user, "server");
    let sh = |who: &str, script: &str| exec(&user, &["-u", who, &id], &["/bin/sh", "-c", script]);
    let busybox = |who: &str, script: &str| sh(who, &format!("b() {{ /bin/busybox \"$@\"; }}; {script}"));
    assert_eq!(busybox("root", "b stat -c '%a %u' /var/run/postgresql /run/lock"), "3777 999\n1777 0");
    assert_eq!(sh("root", "pwd"), "/srv/app/data");
    assert_eq!(sh("app", "ulimit -n; ulimit -Hn"), "1048576\n1048576");
    let name = busybox("root", "b hostname");
    assert!(busybox("root", "b cat /etc/hosts").contains(&format!("127.0.1.1\t{name}\t")));
    // A low port for a user who is not root.
    let served = "b nc -l -p 80 -e /bin/busybox echo served & b sleep 1; b nc -w 3 localhost 80 </dev/null";
    assert_eq!(busybox("app", served), "served");
    // A sibling has another name, and only that.
    let other = detached(&user, "server");
    let hosts = exec(&user, &[&other], &["/bin/sh", "-c", "/bin/busybox cat /etc/hosts"]);
    assert!(!hosts.contains(&name) && hosts.matches("127.0.1.1").count() == 1, "{hosts}");
    user.ok(&["kill", &id, &other]);
    nothing_is_left(&user);
}
