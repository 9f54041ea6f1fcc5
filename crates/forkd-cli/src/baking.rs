//! What the commands that bake have in common.

use crate::config;
use crate::context::Context;
use crate::machines::{Machines, unnamed, with_guest_words};
use crate::output::{mib, seconds};
use anyhow::Result;
use forkd_core::machine::{Accel, BakeOptions, Guest, Machine, Network, SetUpOptions};
use forkd_core::{Error, Kind, Store};
use forkd_engine::{Kernel, initramfs};
use forkd_format::Tag;
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What runs the guest's processor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AccelArg {
    /// KVM where a guest is seen to run on it, else TCG
    #[default]
    Auto,
    Kvm,
    Tcg,
}

/// The machine that is baked.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct MachineArgs {
    /// The kernel: a bzImage, or a vmlinux with a PVH entry [default: Debian's cloud kernel, from the cache or fetched]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// What runs the guest's processor; a snapshot made under one cannot go on under the other
    #[arg(long, value_enum, default_value_t = AccelArg::Auto)]
    accel: AccelArg,
}

/// The variables of this host by which programs find their mirrors and proxies.
const PASSED_ON: [&str; 11] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_DEFAULT_TIMEOUT",
    "npm_config_registry",
    "NPM_CONFIG_REGISTRY",
];
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The engine, a kernel and an initramfs.
pub(crate) struct Baker<'a> {
    context: &'a Context<'a>,
    machines: Machines,
    kernel: PathBuf,
    initrd: PathBuf,
    _initrd: File,
    accel: Accel,
    begun: Instant,
}

impl<'a> Baker<'a> {
    pub(crate) fn open(args: &MachineArgs, context: &'a Context<'a>) -> Result<Self> {
        let begun = Instant::now();
        let machines = Machines::open()?;
        let kernel = match &args.kernel {
            Some(image) => Kernel::given(image)?,
            None => Kernel::find(&config::cache_dir()?, context.env().progress)?,
        };
        let (file, initrd) = unnamed(&initramfs(&kernel)?)?;
        let accel = choose(args.accel, context, &machines, &kernel, &initrd)?;
        Ok(Self { context, machines, kernel: kernel.image, initrd, _initrd: file, accel, begun })
    }

    pub(crate) fn machine(&self, memory_mib: u64) -> Machine {
        Machine {
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            append: String::new(),
            memory: memory_mib << 20,
            accel: self.accel,
            network: Network::None,
        }
    }

    /// Bakes, and tells of it; gives the document that tells the same.
    pub(crate) fn bake(
        &self,
        store: &Store,
        options: &BakeOptions,
        trial: &mut dyn FnMut(&mut Guest) -> forkd_core::Result<()>,
    ) -> Result<Value> {
        let (context, tag) = (self.context, &options.tag);
        let memory = mib(options.machine.memory);
        let accel = self.accel.name();
        context.output.line(&format!("==> baking snapshot '{tag}' ({memory} of memory, {accel})"));
        let (engine, runtime) = (&self.machines.engine, &self.machines.runtime);
        let baked = with_guest_words(context, |output| {
            forkd_core::machine::bake(store, engine, runtime, options, context.env(), output, trial)
        })?;
        context.output.line(&format!(
            "✓ snapshot '{tag}' at {}/ in {} (boot {}, warm {}, trial fork {:.2}s)",
            config::display(&baked.path),
            seconds(self.begun.elapsed()),
            seconds(baked.boot),
            seconds(baked.warm),
            baked.trial.as_secs_f64()
        ));
        Ok(json!({
            "tag": tag.as_str(),
            "path": baked.path.display().to_string(),
            "accel": accel,
            "boot_seconds": baked.boot.as_secs_f64(),
            "warm_seconds": baked.warm.as_secs_f64(),
            "trial_seconds": baked.trial.as_secs_f64(),
            "seconds": self.begun.elapsed().as_secs_f64(),
        }))
    }

    /// Runs commands as root in a guest with a network, on a disk that is changed in place.
    pub(crate) fn set_up(
        &self,
        disk: &Path,
        memory_mib: u64,
        commands: &[String],
        boot_wait: Duration,
    ) -> Result<()> {
        let (context, begun) = (self.context, Instant::now());
        context.output.line("==> setting up the disk in a guest with a network");
        let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let certificates = named.into_iter().chain([CERTIFICATES.into()]).find(|path| path.is_file());
        let variables =
            PASSED_ON.iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
        let options = SetUpOptions {
            machine: self.machine(memory_mib),
            disk: disk.to_owned(),
            commands: commands.to_vec(),
            env: variables.chain(["DEBIAN_FRONTEND=noninteractive".to_owned()]).collect(),
            certificates,
            boot_wait,
        };
        let (engine, runtime) = (&self.machines.engine, &self.machines.runtime);
        with_guest_words(context, |output| {
            forkd_core::machine::set_up(engine, runtime, &options, context.env(), output)
        })?;
        context.output.line(&format!("✓ set up in {}", seconds(begun.elapsed())));
        Ok(())
    }
}

/// Refuses a tag that is taken, before anything is fetched.
pub(crate) fn require_free(store: &Store, tag: &Tag) -> Result<()> {
    if store.contains(tag) {
        let path = config::display(&store.dir(tag));
        let message = format!("'{tag}' is already at {path}");
        return Err(Error::new(Kind::General, message).hint(format!("`forkd rmi {tag}` first")).into());
    }
    Ok(())
}

fn choose(
    accel: AccelArg,
    context: &Context<'_>,
    machines: &Machines,
    kernel: &Kernel,
    initrd: &Path,
) -> Result<Accel> {
    if accel == AccelArg::Tcg {
        return Ok(Accel::Tcg);
    }
    let cache = config::cache_dir()?;
    let (engine, runtime) = (&machines.engine, &machines.runtime);
    match engine.probe_kvm(&kernel.image, initrd, runtime, &cache, context.env())? {
        Ok(()) => Ok(Accel::Kvm),
        Err(_) if accel == AccelArg::Auto => Ok(Accel::Tcg),
        Err(why) => {
            Err(Error::new(Kind::Incompatible, format!("no guest runs under KVM here: {why}")).into())
        }
    }
}
