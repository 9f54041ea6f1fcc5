//! Memory limits by control groups, version 2 or 1, where this user may make them.

use forkd_core::{Error, Kind, Result};
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

const PREFIX: &str = "forkd-";

/// A folder below which groups with a memory limit can be made, and the name of the file that sets it.
#[derive(Debug, Clone)]
struct Hierarchy {
    dir: PathBuf,
    limit: &'static str,
}

fn hierarchy() -> Option<Hierarchy> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let root = Path::new("/sys/fs/cgroup");
    let path = |line: &str| line.splitn(3, ':').nth(2).map(|path| path.trim_start_matches('/').to_owned());
    let v1 =
        own.lines().find(|line| line.split(':').nth(1).is_some_and(|c| c.split(',').any(|c| c == "memory")));
    let (base, own, limit) = match v1 {
        Some(line) => (root.join("memory"), path(line)?, "memory.limit_in_bytes"),
        None => (root.to_owned(), path(own.lines().find(|line| line.starts_with("0::"))?)?, "memory.max"),
    };
    let own = base.join(own);
    // A version 2 group that has processes has no limited groups below it, but may have some beside it.
    let candidates =
        if limit == "memory.max" { own.parent().into_iter().collect() } else { vec![own.as_path()] };
    let usable = |dir: &Path| {
        let controllers = fs::read_to_string(dir.join("cgroup.subtree_control"));
        let enabled =
            limit != "memory.max" || controllers.is_ok_and(|c| c.split_whitespace().any(|c| c == "memory"));
        let probe = dir.join(format!("{PREFIX}probe-{}", std::process::id()));
        let made = enabled && fs::create_dir(&probe).is_ok();
        let _ = fs::remove_dir(&probe);
        made
    };
    candidates.into_iter().find(|dir| usable(dir)).map(|dir| Hierarchy { dir: dir.to_owned(), limit })
}

/// Whether this user can limit the memory of children.
#[must_use]
pub fn memory_limits() -> bool {
    hierarchy().is_some()
}

/// Starts a command in a group of its own.
pub(crate) fn limit(command: &mut Command, name: &str, bytes: u64) -> Result<()> {
    let Some(Hierarchy { dir, limit }) = hierarchy() else {
        let message = "this user cannot make control groups with memory limits";
        let hint = "run forkd where systemd delegates them (systemd-run --user --scope -p Delegate=yes forkd …), or without \
                    --memory-limit-mib";
        return Err(Error::new(Kind::Incompatible, message).hint(hint));
    };
    sweep(&dir);
    let group = dir.join(format!("{PREFIX}{name}"));
    fs::create_dir(&group).map_err(Error::io("create", &group))?;
    let file = group.join(limit);
    fs::write(&file, bytes.to_string()).map_err(Error::io("write", &file))?;
    let procs = group.join("cgroup.procs");
    let open: std::io::Result<File> = OpenOptions::new().write(true).open(&procs);
    forkd_sys::join_cgroup(command, open.map_err(Error::io("open", &procs))?);
    Ok(())
}

/// Removes the groups of children that have ended; one with processes cannot be removed.
pub(crate) fn clear() {
    if let Some(hierarchy) = hierarchy() {
        sweep(&hierarchy.dir);
    }
}

fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}
