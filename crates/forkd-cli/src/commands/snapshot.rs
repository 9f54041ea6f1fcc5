use super::Context;
use crate::config;
use crate::output::{mib, seconds};
use anyhow::Result;
use forkd_core::engine::Machine;
use forkd_engine::Qemu;
use forkd_format::Tag;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Boot a machine, wait until its guest answers, and freeze it into a snapshot
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  forkd snapshot --tag demo --kernel ./vmlinuz --initrd ./initrd.img --rootfs ./demo.ext4"
)]
pub(crate) struct Args {
    /// The snapshot to make
    #[arg(long)]
    tag: Tag,
    /// The kernel: bzImage, or vmlinux with a PVH entry
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// The initial RAM filesystem, with the modules that the kernel needs for its root disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The root disk: an ext4 image, which is copied
    #[arg(long, value_name = "FILE")]
    rootfs: PathBuf,
    /// Guest memory
    #[arg(long, default_value_t = 512, value_name = "MIB", value_parser = clap::value_parser!(u64).range(32..=1_048_576))]
    mem_size_mib: u64,
    /// How long the guest may take until it answers
    #[arg(long, default_value_t = 120, value_name = "SECS")]
    boot_wait_secs: u64,
}

pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<()> {
    let machine = Machine {
        kernel: args.kernel.clone(),
        initrd: args.initrd.clone(),
        rootfs: args.rootfs.clone(),
        memory_mib: args.mem_size_mib,
        boot_wait: Duration::from_secs(args.boot_wait_secs),
    };
    let store = config::store()?;
    context.output.line(&format!(
        "==> baking snapshot '{}' ({} of memory)",
        args.tag,
        mib(args.mem_size_mib << 20)
    ));
    let begun = Instant::now();
    let engine = Qemu::find(config::runtime_dir())?;
    let path = forkd_core::bake(&store, &engine, &args.tag, &machine, &config::timestamp()?, context.env())?;
    let time = begun.elapsed();
    context.output.line(&format!(
        "✓ snapshot '{}' at {}/ in {}",
        args.tag,
        config::display(&path),
        seconds(time)
    ));
    context.output.line(&format!("  next: forkd fork --tag {} -n <N>", args.tag));
    context
        .output
        .json(&json!({ "tag": args.tag, "path": path.display().to_string(), "seconds": time.as_secs_f64() }));
    Ok(())
}
