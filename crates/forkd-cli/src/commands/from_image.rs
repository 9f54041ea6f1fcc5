use super::machine_args::MachineArgs;
use crate::config;
use crate::context::Context;
use anyhow::Result;
use forkd_app::FromImageRequest;
use forkd_format::Tag;
use std::time::Duration;

/// Make a snapshot of a container image: no Docker, no root
#[derive(Debug, clap::Args)]
#[command(
    after_help = "IMAGE is a registry's (python:3.12-slim, ghcr.io/owner/name@sha256:…), oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE, or dir:DIR.\n\
                  Programs run with the image's environment, folder and user.\n\nExamples:\n  \
                  forkd from-image python:3.12-slim --tag py --warm 'python3 -c \"import json\"'\n  \
                  forkd from-image debian:stable-slim --tag tools --extra git curl\n  \
                  forkd from-image oci:./layout:v1 --tag mine"
)]
pub(crate) struct FromImageArgs {
    /// The image
    image: String,
    /// The snapshot to make
    #[arg(long)]
    tag: Tag,
    /// Packages that the image's own package manager (apt or apk) installs, in a guest with a network
    #[arg(long, value_name = "PKG", num_args = 1..)]
    extra: Vec<String>,
    /// Size of the root disk [default: what is on it, a quarter more, and 1 GiB]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=16_777_216))]
    size_mib: Option<u64>,
    /// Guest memory
    #[arg(long, default_value_t = 512, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..=1_048_576))]
    mem_size_mib: u64,
    #[command(flatten)]
    machine: MachineArgs,
    /// Run in the guest, as the image's user, once it has booted; programs that it leaves running are frozen with it
    #[arg(long, value_name = "CMD")]
    warm: Option<String>,
    /// Run in the guest again and again until it succeeds: then the guest is ready to be frozen
    #[arg(long, value_name = "CMD")]
    ready: Option<String>,
    /// How long the guest may take to boot, and how long until it is ready
    #[arg(long, default_value_t = 120, value_name = "SECS")]
    boot_wait_secs: u64,
    /// Which of an image for several platforms
    #[arg(long, default_value = "linux/amd64")]
    platform: String,
    /// Make the root disk anew, with today's packages
    #[arg(long)]
    no_cache: bool,
}

pub(crate) fn run(args: &FromImageArgs, context: &Context<'_>) -> Result<()> {
    let settings = config::settings()?;
    let request = FromImageRequest {
        tag: args.tag.clone(),
        machine: args.machine.request(),
        image: args.image.parse()?,
        platform: args.platform.parse()?,
        packages: args.extra.clone(),
        size_mib: args.size_mib,
        memory_mib: args.mem_size_mib,
        boot_wait: Duration::from_secs(args.boot_wait_secs),
        warm: args.warm.clone(),
        ready: args.ready.clone(),
        fresh: args.no_cache,
    };
    let baked = context.app(&settings).from_image(&request)?;
    context.output.line(&format!("  next: forkd fork --tag {} -n <N>", args.tag));
    context.output.json(&baked);
    Ok(())
}
