//! Before a freeze and after it.

use super::children::{Children, Wake};
use super::image::{User, environment, image};
use super::sys::{self, PageCachePin};
use super::{applet, console, root_files};
use forkd_agent::message::{Identity, WakeReport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime, clock_settime};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const HOOK: &str = "/etc/forkd/forked";
/// Files in memory, and what they stand for.
const NAMES: [(&str, &str); 3] = [
    ("/run/forkd/hostname", "/etc/hostname"),
    ("/run/forkd/machine-id", "/etc/machine-id"),
    ("/run/forkd/hosts", "/etc/hosts"),
];
/// An expression for the eval endpoint: a hook that starts no program.
const HOOK_EVAL: &str = "/etc/forkd/forked.eval";
const HOOK_LIMIT: Duration = Duration::from_secs(10);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// What [`HOOK_EVAL`] held at the freeze.
static EXPRESSION: Mutex<Option<String>> = Mutex::new(None);

/// Makes the guest ready to be frozen. After this nothing in it changes until the host comes back.
pub(super) fn prepare(children: &Children) -> Result<(), String> {
    children.freeze()?;
    bind_names();
    // Read now, from the disk, so that no child has to.
    let expression = fs::read_to_string(HOOK_EVAL).ok();
    *EXPRESSION.lock().unwrap_or_else(PoisonError::into_inner) = expression;
    rustix::fs::sync();
    // Clean pages of files that no program has mapped: a snapshot is smaller without them. Of the others a program has used some and
    // will use them again, though the kernel has not entered each in its tables: a child would wait for its disk.
    let _kept: Vec<PageCachePin> =
        mapped_files().iter().filter_map(|path| PageCachePin::cached(&File::open(path).ok()?).ok()).collect();
    if let Err(error) = fs::write("/proc/sys/vm/drop_caches", "1") {
        console::say(format_args!("cannot drop the page cache: {error}"));
    }
    Ok(())
}

/// Ends all programs and leaves the disk as one that was unmounted: the host then switches the machine off.
pub(super) fn halt(children: &Children) -> Result<(), String> {
    children.end_all();
    rustix::fs::sync();
    let flags = rustix::mount::MountFlags::RDONLY;
    rustix::mount::mount_remount("/", flags, c"")
        .map_err(|e| format!("the disk cannot be unmounted: {}", io::Error::from(e)))
}

/// The files that programs have mapped.
fn mapped_files() -> BTreeSet<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let maps = processes.filter_map(|entry| fs::read_to_string(entry.path().join("maps")).ok());
    maps.flat_map(|maps| {
        maps.lines()
            .filter_map(|line| line.find(" /").and_then(|at| line.get(at + 1..)))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    })
    .filter(|path| !path.starts_with("/dev/") && !path.starts_with("/proc/"))
    .collect()
}

/// Puts the files with the guest's names into memory, so that a child that writes them does not wait for its disk.
fn bind_names() {
    for (file, place) in NAMES {
        // A child that is frozen again has that already.
        if Path::new(file).exists() || File::options().create(true).append(true).open(place).is_err() {
            continue;
        }
        let bound = fs::copy(place, file).and_then(|_| Ok(rustix::mount::mount_bind(file, place)?));
        if let Err(error) = bound {
            console::say(format_args!("cannot keep {place} in memory: {error}"));
        }
    }
}

/// Makes the guest another one than its siblings, and lets its programs go on.
///
/// # Errors
/// Where it would draw the same random numbers as they do; then all stays frozen.
pub(super) fn forked(
    payload: &[u8],
    read_at: Instant,
    children: &Arc<Children>,
) -> Result<WakeReport, String> {
    let identity = Identity::decode(payload).map_err(|e| e.to_string())?;
    let seed = <&[u8; 32]>::try_from(identity.seed.as_slice()).map_err(|_| "the seed is not 32 bytes")?;
    let mut warnings = Vec::new();
    let mut warn = |result: Result<(), String>| warnings.extend(result.err());
    warn(set_clock(identity.clock_ns, read_at));
    sys::add_entropy(seed).map_err(|e| format!("cannot seed the random generator: {e}"))?;
    warn(set_hostname(&identity.hostname));
    warn(set_machine_id(&identity.machine_id));
    if identity.network {
        warn(set_up_network());
    }
    warn(children.thaw());
    // Without a name it is no fork: a guest that has just booted gets a clock and entropy.
    if !identity.hostname.is_empty() {
        // Off while the snapshot was baked (docs/engine.md): what the child starts is laid out at random again.
        warn(write_setting("/proc/sys/kernel/randomize_va_space", "2"));
        warn(eval_hook());
        warn(run_hook(&identity, children));
    }
    let now = Duration::try_from(clock_gettime(ClockId::Realtime)).unwrap_or_default();
    Ok(WakeReport { clock_ns: now.as_nanos() as u64, warnings })
}

