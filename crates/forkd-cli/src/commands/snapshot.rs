use super::Context;
use crate::config;
use crate::machines::{Machines, unnamed, with_guest_words};
use crate::output::{mib, seconds};
use anyhow::Result;
use forkd_core::engine::{Accel, Machine};
use forkd_core::{BakeOptions, Error, Kind};
use forkd_engine::{Kernel, initramfs};
use forkd_format::Tag;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What runs the guest's processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum AccelArg {
    /// KVM where a guest is seen to run on it, else TCG
    Auto,
    Kvm,
    Tcg,
}

/// Boot a machine, warm it, freeze it into a snapshot, and fork that once before anyone sees it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  forkd snapshot --tag demo --rootfs ./demo.ext4 --warm 'python3 /srv/warm.py'\n  \
                  forkd snapshot --tag demo --kernel ./vmlinuz --rootfs ./demo.ext4 --mem-size-mib 1024"
)]
pub(crate) struct Args {
    /// The snapshot to make
    #[arg(long)]
    tag: Tag,
    /// The kernel: a bzImage, or a vmlinux with a PVH entry [default: Debian's cloud kernel, from the cache or fetched]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The root disk: an ext4 image, which is copied
    #[arg(long, value_name = "FILE")]
    rootfs: PathBuf,
    /// Guest memory
    #[arg(long, default_value_t = 512, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..=1_048_576))]
    mem_size_mib: u64,
    /// How long the guest may take to boot, and how long until it is ready
    #[arg(long, default_value_t = 120, value_name = "SECS")]
    boot_wait_secs: u64,
    /// Run in the guest once it has booted; programs that it leaves running are frozen with it
    #[arg(long, value_name = "CMD")]
    warm: Option<String>,
    /// Run in the guest again and again until it succeeds: then the guest is ready to be frozen
    #[arg(long, value_name = "CMD")]
    ready: Option<String>,
    /// A tap interface of this host's that the guest's eth0 is plugged into while it is baked
    #[arg(long, value_name = "DEV")]
    tap: Option<String>,
    /// What runs the guest's processor; a snapshot made under one cannot go on under the other
    #[arg(long, value_enum, default_value_t = AccelArg::Auto)]
    accel: AccelArg,
    /// Added to the kernel's command line
    #[arg(long, default_value = "", value_name = "ARGS", hide_default_value = true)]
    append: String,
}

pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<()> {
    let begun = Instant::now();
    let store = config::store()?;
    if store.contains(&args.tag) {
        let path = config::display(&store.dir(&args.tag));
        let message = format!("'{0}' is already at {path}; `forkd rmi {0}` first", args.tag);
        return Err(Error::new(Kind::General, message).into());
    }
    if let Some(tap) = args.tap.as_ref().filter(|tap| !is_interface(tap)) {
        return Err(
            Error::new(Kind::Usage, format!("--tap: '{tap}' is no network interface of this host")).into()
        );
    }
    let machines = Machines::open()?;
    let kernel = match &args.kernel {
        Some(image) => Kernel::given(image)?,
        None => Kernel::find(&config::cache_dir()?, context.env().progress)?,
    };
    let (_initrd, initrd) = unnamed(&initramfs(&kernel)?)?;
    let accel = choose(args, context, &machines, &kernel, &initrd)?;
    let machine = Machine {
        kernel: kernel.image,
        initrd,
        append: args.append.clone(),
        memory: args.mem_size_mib << 20,
        accel,
        tap: args.tap.clone(),
    };
    let options = BakeOptions {
        tag: args.tag.clone(),
        machine,
        rootfs: args.rootfs.clone(),
        boot_wait: Duration::from_secs(args.boot_wait_secs),
        warm: args.warm.clone(),
        ready: args.ready.clone(),
        created_at: config::timestamp()?,
    };
    let memory = mib(args.mem_size_mib << 20);
    context.output.line(&format!(
        "==> baking snapshot '{}' ({memory} of memory, {})",
        args.tag,
        accel.name()
    ));
    let baked = with_guest_words(context, |output| {
        forkd_core::bake(&store, &machines.engine, &machines.runtime, &options, context.env(), output)
    })?;
    context.output.line(&format!(
        "✓ snapshot '{}' at {}/ in {} (boot {}, warm {}, trial fork {:.2}s)",
        args.tag,
        config::display(&baked.path),
        seconds(begun.elapsed()),
        seconds(baked.boot),
        seconds(baked.warm),
        baked.trial.as_secs_f64()
    ));
    context.output.line(&format!("  next: forkd fork --tag {} -n <N>", args.tag));
    context.output.json(&json!({
        "tag": args.tag,
        "path": baked.path.display().to_string(),
        "accel": accel.name(),
        "boot_seconds": baked.boot.as_secs_f64(),
        "warm_seconds": baked.warm.as_secs_f64(),
        "trial_seconds": baked.trial.as_secs_f64(),
        "seconds": begun.elapsed().as_secs_f64(),
    }));
    Ok(())
}

fn choose(
    args: &Args,
    context: &Context<'_>,
    machines: &Machines,
    kernel: &Kernel,
    initrd: &Path,
) -> Result<Accel> {
    if args.accel == AccelArg::Tcg {
        return Ok(Accel::Tcg);
    }
    let probe = machines.engine.probe_kvm(
        &kernel.image,
        initrd,
        &machines.runtime,
        &config::cache_dir()?,
        context.env(),
    )?;
    match probe {
        Ok(()) => Ok(Accel::Kvm),
        Err(_) if args.accel == AccelArg::Auto => Ok(Accel::Tcg),
        Err(why) => {
            Err(Error::new(Kind::Incompatible, format!("no guest runs under KVM here: {why}")).into())
        }
    }
}

fn is_interface(name: &str) -> bool {
    !name.contains('/') && !name.contains(',') && Path::new("/sys/class/net").join(name).exists()
}
