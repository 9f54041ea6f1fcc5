//! Serving: what a guest finds, and a thread for each port.

use super::children::Children;
use super::mount::mount_at;
use super::{console, image, port, root_files, sys};
use rustix::mount::MountFlags;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PORTS: [&str; 4] = ["forkd.0", "forkd.1", "forkd.2", "forkd.3"];
const PORT_WAIT: Duration = Duration::from_secs(10);
/// The kernel names the ports one after another; the others are not far behind the first.
const OTHER_PORTS_WAIT: Duration = Duration::from_millis(500);
const STACK: usize = 256 << 10;

pub(super) fn serve() -> ExitCode {
    console::announce_panics();
    let _ = std::env::set_current_dir("/");
    let children = Arc::new(Children::default());
    set_up(&children);
    find_ports(&children);
    children.collect()
}

/// Nothing here keeps the guest from being served.
fn set_up(children: &Children) {
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    let mounts = [
        ("devpts", "/dev/pts", quiet, c"gid=5,mode=0620,ptmxmode=0666"),
        ("tmpfs", "/dev/shm", MountFlags::NOSUID | MountFlags::NODEV, c"mode=1777"),
        ("mqueue", "/dev/mqueue", quiet | MountFlags::NODEV, c""),
    ];
    for (kind, at, flags, options) in mounts {
        if let Err(error) = mount_at(kind, Path::new(at), flags, Some(options)) {
            let error = std::io::Error::from(error);
            console::say(format_args!("cannot mount {kind} on {at}: {error}"));
        }
    }
    let links = [
        ("/proc/self/fd", "/dev/fd"),
        ("fd/0", "/dev/stdin"),
        ("fd/1", "/dev/stdout"),
        ("fd/2", "/dev/stderr"),
    ];
    for (to, at) in links {
        let _ = symlink(to, at);
    }
    // A program of any user may offer the eval endpoint there.
    let _ = fs::create_dir_all("/run/forkd");
    let _ = fs::set_permissions("/run/forkd", fs::Permissions::from_mode(0o1777));
    image::image();
    root_files::set_up();
    if !Path::new("/tmp").exists() && fs::create_dir("/tmp").is_ok() {
        let _ = fs::set_permissions("/tmp", fs::Permissions::from_mode(0o1777));
    }
    children.freezer.set_up();
    if let Err(error) = sys::interface_up("lo", None) {
        console::say(format_args!("cannot bring up lo: {error}"));
    }
}

/// Serves every port from when it is there.
fn find_ports(children: &Arc<Children>) {
    let begun = Instant::now();
    let mut served = BTreeSet::new();
    let mut first = None;
    while served.len() < PORTS.len() {
        for (name, device) in ports() {
            if served.insert(name) {
                first.get_or_insert_with(Instant::now);
                serve_port(name, device, children);
            }
        }
        if first.is_none() && begun.elapsed() > PORT_WAIT {
            console::give_up(format_args!(
                "there is no virtio-serial port named forkd.0 after {} s",
                PORT_WAIT.as_secs()
            ));
        }
        if first.is_some_and(|first: Instant| first.elapsed() > OTHER_PORTS_WAIT) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ports() -> Vec<(&'static str, PathBuf)> {
    let found = fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten();
    found
        .filter_map(|entry| {
            let name = fs::read_to_string(entry.path().join("name")).ok()?;
            let name = *PORTS.iter().find(|known| **known == name.trim_end())?;
            let device = Path::new("/dev").join(entry.file_name());
            device.exists().then_some((name, device))
        })
        .collect()
}

fn serve_port(name: &'static str, device: PathBuf, children: &Arc<Children>) {
    let children = Arc::clone(children);
    let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK).spawn(move || {
        if let Err(error) = port::serve(name, &device, &children) {
            console::say(format_args!("{name} is served no more: {error}"));
        }
    });
    if let Err(error) = thread {
        console::say(format_args!("cannot serve {name}: {error}"));
    }
}
