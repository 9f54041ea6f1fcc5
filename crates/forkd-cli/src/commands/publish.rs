use crate::config;
use crate::context::Context;
use crate::hub_names::hub_place;
use crate::output::mib;
use anyhow::Result;
use forkd_app::{HubPlace, PackRequest, Publication, PublishRequest, PublishTarget, PublishTerms};
use forkd_core::{Error, Kind, PackKind, PackOptions, PublishOutcome, PublishReport, PublishedPack};
use forkd_format::manifest::BaseKind;
use forkd_format::{Reference, Tag};
use std::path::{Path, PathBuf};

/// Publish a snapshot as a version of a package: packs it, uploads what is missing, and lists it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  forkd publish pyagent acme/pyagent@v2 --to /srv/hub\n  \
forkd publish pyagent acme/pyagent@v2 --to s3://acme-hub/forkd\n  \
forkd publish pyagent acme/pyagent@v2 --to registry.json --release-assets dist")]
pub(crate) struct PublishArgs {
    /// The snapshot
    tag: Tag,
    /// What it is called on the hub: owner/name[@version]
    name: Reference,
    /// The hub: a folder, s3://BUCKET[/PREFIX] or oci://HOST[/NAMESPACE] [env: FORKD_HUB_URL]
    #[arg(long, value_name = "HUB")]
    to: Option<String>,
    /// Write what is to be uploaded to a folder instead, for a release on GitHub or any web server; --to names the registry.json
    #[arg(long, value_name = "DIR")]
    release_assets: Option<PathBuf>,
    /// Where the assets will be found [default: the GitHub release hub-NAME-VERSION of OWNER/forkd-snapshots]
    #[arg(long, value_name = "URL", requires = "release_assets")]
    asset_url: Option<String>,
    /// For people [default: what the snapshot came with]
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The container image behind the root disk [default: what the snapshot came with]
    #[arg(long, value_name = "IMAGE")]
    base_image: Option<String>,
    /// Where its recipe lies, for people
    #[arg(long, value_name = "PATH")]
    recipe_path: Option<String>,
    /// Make it what `forkd pull owner/name` gives (the default)
    #[arg(long, overrides_with = "no_latest")]
    latest: bool,
    /// Leave `latest` as it is
    #[arg(long)]
    no_latest: bool,
    /// Give a version that is there other bytes
    #[arg(long)]
    replace: bool,
    /// Put it beside what the version is for other engines and processors: a pull takes the one that its host runs best
    #[arg(long)]
    variant: bool,
    /// Say what would be sent, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// zstd compression level
    #[arg(long, value_name = "1..22", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
}

pub(crate) fn run(args: &PublishArgs, context: &Context<'_>) -> Result<()> {
    if args.name.digest.is_some() {
        return Err(
            Error::new(Kind::Usage, "a digest is known when a version is packed; name a version").into()
        );
    }
    let settings = config::settings()?;
    settings.store.load(&args.tag)?;
    let target = target(args)?;
    let request = PublishRequest {
        pack: PackRequest {
            tag: args.tag.clone(),
            description: args.description.clone(),
            base_image: args.base_image.clone(),
            level: args.level,
            depth: PackOptions::DEPTH,
            format: None,
            bases: Vec::new(),
            kernel: false,
            connections: context.connections,
        },
        terms: PublishTerms {
            reference: args.name.clone(),
            recipe_path: args.recipe_path.clone(),
            latest: !args.no_latest,
            replace: args.replace,
            variant: args.variant,
            dry_run: args.dry_run,
        },
    };
    let output = context.output;
    let place = match &target {
        PublishTarget::Hub(hub) => hub.to_string(),
        PublishTarget::Assets { .. } => {
            args.release_assets.iter().map(|dir| dir.display().to_string()).collect()
        }
    };
    output.line(&format!("==> publishing '{}' as {} → {place}", args.tag, args.name));
    let publication = context.app(&settings).publish(&request, &target, &mut |pack| {
        output.line(&format!("  {:>10}  {}", mib(pack.size), purpose(pack)));
    })?;
    match &publication {
        Publication::Packs(report) => {
            tell(report, context);
            if let (Some(dir), PublishOutcome::Published) = (&args.release_assets, report.outcome) {
                next_for_assets(args, dir, report, context);
            } else if let PublishTarget::Hub(hub) = &target {
                output.line(&format!("  next: forkd pull {} --hub {}", args.name, hub.index_name()));
            }
            output.json(report);
        }
        Publication::Release(report) => {
            let there = mib(report.size - report.sent);
            output.line(&format!("✓ published {}: sent {}; {there} were there", args.name, mib(report.sent)));
            output.line(&format!("  {}@sha256:{}", report.repository, report.digest));
            output.line(&format!("  next: forkd pull {} --hub {place}", args.name));
            output.json(report);
        }
    }
    Ok(())
}

