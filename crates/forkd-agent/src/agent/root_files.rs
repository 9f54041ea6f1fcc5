//! What a container's engine puts in place when it starts one: the image's own files below `/run`, `/etc/hosts`, limits.

use super::{console, sys};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};

/// Where `/run` is made before it covers the image's.
const NEW_RUN: &str = "/newrun";
/// Files of an image below `/run` take memory in every child.
const MAX_RUN: u64 = 16 << 20;
const MAX_LINKS: usize = 8;
/// As docker has it.
const OPEN_FILES: u64 = 1 << 20;
/// A container has its host's, which are large; a small guest's own kernel would derive small ones from its memory.
const KERNEL_SETTINGS: [(&str, &str); 7] = [
    ("fs/file-max", "9223372036854775807"),
    ("fs/inotify/max_user_instances", "1024"),
    ("fs/inotify/max_user_watches", "524288"),
    ("kernel/pid_max", "4194304"),
    ("kernel/threads-max", "4194304"),
    // A container has a network of its own.
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
];
const LOCALHOST: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
/// Ends the line that forkd writes and replaces.
const OWN_LINE: &str = "# forkd";

/// A folder of a root that is not ours yet: where it is a link, that is followed inside that root.
pub(super) fn inside(root: &Path, name: &str) -> PathBuf {
    let mut at = PathBuf::from(name);
    for _ in 0..MAX_LINKS {
        let Ok(target) = fs::read_link(root.join(&at)) else { break };
        let from = if target.is_absolute() { Path::new("") } else { at.parent().unwrap_or(Path::new("")) };
        let mut clean = PathBuf::new();
        for part in from.join(target).components() {
            match part {
                Component::Normal(part) => clean.push(part),
                Component::ParentDir => drop(clean.pop()),
                _ => {}
            }
        }
        at = clean;
    }
    root.join(at)
}

/// Mounts memory on `/run`, with what the image has there: servers expect their folders.
pub(super) fn mount_run(run: &Path) -> Result<(), String> {
    let failed = |e: io::Error| format!("cannot mount tmpfs on /run: {e}");
    fs::create_dir_all(NEW_RUN).map_err(failed)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", NEW_RUN, "tmpfs", flags, c"mode=0755").map_err(|e| failed(e.into()))?;
    let mut left = MAX_RUN;
    if let Err(error) = copy_folder(run, Path::new(NEW_RUN), &mut left) {
        console::say(format_args!("not all of the image's /run is there: {error}"));
    }
    let lock = Path::new(NEW_RUN).join("lock");
    if fs::create_dir(&lock).is_ok() {
        let _ = fs::set_permissions(&lock, Permissions::from_mode(0o1777));
    }
    mount_move(NEW_RUN, run).map_err(|e| failed(e.into()))
}

/// Copies what is in a folder: folders, files and links with their owners and modes.
fn copy_folder(from: &Path, to: &Path, left: &mut u64) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let found = fs::symlink_metadata(&source)?;
        if found.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
            lchown(&target, Some(found.uid()), Some(found.gid()))?;
            continue;
        }
        if found.is_dir() {
            fs::create_dir(&target)?;
            copy_folder(&source, &target, left)?;
        } else if found.is_file() {
            *left = left
                .checked_sub(found.len())
                .ok_or_else(|| io::Error::other(format!("it has more than {} MiB", MAX_RUN >> 20)))?;
            fs::copy(&source, &target)?;
        } else {
            continue;
        }
        lchown(&target, Some(found.uid()), Some(found.gid()))?;
        fs::set_permissions(&target, Permissions::from_mode(found.mode() & 0o7777))?;
    }
    Ok(())
}

