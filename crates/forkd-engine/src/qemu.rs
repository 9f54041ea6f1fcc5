//! QEMU, with the arguments that make a snapshot restore elsewhere (docs/engine.md).

use crate::channel::Channel;
use crate::process::{Process, tail};
use crate::qmp::Qmp;
use forkd_core::engine::{Child, Engine, Machine};
use forkd_core::store::Stored;
use forkd_core::{Env, Error, Kind, Result};
use forkd_format::manifest::{MEMORY, ROOTFS, VMSTATE};
use forkd_sys::LockKind;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const PROGRAM: &str = "qemu-system-x86_64";
/// A versioned machine: the bare alias changes with QEMU's releases, and a snapshot loads only on the one it was baked on.
const MACHINE: &str = "pc-q35-7.2";
/// x86-64-v2, which every host of the last decade has.
const CPU: &str = "Nehalem-v1";
const ACCEL: &str = "tcg";
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=3 mitigations=off no_timer_check cryptomgr.notests \
rcupdate.rcu_expedited=1 i8042.noaux i8042.nokbd clocksource=hpet tsc=unstable panic=-1 init_on_free=1 root=/dev/vda ro";
const RUN_PREFIX: &str = "forkd-run-";
const FORK_LIMIT: Duration = Duration::from_secs(60);

/// The QEMU of this host.
#[derive(Debug)]
pub struct Qemu {
    version: String,
    runtime: PathBuf,
}

/// A folder for the sockets and logs of one run.
struct RuntimeDir {
    dir: tempfile::TempDir,
    _lock: File,
}

