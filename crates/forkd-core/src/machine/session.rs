//! A conversation with a machine that runs: greeted, seeded, woken, laid to rest, and what is told when it fails.

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::machine::engine::Vm;
use crate::machine::guest::Guest;
use crate::machine::run_dir::{DetachedChild, RunDir, hex, random};
use forkd_agent::message::{Identity, WakeReport};
use forkd_format::manifest::VMSTATE;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How long the guest may take to come to rest.
pub(crate) const REST_LIMIT: Duration = Duration::from_secs(120);

/// Waits until the guest's agent answers.
///
/// # Errors
/// With the end of the machine's console.
pub fn greet(vm: &mut dyn Vm, run: &RunDir, limit: Duration, env: Env<'_>) -> Result<Guest> {
    let begun = Instant::now();
    let error = loop {
        let left = limit.saturating_sub(begun.elapsed());
        if left.is_zero() {
            let message = format!("the guest does not answer after {} s", limit.as_secs());
            break Error::new(Kind::General, message);
        }
        if let Err(error) = env.cancel.check().and_then(|()| vm.check_alive()) {
            break error;
        }
        let Ok(stream) = crate::machine::engine::connect(run.path(), 0) else {
            std::thread::sleep(Duration::from_millis(3).min(left));
            continue;
        };
        // A machine that stops closes its sockets, or leaves them open and says nothing.
        match Guest::greet(stream, left.min(Duration::from_secs(1)), env.cancel) {
            Ok(Some(guest)) => return Ok(guest),
            Ok(None) => {}
            Err(error) => {
                let why = ended(vm).err();
                break if error.kind() == Kind::Interrupted { error } else { why.unwrap_or(error) };
            }
        }
    };
    Err(with_console(error, run))
}

/// Fails where a machine has ended. One that is just ending closes its sockets first, so it is given a moment.
pub(crate) fn ended(vm: &mut dyn Vm) -> Result<()> {
    (0..10).try_for_each(|_| {
        std::thread::sleep(Duration::from_millis(20));
        vm.check_alive()
    })
}

/// A guest that fails may have failed because its machine did.
pub(crate) fn explain(error: Error, vm: &mut dyn Vm, run: &RunDir) -> Error {
    if error.kind() == Kind::Interrupted {
        return error;
    }
    with_console(ended(vm).err().unwrap_or(error), run)
}

pub(crate) fn with_console(error: Error, run: &RunDir) -> Error {
    if error.kind() == Kind::Interrupted {
        return error;
    }
    if let Some(why) = crate::machine::stopped::why_stopped(run.path()) {
        return why;
    }
    let console = crate::machine::engine::console(run.path()).unwrap_or_else(|| "nothing".into());
    Error::new(error.kind(), format!("{error}; its console ends with:\n  {console}"))
}

/// Brings the guest to rest and freezes its machine.
pub(crate) fn rest(vm: &mut dyn Vm, run: &RunDir, guest: Guest, dir: &Path, env: Env<'_>) -> Result<()> {
    guest.prepare(REST_LIMIT).map_err(|e| explain(e, vm, run))?;
    vm.freeze(&dir.join(VMSTATE), env)
}

/// How long a child may take from its restore to being awake.
pub(crate) const WAKE_LIMIT: Duration = Duration::from_secs(60);

/// A child's clock that may be further behind than this is set again.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::from_millis(40);

/// Gives a guest that has just booted a clock and entropy, for which it would else wait.
pub(crate) fn seed(guest: &mut Guest, network: bool) -> Result<WakeReport> {
    let identity = Identity { clock_ns: clock_ns(), seed: random(32)?, network, ..Identity::default() };
    guest.forked(&identity, WAKE_LIMIT)
}

pub(crate) fn clock_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// Makes a child itself: its clock, its entropy, its names.
pub(crate) fn wake(guest: &mut Guest, id: &str, network: bool) -> Result<WakeReport> {
    let (seed_bytes, machine_id) = (random(32)?, hex(&random(16)?));
    let identity =
        Identity { clock_ns: clock_ns(), seed: seed_bytes, hostname: id.to_owned(), machine_id, network };
    let woken = guest.forked(&identity, WAKE_LIMIT)?;
    // What is left of the way here and back is what the guest's clock is behind, at most: on a busy host too much.
    let mut behind = clock_ns().saturating_sub(woken.clock_ns);
    for _ in 0..3 {
        if Duration::from_nanos(behind) < CLOCK_TOLERANCE {
            break;
        }
        behind = clock_ns().saturating_sub(seed(guest, false)?.clock_ns);
    }
    Ok(woken)
}

/// A conversation with a child that runs already: over whichever of its ports is free.
///
/// # Errors
/// [`Kind::Locked`] where all ports are in use for `limit`.
pub fn talk(child: &DetachedChild, limit: Duration, env: Env<'_>) -> Result<Guest> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        for port in 0..crate::machine::engine::PORTS {
            let Some(lock) = claim(&child.run, port)? else { continue };
            // A greeting that comes while the agent is still busy with who was here before may be lost: then another one.
            let begun = Instant::now();
            while begun.elapsed() < WAKE_LIMIT {
                let stream = crate::machine::engine::connect(&child.run, port);
                if stream.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock) {
                    env.cancel.check()?;
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                let stream =
                    stream.map_err(|e| Error::new(Kind::General, format!("child {}: {e}", child.id)))?;
                if let Some(guest) = Guest::greet(stream, Duration::from_secs(2), env.cancel)? {
                    return Ok(guest.holding(lock));
                }
            }
            let message = format!("child {0} does not answer", child.id);
            return Err(Error::new(Kind::General, message).hint(format!("see `forkd logs {}`", child.id)));
        }
        env.cancel.check()?;
        if begun.elapsed() > limit {
            let resource = format!("child {}", child.id);
            return Err(Error::Locked {
                resource,
                holder: format!("{} others that talk to it", crate::machine::engine::PORTS),
            });
        }
        if !told {
            env.progress.note(&format!(
                "waiting for child {}: {} others talk to it",
                child.id,
                crate::machine::engine::PORTS
            ));
            told = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn claim(run: &std::path::Path, port: usize) -> Result<Option<std::fs::File>> {
    let path: PathBuf = run.join(format!("port.{port}"));
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(false).write(true).custom_flags(forkd_sys::NO_FOLLOW);
    let file = options.open(&path);
    let file = file.map_err(Error::io("open", &path))?;
    let free =
        forkd_sys::try_lock(&file, forkd_sys::LockKind::Exclusive).map_err(Error::io("lock", &path))?;
    Ok(free.then_some(file))
}