/// What programs find as in a container: names that resolve, a server's number of open files, low ports for all users.
pub(super) fn set_up() {
    for (setting, value) in KERNEL_SETTINGS {
        let _ = fs::write(Path::new("/proc/sys").join(setting), value);
    }
    if let Err(error) = sys::take_roots_group() {
        console::say(format_args!("cannot set the groups: {error}"));
    }
    let limits = [(Resource::Nofile, Some(OPEN_FILES)), (Resource::Nproc, None), (Resource::Core, None)];
    for (resource, most) in limits {
        if let Err(error) = setrlimit(resource, Rlimit { current: most, maximum: most }) {
            console::say(format_args!("cannot set the limit {resource:?}: {}", io::Error::from(error)));
        }
    }
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    if !has_name(&hosts, "localhost") {
        let _ =
            fs::create_dir_all("/etc").and_then(|()| fs::write("/etc/hosts", format!("{LOCALHOST}{hosts}")));
    }
}

fn has_name(hosts: &str, name: &str) -> bool {
    let words =
        |line: &str| line.split('#').next().unwrap_or_default().split_whitespace().any(|word| word == name);
    hosts.lines().any(words)
}

/// Lets the guest's own name resolve; that of a parent no longer.
pub(super) fn name_host(name: &str) -> Result<(), String> {
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    match fs::write("/etc/hosts", with_name(&hosts, name)) {
        Err(error) if Path::new("/etc/hosts").exists() => Err(format!("cannot write /etc/hosts: {error}")),
        _ => Ok(()),
    }
}

fn with_name(hosts: &str, name: &str) -> String {
    let mut text: String =
        hosts.lines().filter(|line| !line.ends_with(OWN_LINE)).map(|line| format!("{line}\n")).collect();
    if !has_name(&text, name) {
        text.push_str(&format!("127.0.1.1\t{name}\t{OWN_LINE}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside_the_root() {
        let root = std::env::temp_dir().join(format!("forkd-agent-root-{}", std::process::id()));
        fs::create_dir_all(root.join("var/run")).unwrap();
        for (link, to) in [("run", "/var/run"), ("tmp", "var/../../../var/tmp"), ("loop", "loop")] {
            symlink(to, root.join(link)).unwrap();
        }
        assert_eq!(inside(&root, "run"), root.join("var/run"));
        assert_eq!(inside(&root, "tmp"), root.join("var/tmp"));
        assert_eq!(inside(&root, "loop"), root.join("loop"));
        assert_eq!(inside(&root, "none"), root.join("none"));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_folder_is_copied_with_modes_up_to_a_bound() {
        let root = std::env::temp_dir().join(format!("forkd-agent-run-{}", std::process::id()));
        fs::create_dir_all(root.join("from/postgresql/deep")).unwrap();
        fs::create_dir(root.join("to")).unwrap();
        fs::set_permissions(root.join("from/postgresql"), Permissions::from_mode(0o3777)).unwrap();
        fs::write(root.join("from/postgresql/deep/pid"), "12").unwrap();
        symlink("postgresql", root.join("from/link")).unwrap();
        copy_folder(&root.join("from"), &root.join("to"), &mut 2).unwrap();
        assert_eq!(fs::metadata(root.join("to/link")).unwrap().mode() & 0o7777, 0o3777);
        assert_eq!(fs::read_to_string(root.join("to/postgresql/deep/pid")).unwrap(), "12");
        fs::create_dir(root.join("small")).unwrap();
        assert!(copy_folder(&root.join("from"), &root.join("small"), &mut 1).is_err());
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_own_name_replaces_the_parents() {
        let hosts = with_name("127.0.0.1 localhost\n10.0.0.1 db # the old one", "c1");
        assert_eq!(hosts, "127.0.0.1 localhost\n10.0.0.1 db # the old one\n127.0.1.1\tc1\t# forkd\n");
        assert_eq!(with_name(&hosts, "c2"), hosts.replace("c1", "c2"));
        assert_eq!(with_name(&hosts, "db"), "127.0.0.1 localhost\n10.0.0.1 db # the old one\n");
        assert!(
            has_name(LOCALHOST, "localhost") && !has_name("# localhost\n1.1.1.1 localhosts", "localhost")
        );
    }
}