fn set_clock(clock_ns: u64, read_at: Instant) -> Result<(), String> {
    let now = Duration::from_nanos(clock_ns) + read_at.elapsed();
    Timespec::try_from(now)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
        .and_then(|now| Ok(clock_settime(ClockId::Realtime, now)?))
        .map_err(|e| format!("cannot set the clock: {e}"))
}

fn set_hostname(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Ok(());
    }
    rustix::system::sethostname(name.as_bytes())
        .map_err(|e| format!("cannot set the host name: {}", io::Error::from(e)))?;
    write_setting("/etc/hostname", name).and(root_files::name_host(name))
}

fn set_machine_id(id: &str) -> Result<(), String> {
    if id.is_empty() {
        return Ok(());
    }
    let written = write_setting("/etc/machine-id", id);
    // Most often it is a link to the other one.
    let second = "/var/lib/dbus/machine-id";
    if fs::symlink_metadata(second).is_ok_and(|found| found.is_file()) {
        write_setting(second, id)?;
    }
    written
}

/// Writes a line into a file. That it is not there and cannot be is fine.
fn write_setting(path: &str, line: &str) -> Result<(), String> {
    match fs::write(path, format!("{line}\n")) {
        Err(error) if Path::new(path).exists() => Err(format!("cannot write {path}: {error}")),
        _ => Ok(()),
    }
}

fn set_up_network() -> Result<(), String> {
    let mut names: Vec<_> = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != "lo")
        .collect();
    names.sort();
    let name = names.first().ok_or("there is no network interface")?;
    sys::interface_up(name, Some((ADDRESS, MASK))).map_err(|e| format!("cannot set up {name}: {e}"))?;
    sys::default_route(GATEWAY).map_err(|e| format!("cannot set the default route: {e}"))?;
    let path = "/etc/resolv.conf";
    let line = format!("nameserver {NAME_SERVER}\n");
    // It may be a link to where nothing is.
    let written =
        fs::write(path, &line).or_else(|_| fs::remove_file(path).and_then(|()| fs::write(path, &line)));
    written.map_err(|e| format!("cannot write {path}: {e}"))
}

fn eval_hook() -> Result<(), String> {
    let expression = EXPRESSION.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(expression) = expression else { return Ok(()) };
    let answer = applet::ask(expression.trim(), HOOK_LIMIT);
    answer.map(drop).map_err(|e| format!("{HOOK_EVAL}: {e}"))
}

/// Runs the guest's own program for becoming another, where it has one.
fn run_hook(identity: &Identity, children: &Arc<Children>) -> Result<(), String> {
    let executable = |found: fs::Metadata| found.is_file() && found.permissions().mode() & 0o111 != 0;
    if !fs::metadata(HOOK).is_ok_and(executable) {
        return Ok(());
    }
    let failed = |e: io::Error| format!("cannot run {HOOK}: {e}");
    // Not the kernel's own seed: who knows that knows the kernel's random numbers.
    let mut fresh = [0; 32];
    File::open("/dev/urandom").and_then(|mut device| device.read_exact(&mut fresh)).map_err(failed)?;
    let (mut reader, writer) = io::pipe().map_err(failed)?;
    let mut command = Command::new(HOOK);
    command
        .env_clear()
        .envs(environment(image(), &User::root()))
        .env("FORKD_HOSTNAME", &identity.hostname)
        .env("FORKD_MACHINE_ID", &identity.machine_id)
        .env("FORKD_SEED", fresh.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(failed)?)
        .stderr(writer);
    rustix::io::ioctl_fionbio(&reader, true).map_err(|e| failed(e.into()))?;
    let wake = Wake::new().map_err(failed)?;
    let (_, hook) = children.start(command, None, false, &wake).map_err(failed)?;
    let until = Instant::now() + HOOK_LIMIT;
    let mut said = Vec::new();
    let mut open = true;
    let code = loop {
        let code = hook.code();
        open = open && listen(&mut reader, &mut said);
        if code.is_some() {
            break code;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            hook.signal(Signal::KILL);
            break None;
        }
        let mut fds = vec![PollFd::new(wake.fd(), PollFlags::IN)];
        if open {
            fds.push(PollFd::new(&reader, PollFlags::IN));
        }
        let _ = poll(&mut fds, Timespec::try_from(left).ok().as_ref());
    };
    let words = String::from_utf8_lossy(&said);
    let last = words.lines().rev().find(|line| !line.trim().is_empty());
    let last = last.map_or(String::new(), |line| format!(": {}", line.trim()));
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(format!("{HOOK} ended with exit code {code}{last}")),
        None => Err(format!("{HOOK} was killed after {} s{last}", HOOK_LIMIT.as_secs())),
    }
}

/// Reads what is there and keeps the end of it; false once no more can come.
fn listen(reader: &mut impl Read, said: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    // Not for ever: a program that writes without end has a time limit too.
    for _ in 0..64 {
        match reader.read(&mut buffer) {
            Ok(0) => return false,
            Ok(len) => {
                said.extend_from_slice(buffer.get(..len).unwrap_or_default());
                said.drain(..said.len().saturating_sub(buffer.len()));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}
