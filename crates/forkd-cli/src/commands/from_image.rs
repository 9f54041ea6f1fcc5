use crate::baking::{Baker, MachineArgs, require_free};
use crate::config;
use crate::context::Context;
use crate::disks::{self, Base, DiskPlan};
use anyhow::Result;
use forkd_core::machine::BakeOptions;
use forkd_core::{Error, Kind};
use forkd_format::{Tag, recipe};
use forkd_image::{ImageSource, Platform};
use std::time::Duration;

/// Make a snapshot of a container image: no Docker, no root
#[derive(Debug, clap::Args)]
#[command(
    after_help = "IMAGE is a registry's (python:3.12-slim, ghcr.io/owner/name@sha256:…), oci:DIR[:TAG], or docker-archive:FILE.\n\
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
    let store = config::store()?;
    require_free(&store, &args.tag)?;
    let source: ImageSource = args.image.parse()?;
    let platform: Platform = args.platform.parse()?;
    if !platform.accepts(&"linux/amd64".parse()?) {
        let message = format!("--platform {platform}: guests are linux/amd64");
        return Err(Error::new(Kind::Incompatible, message).into());
    }
    let baker = Baker::open(&args.machine, context)?;
    let boot_wait = Duration::from_secs(args.boot_wait_secs);
    let disk = disks::make(
        DiskPlan {
            base: Base::Image(source, platform),
            size: args.size_mib.map(|mib| mib << 20),
            files: Vec::new(),
            setup: install(&args.extra)?.into_iter().collect(),
            memory_mib: args.mem_size_mib,
            boot_wait,
            fresh: args.no_cache,
        },
        &baker,
        context,
    )?;
    let options = BakeOptions {
        tag: args.tag.clone(),
        machine: baker.machine(args.mem_size_mib),
        rootfs: disk.path.clone(),
        boot_wait,
        user: String::new(),
        warm: args.warm.clone(),
        ready: args.ready.clone(),
        origin: disk.origin.clone(),
        created_at: config::timestamp()?,
    };
    let mut baked = baker.bake(&store, &options, &mut |_| Ok(()))?;
    drop(disk);
    disks::trim(context)?;
    context.output.line(&format!("  next: forkd fork --tag {} -n <N>", args.tag));
    baked["image"] = options.origin.get("image").cloned().unwrap_or_default();
    context.output.json(&baked);
    Ok(())
}

/// The command by which a guest installs packages.
fn install(packages: &[String]) -> Result<Option<String>> {
    if let Some(wrong) = packages.iter().find(|name| !recipe::is_package(name)) {
        return Err(Error::new(Kind::Usage, format!("--extra: '{wrong}' is no package name")).into());
    }
    let names = packages.join(" ");
    Ok((!packages.is_empty()).then(|| {
        format!(
            "set -e; if command -v apt-get >/dev/null; then \
             apt-get -q update; apt-get -q install -y --no-install-recommends {names}; apt-get clean; rm -rf /var/lib/apt/lists/*; \
             elif command -v apk >/dev/null; then apk add --no-cache {names}; \
             else echo 'the image has neither apt-get nor apk, so --extra cannot install: {names}' >&2; exit 69; fi"
        )
    }))
}