impl RuntimeDir {
    fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Whether a machine is booted to be frozen, or restored.
enum Start<'a> {
    Boot(&'a Machine),
    Restore,
}

impl Qemu {
    /// Finds QEMU on the path. Sockets and logs go to folders in `runtime`, whose path must be short.
    ///
    /// # Errors
    /// [`Kind::Incompatible`] with what to install.
    pub fn find(runtime: PathBuf) -> Result<Self> {
        let output = Command::new(PROGRAM).arg("--version").output().map_err(|e| {
            let message = format!("{PROGRAM}: {e}; install it (Debian: apt-get install qemu-system-x86)");
            Error::new(Kind::Incompatible, message)
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.split_whitespace().nth(3).unwrap_or("unknown").to_owned();
        Ok(Self { version, runtime })
    }

    /// A process for files in `dir`, with its sockets and log in `run`. Bake and restore name the same devices at the same places.
    fn command(&self, start: &Start<'_>, dir: &Path, memory: u64, run: &Path) -> Command {
        let mut command = Command::new(PROGRAM);
        let path = |path: &Path| path.display().to_string().replace(',', ",,");
        let boot = matches!(start, Start::Boot(_));
        let share = if boot { "on" } else { "off" };
        // A child's writes go to an overlay of its own, which QEMU has deleted already.
        let overlay = if boot { "snapshot=off,cache=unsafe" } else { "snapshot=on" };
        let mut arg = |name: &str, value: &str| {
            command.arg(name).arg(value);
        };
        arg("-M", &format!("{MACHINE},memory-backend=mem,usb=off,vmport=off"));
        arg("-accel", ACCEL);
        arg("-cpu", &format!("{CPU},enforce"));
        arg("-smp", "1");
        arg("-m", &format!("{memory}B"));
        let mem_path = path(&dir.join(MEMORY));
        arg(
            "-object",
            &format!("memory-backend-file,id=mem,size={memory}B,mem-path={mem_path},share={share}"),
        );
        arg("-drive", &format!("if=none,id=disk0,format=raw,file={},{overlay}", path(&dir.join(ROOTFS))));
        arg("-device", "virtio-blk-pci,drive=disk0,addr=0x3");
        arg("-chardev", &format!("socket,id=ch0,path={},server=on,wait=off", path(&run.join("guest"))));
        arg("-device", "virtio-serial-pci,addr=0x4");
        arg("-device", "virtserialport,chardev=ch0,name=forkd.0");
        arg("-serial", &format!("file:{}", run.join("console").display()));
        arg("-qmp", &format!("unix:{},server=on,wait=off", path(&run.join("qmp"))));
        arg("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        match start {
            Start::Boot(machine) => {
                command.arg("-kernel").arg(&machine.kernel);
                if let Some(initrd) = &machine.initrd {
                    command.arg("-initrd").arg(initrd);
                }
                command.arg("-append").arg(COMMAND_LINE);
            }
            Start::Restore => {
                command.args(["-incoming", "defer"]);
            }
        }
        command
    }

    /// A folder for sockets: a socket's path must be short, so it is not in the store. It is locked for as long as it is used;
    /// those that killed runs left go first.
    fn runtime_dir(&self) -> Result<RuntimeDir> {
        for entry in std::fs::read_dir(&self.runtime).into_iter().flatten().flatten() {
            let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(RUN_PREFIX));
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
            // One that was made just now may not be locked yet.
            if ours
                && is_dir
                && age.is_some_and(|age| age > Duration::from_secs(2))
                && File::open(entry.path())
                    .is_ok_and(|dir| forkd_sys::try_lock(&dir, LockKind::Exclusive).unwrap_or(false))
            {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let failed = Error::io("create a folder in", &self.runtime);
        let dir = tempfile::Builder::new().prefix(RUN_PREFIX).tempdir_in(&self.runtime).map_err(failed)?;
        let lock = File::open(dir.path()).map_err(Error::io("open", dir.path()))?;
        forkd_sys::try_lock(&lock, LockKind::Exclusive).map_err(Error::io("lock", dir.path()))?;
        Ok(RuntimeDir { dir, _lock: lock })
    }

    fn fields(&self, machine: &Machine) -> Map<String, Value> {
        let fields = json!({
            "volumes": [],
            "engine": {
                "name": "qemu",
                "version": self.version,
                "machine": MACHINE,
                "accel": ACCEL,
                "cpu": CPU,
                "smp": 1,
                "arch": std::env::consts::ARCH,
            },
            "memory_bytes": machine.memory_mib << 20,
            "guest": { "channel": 0 },
        });
        match fields {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

impl Engine for Qemu {
    fn bake(&self, machine: &Machine, into: &Path, env: Env<'_>) -> Result<Map<String, Value>> {
        let inputs = [Some(&machine.kernel), machine.initrd.as_ref(), Some(&machine.rootfs)];
        for input in inputs.into_iter().flatten() {
            if !input.is_file() {
                return Err(Error::new(Kind::NotFound, format!("{} is not a file", input.display())));
            }
        }
        let rootfs = into.join(ROOTFS);
        std::fs::copy(&machine.rootfs, &rootfs).map_err(Error::io("copy to", &rootfs))?;
        let mut mode = rootfs.metadata().map_err(Error::io("copy to", &rootfs))?.permissions();
        mode.set_mode(mode.mode() | 0o600);
        std::fs::set_permissions(&rootfs, mode).map_err(Error::io("copy to", &rootfs))?;
        let run = self.runtime_dir()?;
        let command = self.command(&Start::Boot(machine), into, machine.memory_mib << 20, run.path());
        let mut process = Process::start(command, run.path())?;
        let mut qmp = monitor(&mut process, run.path(), env)?;
        wait_for_guest(&mut process, run.path(), machine.boot_wait, env)?;
        // The channel is closed by now, so that no half-sent line is frozen in the guest.
        std::thread::sleep(Duration::from_millis(100));
        qmp.execute("stop", &json!({}))?;
        qmp.ignore_shared()?;
        save_state(&mut qmp, &run.path().join("state"), &into.join(VMSTATE))?;
        qmp.wait_migrated(FORK_LIMIT, env.cancel)?;
        // An answer may not come any more.
        let _ = qmp.execute("quit", &json!({}));
        process.wait(Duration::from_secs(10));
        Ok(self.fields(machine))
    }

    fn check(&self, snapshot: &Stored) -> Result<()> {
        let refuse =
            |message: String| Err(Error::new(Kind::Incompatible, format!("'{}': {message}", snapshot.tag)));
        let Some(engine) = snapshot.snapshot.get("engine") else {
            return refuse(
                "snapshot.json has no 'engine': another tool baked it, and QEMU cannot restore it".into(),
            );
        };
        let here = [
            ("name", "qemu"),
            ("machine", MACHINE),
            ("accel", ACCEL),
            ("cpu", CPU),
            ("arch", std::env::consts::ARCH),
        ];
        for (field, value) in here {
            let needed = engine.get(field).and_then(Value::as_str).unwrap_or("nothing");
            if needed != value {
                return refuse(format!(
                    "snapshot.json: engine.{field} needs '{needed}'; this host has '{value}'"
                ));
            }
        }
        let memory = snapshot.dir.join(MEMORY);
        let found = memory.metadata().map_err(Error::io("read", &memory))?.len();
        match snapshot.snapshot.get("memory_bytes").and_then(Value::as_u64) {
            Some(needed) if needed == found => Ok(()),
            needed => {
                refuse(format!("{} has {found} bytes; snapshot.json says {needed:?}", memory.display()))
            }
        }
    }

    fn fork(
        &self,
        snapshot: &Stored,
        count: usize,
        env: Env<'_>,
        answered: &mut dyn FnMut(&Child),
    ) -> Result<()> {
        let memory = snapshot.dir.join(MEMORY).metadata().map_err(Error::io("read", &snapshot.dir))?.len();
        let run = self.runtime_dir()?;
        let mut children = Vec::new();
        for number in 1..=count {
            env.cancel.check()?;
            let dir = run.path().join(number.to_string());
            std::fs::create_dir(&dir).map_err(Error::io("create", &dir))?;
            let begun = Instant::now();
            let mut command = self.command(&Start::Restore, &snapshot.dir, memory, &dir);
            let path = snapshot.dir.join(VMSTATE);
            let state = inherit(&mut command, File::open(&path).map_err(Error::io("open", &path))?);
            children.push((number, begun, Process::start(command, &dir)?, dir, state));
        }
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            for (number, begun, process, dir, state) in &mut children {
                let sender = sender.clone();
                scope.spawn(move || {
                    let answer = resume(process, dir, *state, *number, env);
                    let _ = sender.send(answer.map(|answer| Child {
                        number: *number,
                        answer,
                        time: begun.elapsed(),
                    }));
                });
            }
            drop(sender);
            receiver.iter().try_for_each(|child| child.map(|child| answered(&child)))
        })
    }
}

/// Restores one child and asks it for an answer.
fn resume(process: &mut Process, dir: &Path, state: i32, number: usize, env: Env<'_>) -> Result<String> {
    let mut qmp = monitor(process, dir, env)?;
    qmp.ignore_shared()?;
    qmp.execute("migrate-incoming", &json!({ "uri": format!("fd:{state}") }))?;
    qmp.wait_migrated(FORK_LIMIT, env.cancel)
        .map_err(|e| Error::new(e.kind(), format!("child {number}: {e}; {}", process.last_words())))?;
    qmp.execute("cont", &json!({}))?;
    let token = format!("child-{number}");
    let mut channel = connect_guest(process, dir, env)?;
    match channel.ping(&token, Duration::from_secs(5), FORK_LIMIT, env.cancel)? {
        Some(answer) => Ok(answer),
        None => Err(Error::new(
            Kind::General,
            format!("child {number} does not answer; {}", process.last_words()),
        )),
    }
}

/// Waits until the booting guest answers its first ping.
fn wait_for_guest(process: &mut Process, run: &Path, limit: Duration, env: Env<'_>) -> Result<()> {
    let begun = Instant::now();
    let mut channel = connect_guest(process, run, env)?;
    let what = loop {
        if begun.elapsed() >= limit {
            break format!("the guest does not answer after {} s", limit.as_secs());
        }
        match channel.ping("bake", Duration::from_millis(500), Duration::from_secs(1), env.cancel) {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => process.check_alive()?,
            Err(error) if error.kind() == Kind::Interrupted => return Err(error),
            Err(_) => break format!("the guest stopped while it booted ({})", process.last_words()),
        }
    };
    let console = tail(&run.join("console")).unwrap_or_else(|| "nothing".into());
    Err(Error::new(Kind::General, format!("{what}; its console ends with:\n  {console}")))
}

/// The monitor of a process that was just started. One that ends instead says why in its log.
fn monitor(process: &mut Process, run: &Path, env: Env<'_>) -> Result<Qmp> {
    let stream = process.connect(&run.join("qmp"), env.cancel)?;
    Qmp::new(stream).map_err(|e| Error::new(e.kind(), format!("{e}; {}", process.last_words())))
}

fn connect_guest(process: &mut Process, run: &Path, env: Env<'_>) -> Result<Channel> {
    let path = run.join("guest");
    Channel::new(process.connect(&path, env.cancel)?).map_err(Error::io("connect to", &path))
}

/// Lets QEMU write the device state to a socket, and that to a file: it may open no files of its own any more.
fn save_state(qmp: &mut Qmp, socket: &Path, vmstate: &Path) -> Result<()> {
    let failed = || Error::io("write", vmstate);
    let mut file = File::create_new(vmstate).map_err(failed())?;
    let listener = UnixListener::bind(socket).map_err(Error::io("create", socket))?;
    listener.set_nonblocking(true).map_err(Error::io("create", socket))?;
    qmp.execute("migrate", &json!({ "uri": format!("unix:{}", socket.display()) }))?;
    let begun = Instant::now();
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(_) if begun.elapsed() < Duration::from_secs(10) => {
                std::thread::sleep(Duration::from_millis(2))
            }
            Err(e) => return Err(Error::io("receive the machine's state at", socket)(e)),
        }
    };
    stream.set_nonblocking(false).map_err(failed())?;
    stream.set_read_timeout(Some(FORK_LIMIT)).map_err(failed())?;
    std::io::copy(&mut stream, &mut file).map_err(failed())?;
    Ok(())
}

/// Leaves a file open in the child; says under which number.
fn inherit(command: &mut Command, file: File) -> i32 {
    let fd = OwnedFd::from(file);
    let number = fd.as_raw_fd();
    forkd_sys::inherit(command, fd);
    number
}
