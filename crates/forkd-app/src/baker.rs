//! A kernel, an initramfs and an engine: what every bake needs.

use crate::app::App;
use crate::lines::Lines;
use crate::machines::{Machines, UnnamedFile};
use crate::narrator::{Event, Speaker};
use forkd_core::machine::{
    self, Accel, BakeOptions, BakeReport, Machine, Network, SetUpOptions, Stream, Trial,
};
use forkd_core::{Error, Kind, Result};
use forkd_engine::{Kernel, initramfs};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is to run the guest's processor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AccelChoice {
    /// KVM where a guest is seen to run on it, else TCG.
    #[default]
    Auto,
    /// That one or none.
    Only(Accel),
}

/// The machine that is baked.
#[derive(Debug, Clone, Default)]
pub struct MachineRequest {
    /// A bzImage, or a vmlinux with a PVH entry; `None` for Debian's cloud kernel, from the cache or fetched.
    pub kernel: Option<PathBuf>,
    /// What is to run its processor.
    pub accel: AccelChoice,
}

/// Bakes machines with one kernel under one accelerator.
pub(crate) struct Baker<'a> {
    app: App<'a>,
    machines: Machines,
    kernel: PathBuf,
    initrd: UnnamedFile,
    accel: Accel,
    pub(crate) begun: Instant,
}

impl<'a> Baker<'a> {
    pub(crate) fn open(app: App<'a>, request: &MachineRequest) -> Result<Self> {
        let (begun, settings) = (Instant::now(), app.settings);
        let machines = Machines::open(settings.search_path.as_deref(), &settings.runtime_dir)?;
        let kernel = match &request.kernel {
            Some(image) => Kernel::given(image)?,
            None => Kernel::find(settings.cache_dir()?, app.env.progress)?,
        };
        let initrd = UnnamedFile::create(&initramfs(&kernel)?, &settings.temp_dir)?;
        let accel = choose(request.accel, app, &machines, &kernel, &initrd.path)?;
        Ok(Self { app, machines, kernel: kernel.image, initrd, accel, begun })
    }

    pub(crate) fn machine(&self, memory_mib: u64) -> Machine {
        Machine {
            kernel: self.kernel.clone(),
            initrd: self.initrd.path.clone(),
            append: String::new(),
            memory: memory_mib << 20,
            accel: self.accel,
            network: Network::None,
        }
    }

    pub(crate) fn bake(
        &self,
        options: &BakeOptions,
        trial: &mut dyn FnMut(&mut Trial<'_>) -> Result<()>,
    ) -> Result<BakeReport> {
        let App { settings, env, narrator } = self.app;
        let (tag, memory) = (&options.tag, options.machine.memory);
        narrator.tell(&Event::BakeBegun { tag, memory, accel: self.accel });
        let (engine, runtime) = (&self.machines.engine, &self.machines.runtime);
        self.app.hearing_guest(|output| {
            machine::bake(&settings.store, engine, runtime, options, env, output, trial)
        })
    }

    /// Runs commands as root in a guest with a network, on a disk that is changed in place.
    pub(crate) fn set_up(
        &self,
        disk: &Path,
        memory_mib: u64,
        commands: &[String],
        boot_wait: Duration,
    ) -> Result<()> {
        let App { settings, env, narrator } = self.app;
        let begun = Instant::now();
        narrator.tell(&Event::SetUpBegun);
        let variables = settings.set_up_env.iter().cloned();
        let options = SetUpOptions {
            machine: self.machine(memory_mib),
            disk: disk.to_owned(),
            commands: commands.to_vec(),
            env: variables.chain(["DEBIAN_FRONTEND=noninteractive".to_owned()]).collect(),
            certificates: settings.certificates.clone(),
            boot_wait,
        };
        let (engine, runtime) = (&self.machines.engine, &self.machines.runtime);
        self.app.hearing_guest(|output| machine::set_up(engine, runtime, &options, env, output))?;
        narrator.tell(&Event::SetUpDone(begun.elapsed()));
        Ok(())
    }
}

impl App<'_> {
    /// Hands on what a program in a guest prints while `work` goes on.
    pub(crate) fn hearing_guest<T>(
        &self,
        work: impl FnOnce(&mut dyn FnMut(Stream, &[u8]) -> Result<()>) -> T,
    ) -> T {
        let hear = |stream, line: &[u8]| self.narrator.hear(Speaker::Guest, stream, line);
        let lines = Lines::new(&hear);
        let done = work(&mut |stream, bytes| {
            lines.push(stream, bytes);
            Ok(())
        });
        lines.finish();
        done
    }
}

fn choose(
    choice: AccelChoice,
    app: App<'_>,
    machines: &Machines,
    kernel: &Kernel,
    initrd: &Path,
) -> Result<Accel> {
    if choice == AccelChoice::Only(Accel::Tcg) {
        return Ok(Accel::Tcg);
    }
    let (engine, runtime) = (&machines.engine, &machines.runtime);
    match engine.probe_kvm(&kernel.image, initrd, runtime, app.settings.cache_dir()?, app.env)? {
        Ok(()) => Ok(Accel::Kvm),
        Err(_) if choice == AccelChoice::Auto => Ok(Accel::Tcg),
        Err(why) => Err(Error::new(Kind::Incompatible, format!("no guest runs under KVM here: {why}"))),
    }
}
