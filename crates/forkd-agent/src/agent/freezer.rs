//! The control group in which all programs run, so that they can be frozen together. The agent itself is not in it.

use super::mount::mount_at;
use super::{console, sys};
use rustix::mount::MountFlags;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const ROOT: &str = "/sys/fs/cgroup";
const GROUP: &str = "/sys/fs/cgroup/work";
const FREEZE_LIMIT: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Freezer {
    /// The group's list of processes; none where the kernel has no control groups.
    procs: OnceLock<File>,
}

impl Freezer {
    /// Mounts the kernel's control groups and makes the one for programs.
    pub(super) fn set_up(&self) {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let at = Path::new(ROOT);
        // Without the option each start of a program would wait for an RCU grace period; Linux 6.0 and later know it.
        let mounted = mount_at("cgroup2", at, flags, Some(c"favordynmods"))
            .or_else(|_| mount_at("cgroup2", at, flags, None));
        let procs = mounted
            .map_err(std::io::Error::from)
            .and_then(|()| fs::create_dir_all(GROUP))
            .and_then(|()| File::options().write(true).open(format!("{GROUP}/cgroup.procs")));
        match procs {
            Ok(procs) => drop(self.procs.set(procs)),
            Err(error) => {
                console::say(format_args!("no control groups, so programs cannot be frozen: {error}"));
            }
        }
    }

    /// Lets the child enter the group before it becomes the program.
    pub(super) fn enter(&self, command: &mut Command) {
        if let Some(procs) = self.procs.get().and_then(|procs| procs.try_clone().ok()) {
            sys::join_cgroup(command, procs);
        }
    }

    pub(super) fn freeze(&self) -> Result<(), String> {
        if self.procs.get().is_none() {
            return Ok(());
        }
        write("1")?;
        let begun = Instant::now();
        while !is_frozen() {
            if begun.elapsed() > FREEZE_LIMIT {
                let _ = write("0");
                return Err(format!(
                    "the programs in the guest cannot be frozen within {} s",
                    FREEZE_LIMIT.as_secs()
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Kills all programs, and waits until they are gone.
    pub(super) fn kill(&self) {
        let path = format!("{GROUP}/cgroup.kill");
        if let Err(error) = fs::write(&path, "1") {
            return drop(console::say(format_args!("cannot write {path}: {error}")));
        }
        let begun = Instant::now();
        while begun.elapsed() < FREEZE_LIMIT
            && !fs::read(format!("{GROUP}/cgroup.procs")).is_ok_and(|all| all.is_empty())
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn thaw(&self) -> Result<(), String> {
        if self.procs.get().is_none() { Ok(()) } else { write("0") }
    }
}

fn write(value: &str) -> Result<(), String> {
    let path = format!("{GROUP}/cgroup.freeze");
    fs::write(&path, value).map_err(|e| format!("cannot write {path}: {e}"))
}

fn is_frozen() -> bool {
    fs::read_to_string(format!("{GROUP}/cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "frozen 1"))
}