fn target(args: &PublishArgs) -> forkd_core::Result<PublishTarget> {
    let Some(dir) = &args.release_assets else {
        let hub = config::publishing_hub(args.to.as_deref()).map_err(|error| match args.to {
            Some(_) => error,
            None => error.hint("add --to HUB: a folder, s3://BUCKET/PREFIX or oci://HOST/NAMESPACE"),
        })?;
        return match hub {
            HubPlace::Web(_) => Err(Error::new(Kind::Usage, format!("{hub} is read over HTTP only"))
                .hint("publish to the bucket or the folder behind it")),
            hub => Ok(PublishTarget::Hub(hub)),
        };
    };
    let (owner, name) = args.name.package.split_once('/').unwrap_or_default();
    let release = release_name(name, &args.name.version);
    let default = format!("https://github.com/{owner}/forkd-snapshots/releases/download/{release}/");
    let Some(registry) = args.to.as_deref() else {
        let message = "--release-assets changes a registry, and --to names none";
        return Err(Error::new(Kind::Usage, message)
            .hint("add --to with the registry.json, or the URL, that is to list it"));
    };
    Ok(PublishTarget::Assets {
        dir: std::path::absolute(dir).map_err(Error::io("find", dir))?,
        url: args.asset_url.clone().unwrap_or(default),
        hub: hub_place(registry, "--to")?,
    })
}

/// The name of a release on GitHub, as the public registry has them.
fn release_name(name: &str, version: &str) -> String {
    let version = if version.starts_with('v') { version.to_owned() } else { format!("v{version}") };
    format!("hub-{name}-{version}")
}

/// What a pack is for, in words.
fn purpose(pack: &PublishedPack) -> String {
    match pack.kind {
        PackKind::Stream => "for every host".to_owned(),
        PackKind::Paged => "format 3: only what a host lacks is fetched".to_owned(),
        PackKind::Kernel => "format 3, with the guest's kernel apart".to_owned(),
        PackKind::Update => {
            let base = pack.bases.iter().find(|base| !base.is_unused() && base.kind == BaseKind::Snapshot);
            let name = base.map_or("an earlier version", |base| base.name.as_str());
            format!("format 3, for hosts that have '{}'", crate::output::printable(name))
        }
    }
}

fn tell(report: &PublishReport, context: &Context<'_>) {
    let (reference, sent) = (&report.reference, mib(report.sent_bytes));
    let latest = if report.latest && reference.version != "latest" { ", which is `latest` now" } else { "" };
    context.output.line(&match report.outcome {
        PublishOutcome::Unchanged => format!("✓ {reference} is there already, with the same bytes"),
        PublishOutcome::Planned => format!("would send {sent} and list {reference}{latest}"),
        PublishOutcome::Published => format!("✓ published {reference}{latest}: sent {sent}"),
    });
    for pack in &report.packs {
        context.output.line(&format!("  {}  {}  {} bytes", pack.id, pack.file_name, pack.size));
    }
}

/// What is left to be done where files are hosted elsewhere.
fn next_for_assets(args: &PublishArgs, dir: &Path, report: &PublishReport, context: &Context<'_>) {
    let (owner, name) = args.name.package.split_once('/').unwrap_or_default();
    let release = release_name(name, &args.name.version);
    let dir = dir.display();
    let output = context.output;
    output.line(&format!("  {dir}/registry.json lists it; {dir}/SHA256SUMS has the digests"));
    output.line("  next:");
    output.line(&format!("    gh release create {release} --repo {owner}/forkd-snapshots \\"));
    output.line(&format!("        --title \"Hub: {}\" --notes \"\" \\", args.name));
    let mut files: Vec<String> =
        report.packs.iter().map(|pack| format!("{dir}/{}", pack.file_name)).collect();
    let kernels = report.packs.iter().flat_map(|pack| &pack.bases);
    let kernels = kernels.filter(|base| base.kind == BaseKind::Kernel && !base.is_unused());
    files.extend(kernels.map(|base| format!("{dir}/{}", base.file_name())));
    files.push(format!("{dir}/SHA256SUMS"));
    files.sort();
    files.dedup();
    output.line(&format!("        {}", files.join(" \\\n        ")));
    output.line("    # in a clone of the registry's repository, on a branch:");
    output.line(&format!("    cp {dir}/registry.json registry.json"));
    output.line(&format!("    git commit -m \"Add {}\" registry.json && gh pr create --fill", args.name));
}
