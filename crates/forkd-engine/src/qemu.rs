//! QEMU, with the arguments that make a snapshot restore elsewhere (docs/engine.md).

use crate::kernel::Kernel;
use crate::platform::{CPU, DEVICES, MACHINE, accel, check, check_engine, host_cpu, memory_bytes};
use crate::process::Process;
use crate::qmp::Qmp;
use crate::vm::QemuVm;
use forkd_core::machine::{
    ALIVE, Accel, Access, Engine, Files, Limits, Machine, Network, PORTS, PROTOCOL, Vm, is_held,
};
use forkd_core::store::StoredSnapshot;
use forkd_core::{Env, Error, Kind, Result};
use forkd_format::manifest::VMSTATE;
use forkd_format::{Digest, Snapshot};
use forkd_sys::LockKind;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const PROGRAM: &str = "qemu-system-x86_64";
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=3 mitigations=off no_timer_check cryptomgr.notests \
rcupdate.rcu_expedited=1 psi=0 i8042.noaux i8042.nokbd clocksource=hpet tsc=unstable panic=-1 init_on_free=1 \
nokaslr norandmaps";
/// The engine that runs machines in processes of `qemu-system-x86_64`.
#[derive(Debug)]
pub struct Qemu {
    program: PathBuf,
}

impl Qemu {
    /// Whether this host has what a snapshot runs under, where nothing else of it is known yet.
    ///
    /// # Errors
    /// [`forkd_core::Kind::Incompatible`] with what is needed and what is here.
    pub fn check_engine(&self, snapshot: &Snapshot) -> Result<()> {
        check_engine(snapshot)
    }

    /// Finds QEMU in the folders of a `PATH`.
    ///
    /// # Errors
    /// [`Kind::Incompatible`] with what to install.
    pub fn find(path: Option<&std::ffi::OsStr>) -> Result<Self> {
        let dirs = path.map(std::env::split_paths).into_iter().flatten();
        dirs.map(|dir| dir.join(PROGRAM))
            .find(|program| program.is_file())
            .map(|program| Self { program })
            .ok_or_else(|| {
                let message = format!("{PROGRAM} is not installed (Debian: apt-get install qemu-system-x86)");
                Error::new(Kind::Incompatible, message)
            })
    }

    /// One that starts nothing: for what runs already.
    #[must_use]
    pub fn unfound() -> Self {
        Self { program: PathBuf::from(PROGRAM) }
    }

