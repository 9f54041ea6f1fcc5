use crate::config;
use crate::context::Context;
use crate::output::mib;
use anyhow::Result;
use forkd_app::Machines;
use forkd_core::{Error, Kind};
use serde::Serialize;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Copy a file into a child, or out of one
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For folders: tar c FOLDER | forkd exec -i ID -- tar x -C /somewhere\n\nExamples:\n  \
                  forkd cp ./data.csv 3fa1c9e2:/tmp/data.csv\n  forkd cp 3fa1c9e2:/tmp/result.json ."
)]
pub(crate) struct CpArgs {
    /// A file, or ID:FILE in a child
    from: String,
    /// A file or folder, or ID:FILE in a child
    to: String,
}

#[derive(Serialize)]
struct CpAnswer<'a> {
    from: &'a str,
    to: &'a str,
    bytes: u64,
}

/// `ID:PATH`; a path of this host's that has a colon is told by a slash before it.
fn in_child(text: &str) -> Option<(&str, &str)> {
    text.split_once(':').filter(|(id, _)| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

pub(crate) fn run(args: &CpArgs, context: &Context<'_>) -> Result<()> {
    let usage = |message: &str| Err(Error::new(Kind::Usage, message).into());
    let machines = Machines::running(&config::runtime_dir());
    let bytes = match (in_child(&args.from), in_child(&args.to)) {
        (None, Some((id, path))) => put(&machines, context, Path::new(&args.from), id, path)?,
        (Some((id, path)), None) => get(&machines, context, id, path, Path::new(&args.to))?,
        (None, None) => return usage("neither is in a child; write one as ID:/path"),
        _ => return usage("both are in children; copy out of the one first, then into the other"),
    };
    context.output.line(&format!("✓ copied {}", mib(bytes)));
    context.output.json(&CpAnswer { from: &args.from, to: &args.to, bytes });
    Ok(())
}

/// The mask of this process; it can only be read by setting it.
fn umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(mask);
    mask.bits()
}

fn put(machines: &Machines, context: &Context<'_>, from: &Path, id: &str, path: &str) -> Result<u64> {
    let metadata = from.metadata().map_err(Error::io("open", from))?;
    if metadata.is_dir() {
        let message = format!("{} is a folder", from.display());
        return Err(Error::new(Kind::Usage, message).hint("see `forkd cp --help` for those").into());
    }
    if !metadata.is_file() {
        let message = format!("{} is not a regular file", from.display());
        return Err(Error::new(Kind::Usage, message).hint("use `forkd exec -i` for streams").into());
    }
    let mut file = File::open(from).map_err(Error::io("open", from))?;
    // As cp does: into a folder under the file's own name.
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    let path = if path.ends_with('/') || path.is_empty() {
        format!("/{}/{name}", path.trim_matches('/')).replace("//", "/")
    } else {
        path.to_owned()
    };
    let mode = metadata.permissions().mode() & 0o7777;
    Ok(machines.talk(&machines.child(id)?, context.env())?.put(&path, mode, &mut file, from)?)
}

fn get(machines: &Machines, context: &Context<'_>, id: &str, path: &str, to: &Path) -> Result<u64> {
    let to: PathBuf = match (to.is_dir(), Path::new(path).file_name()) {
        (true, Some(name)) => to.join(name),
        _ => to.to_owned(),
    };
    // A link is followed, as by cp.
    let to = to.canonicalize().unwrap_or(to);
    let mut bytes = 0;
    // A device or a pipe is written into; to put a file in its place would be to destroy it.
    if to.metadata().is_ok_and(|found| !found.is_file()) {
        let mut file = File::options().write(true).open(&to).map_err(Error::io("open", &to))?;
        machines.talk(&machines.child(id)?, context.env())?.get(path, &mut |part| {
            bytes += part.len() as u64;
            file.write_all(part).map_err(Error::io("write", &to))
        })?;
        return Ok(bytes);
    }
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temp = tempfile::Builder::new()
        .prefix(".forkd-cp-")
        .tempfile_in(dir)
        .map_err(Error::io("create a file in", dir))?;
    let mode = machines.talk(&machines.child(id)?, context.env())?.get(path, &mut |part| {
        bytes += part.len() as u64;
        temp.write_all(part).map_err(Error::io("write", &to))
    })?;
    // A guest's set-user-id bits are not for this host, nor what the user's mask keeps from others.
    temp.as_file()
        .set_permissions(fs::Permissions::from_mode(mode & 0o777 & !umask()))
        .map_err(Error::io("write", &to))?;
    temp.persist(&to).map_err(|e| Error::io("create", &to)(e.error))?;
    Ok(bytes)
}
