use super::pack::PackContent;
use crate::config;
use crate::context::Context;
use crate::output::{mib, ratio, seconds};
use anyhow::Result;
use forkd_app::{CONNECTIONS, ReleasePlace, Settings};
use forkd_core::hub::{Location, PartUrls};
use forkd_core::{Error, PushTarget, ReleaseOptions};
use forkd_format::Reference;
use std::path::PathBuf;
use std::time::Duration;

/// Publish a snapshot: to a registry as a release, or packed, by one HTTP PUT
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  forkd push --tag pyagent oci://ghcr.io/owner/pyagent:v1\n  \
forkd push --tag pyagent \"$PRESIGNED_URL\"")]
pub(crate) struct PushArgs {
    #[command(flatten)]
    content: PackContent,
    /// Where to: oci://HOST/NAME[:TAG], s3://BUCKET[/PREFIX]/OWNER/NAME[:TAG], oci-layout:DIR[:TAG], or owner/name[@version] in the
    /// hub that --hub names; http:, https: or file: for a pack
    #[arg(value_name = "TO", required_unless_present = "parts")]
    url: Option<String>,
    /// Upload a pack in parts, for more than 5 GiB: a file with presigned URLs, {"part_bytes": N, "parts": [URL…], "complete": URL}
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "variant"])]
    parts: Option<PathBuf>,
    /// Keep what the tag names for other engines and processors: a pull takes the one that its host runs best (releases only)
    #[arg(long)]
    variant: bool,
}

pub(crate) fn run(args: &PushArgs, context: &Context<'_>) -> Result<()> {
    if let Some(place) = place(args)? {
        let settings = config::settings()?;
        settings.store.load(&args.content.tag)?;
        return release(args, &place, &settings, context);
    }
    let target = match (&args.parts, &args.url) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(file).map_err(Error::io("read", file))?;
            PushTarget::Parts(PartUrls::parse(&text)?)
        }
        (None, url) => PushTarget::Whole(Location::parse(url.as_deref().unwrap_or_default())?),
    };
    let settings = config::settings()?;
    let tag = &args.content.tag;
    settings.store.load(tag)?;
    let request = args.content.request(&settings.store, context)?;
    let output = context.output;
    let report = context.app(&settings).push(
        &request,
        &target,
        &mut |temp| output.line(&format!("==> packing snapshot '{tag}' → {}", temp.display())),
        &mut |pack| {
            let compression = ratio(pack.unpacked_size, pack.size);
            let (size, time) = (mib(pack.size), seconds(pack.time));
            output.line(&format!("    packed {size} ({compression}× compression) in {time}"));
        },
    )?;
    let (size, time) = (report.size, report.upload_time);
    output.line(&format!("✓ pushed {} in {} ({}/s)", mib(size), seconds(time), rate(size, time)));
    output.json(&report);
    Ok(())
}

/// Where a release goes; `None` for a pack.
fn place(args: &PushArgs) -> forkd_core::Result<Option<ReleasePlace>> {
    let Some(url) = &args.url else { return Ok(None) };
    if let Ok(reference) = url.parse::<Reference>() {
        let hub = config::publishing_hub(args.content.hub.as_deref())?;
        return Ok(Some(ReleasePlace::of_package(hub, &reference)));
    }
    ReleasePlace::parse(url)
}

/// Publishes a release.
fn release(args: &PushArgs, place: &ReleasePlace, settings: &Settings, context: &Context<'_>) -> Result<()> {
    let tag = &args.content.tag;
    let content = args.content.release(&settings.store, context)?;
    let options = ReleaseOptions { variant: args.variant, ..content };
    let output = context.output;
    output.line(&format!("==> publishing snapshot '{tag}' → {place}"));
    let connections = context.connections.unwrap_or(CONNECTIONS);
    let report = context.app(settings).push_release(&options, place, connections)?;
    let (sent, time) = (report.sent, report.upload_time);
    output.line(&if sent == 0 {
        format!("✓ nothing to send: all of {} is there already", mib(report.size))
    } else {
        let rest = report.size - sent;
        let there = if rest > 0 { format!("; {} were there", mib(rest)) } else { String::new() };
        format!("✓ pushed {} in {} ({}/s){there}", mib(sent), seconds(time), rate(sent, time))
    });
    output.line(&format!("  {}@sha256:{}", report.repository, report.digest));
    output.line(&format!("  next: forkd pull {place}"));
    output.json(&report);
    Ok(())
}

fn rate(bytes: u64, time: Duration) -> String {
    mib((bytes as f64 / time.as_secs_f64().max(1e-3)) as u64)
}
