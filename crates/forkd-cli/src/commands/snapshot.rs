use super::machine_args::MachineArgs;
use crate::config;
use crate::context::Context;
use anyhow::Result;
use forkd_app::SnapshotRequest;
use forkd_format::Tag;
use std::path::PathBuf;
use std::time::Duration;

/// Boot a machine, warm it, freeze it into a snapshot, and fork that once before anyone sees it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  forkd snapshot --tag demo --rootfs ./demo.ext4 --warm 'python3 /srv/warm.py'\n  \
                  forkd snapshot --tag demo --kernel ./vmlinuz --rootfs ./demo.ext4 --mem-size-mib 1024"
)]
pub(crate) struct SnapshotArgs {
    /// The snapshot to make
    #[arg(long)]
    tag: Tag,
    #[command(flatten)]
    machine: MachineArgs,
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
    /// Added to the kernel's command line
    #[arg(long, default_value = "", value_name = "ARGS", hide_default_value = true)]
    append: String,
}

pub(crate) fn run(args: &SnapshotArgs, context: &Context<'_>) -> Result<()> {
    let settings = config::settings()?;
    let request = SnapshotRequest {
        tag: args.tag.clone(),
        machine: args.machine.request(),
        rootfs: args.rootfs.clone(),
        memory_mib: args.mem_size_mib,
        boot_wait: Duration::from_secs(args.boot_wait_secs),
        warm: args.warm.clone(),
        ready: args.ready.clone(),
        append: args.append.clone(),
        tap: args.tap.clone(),
    };
    let baked = context.app(&settings).snapshot(&request)?;
    context.output.line(&format!("  next: forkd fork --tag {} -n <N>", args.tag));
    context.output.json(&baked);
    Ok(())
}
