//! From the initramfs to the guest's disk.

use super::mount::mount_at;
use super::paths::AGENT;
use super::{console, root_files, serve};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const NEW_ROOT: &str = "/newroot";
const DISK: &str = "/dev/vda";
const DISK_WAIT: Duration = Duration::from_secs(10);
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;

pub(super) fn boot() -> ExitCode {
    console::announce_panics();
    for (kind, at) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        match mount_at(kind, Path::new(at), MountFlags::NOSUID, None) {
            // The kernel may have mounted /dev itself.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => console::give_up(format_args!("cannot mount {kind} on {at}: {}", text(error))),
        }
    }
    load_modules(Path::new("/modules"));
    if has_word(&fs::read_to_string("/proc/cmdline").unwrap_or_default(), "forkd.probe") {
        return serve::serve();
    }
    if let Err(message) = switch_root() {
        console::give_up(message);
    }
    let error = Command::new(AGENT).arg("serve").env_clear().exec();
    console::give_up(format_args!("cannot run {AGENT}: {error}"))
}

fn text(error: impl Into<io::Error>) -> String {
    error.into().to_string()
}

pub(super) fn has_word(command_line: &str, word: &str) -> bool {
    command_line.split_ascii_whitespace().any(|other| other == word)
}

/// The modules of a folder in the order of their names, with the flags to load them with.
fn modules(mut names: Vec<PathBuf>) -> Vec<(PathBuf, i32)> {
    names.sort();
    let compressed = |path: &Path| path.extension().is_some_and(|kind| kind == "xz" || kind == "zst");
    let with_flags = |path: PathBuf| {
        let flags = if compressed(&path) { MODULE_INIT_COMPRESSED_FILE } else { 0 };
        (path, flags)
    };
    names.into_iter().map(with_flags).collect()
}

fn load_modules(folder: &Path) {
    let found = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    for (path, flags) in modules(found) {
        let loaded = File::open(&path).and_then(|file| Ok(rustix::system::finit_module(&file, c"", flags)?));
        match loaded {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => drop(console::say(format_args!("cannot load {}: {error}", path.display()))),
        }
    }
}

fn switch_root() -> Result<(), String> {
    let new = Path::new(NEW_ROOT);
    wait_for_disk()?;
    fs::create_dir_all(new).map_err(|e| format!("cannot make {NEW_ROOT}: {e}"))?;
    mount(DISK, new, "ext4", MountFlags::NOATIME, None)
        .map_err(|e| format!("cannot mount {DISK}: {}; is it an ext4 image?", text(e)))?;
    for name in ["dev", "proc", "sys"] {
        let to = mount_point(new, name, 0o755)?;
        mount_move(Path::new("/").join(name), &to)
            .map_err(|e| format!("cannot move /{name} to the disk: {}", text(e)))?;
    }
    mount_point(new, "tmp", 0o1777)?;
    let run = mount_point(new, "run", 0o755)?;
    root_files::mount_run(&run)?;
    let copied = install(&run.join(AGENT.trim_start_matches("/run/")));
    copied.map_err(|e| format!("cannot copy the agent to {AGENT}: {e}"))?;
    // The initramfs is memory.
    if let Ok(root) = fs::symlink_metadata("/") {
        clear(Path::new("/"), root.dev());
    }
    let moved = std::env::set_current_dir(new)
        .and_then(|()| Ok(mount_move(".", "/")?))
        .and_then(|()| Ok(rustix::process::chroot(".")?))
        .and_then(|()| std::env::set_current_dir("/"));
    moved.map_err(|e| format!("cannot make {DISK} the root: {e}"))
}

fn wait_for_disk() -> Result<(), String> {
    let begun = Instant::now();
    while !Path::new(DISK).exists() {
        if begun.elapsed() > DISK_WAIT {
            return Err(format!(
                "there is no {DISK} after {} s: no virtio disk, or no module for it",
                DISK_WAIT.as_secs()
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn mount_point(root: &Path, name: &str, mode: u32) -> Result<PathBuf, String> {
    let path = root_files::inside(root, name);
    if !path.is_dir() {
        fs::create_dir_all(&path)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .map_err(|e| format!("cannot make /{name} on {DISK}: {e}"))?;
    }
    Ok(path)
}

/// Copies the running program to a path.
fn install(to: &Path) -> io::Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = File::create(to)?;
    io::copy(&mut File::open("/proc/self/exe").or_else(|_| File::open("/init"))?, &mut file)?;
    file.set_permissions(fs::Permissions::from_mode(0o755))
}

/// Deletes what is in a folder and on the same filesystem. What cannot be deleted stays: it only takes memory.
fn clear(folder: &Path, device: u64) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        // Not through links, and not into what is mounted here.
        let Ok(found) = fs::symlink_metadata(entry.path()) else { continue };
        if found.dev() != device {
            continue;
        }
        if found.is_dir() {
            clear(&entry.path(), device);
            let _ = fs::remove_dir(entry.path());
        } else {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_in_the_order_of_their_names() {
        let names = ["10-ext4.ko.xz", "02-virtio.ko", "01-virtio_ring.ko.zst"].map(PathBuf::from).to_vec();
        let found = modules(names);
        let expected = [("01-virtio_ring.ko.zst", 4), ("02-virtio.ko", 0), ("10-ext4.ko.xz", 4)];
        assert_eq!(found, expected.map(|(name, flags)| (PathBuf::from(name), flags)));
    }

    #[test]
    fn only_a_whole_word_counts() {
        assert!(has_word("console=ttyS0 forkd.probe quiet\n", "forkd.probe"));
        assert!(!has_word("forkd.probes xforkd.probe forkd.probe=1", "forkd.probe"));
    }

    #[test]
    fn a_folder_is_cleared_of_all_but_other_filesystems() {
        let root = std::env::temp_dir().join(format!("forkd-agent-clear-{}", std::process::id()));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        let device = fs::metadata(&root).unwrap().dev();
        clear(&root, device + 1);
        assert!(root.join("a/b/file").exists());
        clear(&root, device);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        fs::remove_dir(&root).unwrap();
    }
}