    /// What `--version` says it is, such as 7.2.9.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn version(&self) -> Result<String> {
        let output =
            Command::new(&self.program).arg("--version").output().map_err(Error::io("run", &self.program))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.split_whitespace().nth(3).unwrap_or("unknown").to_owned())
    }

    /// Whether it has the machine that snapshots are baked on.
    ///
    /// # Errors
    /// [`Kind::Incompatible`] where QEMU is too old for it.
    pub fn has_machine(&self) -> Result<()> {
        let output = Command::new(&self.program)
            .args(["-M", "help"])
            .output()
            .map_err(Error::io("run", &self.program))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if text.lines().any(|line| line.split_whitespace().next() == Some(MACHINE)) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Incompatible,
            format!("QEMU does not know the machine {MACHINE}; 7.2 and later do"),
        ))
    }

    /// What all machines have in common. Sockets and logs go to `run`.
    fn command(&self, accel: Accel, memory: u64, files: Option<&Files>, run: &Path) -> Command {
        let mut command = Command::new(&self.program);
        let path = |path: &Path| path.display().to_string().replace(',', ",,");
        let mut arg = |name: &str, value: &str| {
            command.arg(name).arg(value);
        };
        arg("-M", &format!("{MACHINE},memory-backend=mem,usb=off,vmport=off,sata=off,smbus=off"));
        arg("-accel", accel.name());
        arg("-cpu", &format!("{CPU},enforce"));
        arg("-smp", "1");
        arg("-m", &format!("{memory}B"));
        match files {
            Some(files) => {
                let shared = files.access == Access::Shared;
                let share = if shared { "on" } else { "off" };
                let mem_path = path(&files.memory);
                arg(
                    "-object",
                    &format!("memory-backend-file,id=mem,size={memory}B,mem-path={mem_path},share={share}"),
                );
                // A child's writes go to an overlay of its own, which QEMU has deleted already. A full disk is the guest's to report.
                let overlay = if shared { "snapshot=off,cache=unsafe" } else { "snapshot=on" };
                let disk = path(&files.rootfs);
                arg(
                    "-drive",
                    &format!("if=none,id=disk0,format=raw,file={disk},{overlay},werror=report,rerror=report"),
                );
                arg("-device", "virtio-blk-pci,drive=disk0,addr=0x3");
            }
            None => arg("-object", &format!("memory-backend-ram,id=mem,size={memory}B")),
        }
        arg("-device", &format!("virtio-serial-pci,id=ports,addr=0x4,max_ports={}", PORTS + 1));
        for port in 0..PORTS {
            let socket = path(&run.join(format!("guest.{port}")));
            arg("-chardev", &format!("socket,id=ch{port},path={socket},server=on,wait=off"));
            let nr = port + 1;
            arg("-device", &format!("virtserialport,bus=ports.0,nr={nr},chardev=ch{port},name=forkd.{port}"));
        }
        arg("-chardev", &format!("file,id=console,path={}", path(&run.join("console"))));
        arg("-serial", "chardev:console");
        arg("-qmp", &format!("unix:{},server=on,wait=off", path(&run.join("qmp"))));
        arg("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command
    }

    /// A network card is always there; what it is plugged into is not part of what is frozen.
    fn network(command: &mut Command, netdev: Option<&str>) {
        // Alone on a hub: plugged into nothing.
        command.arg("-netdev").arg(format!("{},id=n0", netdev.unwrap_or("hubport,hubid=0")));
        let card =
            "virtio-net-pci,id=net0,netdev=n0,addr=0x5,mac=52:54:00:66:6b:64,romfile=,guest_announce=off";
        command.arg("-device").arg(card);
    }

    fn boot_command(&self, machine: &Machine, files: Option<&Files>, run: &Path) -> Command {
        let mut command = self.command(machine.accel, machine.memory, files, run);
        // Without the offloads that only a tap has: a child without one could not go on with them.
        let netdev = match &machine.network {
            Network::None => None,
            Network::Tap(tap) => Some(format!("tap,ifname={tap},script=no,downscript=no,vnet_hdr=off")),
            Network::User => Some("user".to_owned()),
        };
        Self::network(&mut command, netdev.as_deref());
        command.arg("-kernel").arg(&machine.kernel).arg("-initrd").arg(&machine.initrd);
        command.arg("-append").arg(command_line(machine));
        command
    }

    /// Starts a machine that has no disk and is not to be kept.
    pub(crate) fn boot_bare(&self, machine: &Machine, run: &Path) -> Result<Box<dyn Vm>> {
        start(self.boot_command(machine, None, run), run, None, Limits::default())
    }
}

fn command_line(machine: &Machine) -> String {
    format!("{COMMAND_LINE} {}", machine.append).trim_end().to_owned()
}

fn start(mut command: Command, run: &Path, state: Option<File>, limits: Limits) -> Result<Box<dyn Vm>> {
    let alive = run.join(ALIVE);
    let lock = File::create(&alive).map_err(Error::io("create", &alive))?;
    forkd_sys::try_lock(&lock, LockKind::Exclusive).map_err(Error::io("lock", &alive))?;
    inherit(&mut command, lock);
    let state = state.map(|state| inherit(&mut command, state));
    if let Some(bytes) = limits.memory {
        let name = run.file_name().unwrap_or_default().to_string_lossy();
        crate::cgroup::limit(&mut command, &name, bytes)?;
    }
    let process = Process::start(command, run, limits.detached)?;
    Ok(Box::new(QemuVm { process, run: run.to_owned(), state, limited: limits.memory.is_some() }))
}

/// Leaves a file open in the child; says under which number.
fn inherit(command: &mut Command, file: File) -> i32 {
    let fd = OwnedFd::from(file);
    let number = fd.as_raw_fd();
    forkd_sys::inherit(command, fd);
    number
}

impl Engine for Qemu {
    fn boot(&self, machine: &Machine, files: &Files, run: &Path, _env: Env<'_>) -> Result<Box<dyn Vm>> {
        start(self.boot_command(machine, Some(files), run), run, None, Limits::default())
    }

    fn describe(&self, machine: &Machine) -> Result<Map<String, Value>> {
        self.has_machine()?;
        let kernel = std::fs::read(&machine.kernel).map_err(Error::io("read", &machine.kernel))?;
        let release = Kernel::given(&machine.kernel)?.release;
        let fields = json!({
            "format_version": 1,
            "volumes": [],
            "engine": {
                "name": "qemu",
                "version": self.version()?,
                "machine": MACHINE,
                "accel": machine.accel.name(),
                "cpu": CPU,
                "smp": 1,
                "arch": "x86_64",
                "devices": DEVICES,
            },
            "kernel": {
                "release": release,
                "sha256": Digest::of(&kernel).to_string(),
                "command_line": command_line(machine),
            },
            "guest": { "protocol": PROTOCOL, "ports": PORTS, "clock": "hpet" },
            "baked": { "host_cpu": host_cpu() },
        });
        match fields {
            Value::Object(map) => Ok(map),
            _ => Ok(Map::new()),
        }
    }

    fn check(&self, snapshot: &Snapshot) -> Result<()> {
        check(snapshot)
    }

    fn restore(
        &self,
        snapshot: &StoredSnapshot,
        files: &Files,
        limits: Limits,
        run: &Path,
    ) -> Result<Box<dyn Vm>> {
        let memory = memory_bytes(&snapshot.snapshot)?;
        // QEMU would make a file that is too short longer, in place.
        let found = files.memory.metadata().map_err(Error::io("read", &files.memory))?.len();
        if found != memory {
            let message = format!(
                "{}: {found} bytes; snapshot.json says that {memory} were frozen",
                files.memory.display()
            );
            return Err(Error::new(Kind::Integrity, message));
        }
        let mut command = self.command(accel(&snapshot.snapshot), memory, Some(files), run);
        Self::network(&mut command, limits.network.then_some("user"));
        command.args(["-incoming", "defer"]);
        if files.access == Access::Shown {
            forkd_sys::no_huge_reads(&mut command);
        }
        if let Some(lease) = &files.lease {
            let copy = lease.try_clone().map_err(Error::io("keep open", &files.memory))?;
            forkd_sys::inherit(&mut command, copy.into());
        }
        let vmstate = snapshot.dir.join(VMSTATE);
        let state = File::open(&vmstate).map_err(Error::io("open", &vmstate))?;
        start(command, run, Some(state), limits)
    }

    fn kill(&self, run: &Path) -> Result<()> {
        let alive = run.join(ALIVE);
        let gone = |limit: Duration| {
            let begun = Instant::now();
            while is_held(&alive) {
                if begun.elapsed() > limit {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            true
        };
        if !gone(Duration::ZERO) {
            let stream = forkd_sys::connect(&run.join("qmp")).ok();
            let asked = stream.and_then(|stream| Qmp::new_within(stream, Duration::from_secs(1)).ok());
            let asked = asked.is_some_and(|mut qmp| qmp.execute("quit", &json!({})).is_ok());
            if !asked || !gone(Duration::from_secs(3)) {
                processes_of(run)
                    .into_iter()
                    .try_for_each(forkd_sys::kill)
                    .map_err(Error::io("end the machine of", run))?;
                if !gone(Duration::from_secs(5)) {
                    return Err(Error::new(
                        Kind::General,
                        format!("the machine of {} does not end", run.display()),
                    ));
                }
            }
        }
        crate::cgroup::clear();
        Ok(())
    }
}

/// The processes whose arguments name a machine's folder.
fn processes_of(run: &Path) -> Vec<u32> {
    let needle = format!("unix:{}/qmp,", run.display()).into_bytes();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|words| words.windows(needle.len()).any(|bytes| bytes == needle))
    })
    .collect()
}
