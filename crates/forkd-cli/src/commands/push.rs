use super::pack::PackContent;
use crate::complete;
use crate::config;
use crate::context::Context;
use crate::output::{mib, ratio, seconds};
use anyhow::Result;
use forkd_app::{CONNECTIONS, ReleasePlace, Settings};
use forkd_core::hub::{Location, PartUrls};
use forkd_core::{Error, Kind, PushTarget, ReleaseOptions};
use forkd_format::{Reference, Tag};
use std::path::PathBuf;
use std::time::Duration;

/// Publish a snapshot: to a registry as a release, or packed, by one HTTP PUT
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  forkd push pyagent oci://ghcr.io/owner/pyagent:v1\n  \
forkd push pyagent \"$PRESIGNED_URL\"")]
pub(crate) struct PushArgs {
    #[command(flatten)]
    content: PackContent,
    /// The snapshot, where --tag does not name it; then where to: oci://HOST/NAME[:TAG], s3://BUCKET[/PREFIX]/OWNER/NAME[:TAG], oci-layout:DIR[:TAG], or owner/name[@version] in the
    /// hub that --hub names; http:, https: or file: for a pack
    #[arg(value_names = ["TAG", "TO"], num_args = 1..=2, required_unless_present = "parts", add = complete::tags())]
    words: Vec<String>,
    /// Upload a pack in parts, for more than 5 GiB: a file with presigned URLs, {"part_bytes": N, "parts": [URL…], "complete": URL}
    #[arg(long, value_name = "FILE", conflicts_with_all = ["variant"])]
    parts: Option<PathBuf>,
    /// Keep what the tag names for other engines and processors: a pull takes the one that its host runs best (releases only)
    #[arg(long)]
    variant: bool,
}

/// What is pushed, and where to.
fn tag_and_url(args: &PushArgs) -> Result<(Tag, Option<&str>)> {
    let wrong = |message: &str| {
        Error::new(Kind::Usage, message).hint("forkd push TAG TO, or forkd push --tag TAG TO")
    };
    match (args.words.as_slice(), &args.content.tag) {
        ([], Some(tag)) => Ok((tag.clone(), None)),
        ([tag], None) if args.parts.is_some() => Ok((tag.parse()?, None)),
        ([_], Some(_)) if args.parts.is_some() => {
            Err(wrong("--parts says where to, and so does the URL").into())
        }
        ([url], Some(tag)) => Ok((tag.clone(), Some(url))),
        ([tag, url], None) if args.parts.is_none() => Ok((tag.parse()?, Some(url))),
        ([_, _], _) => Err(wrong("the snapshot is named twice, or the place").into()),
        _ => Err(wrong("no snapshot is named").into()),
    }
}

pub(crate) fn run(args: &PushArgs, context: &Context<'_>) -> Result<()> {
    let (tag, url) = tag_and_url(args)?;
    let tag = &tag;
    if let Some(place) = place(args, url)? {
        let settings = config::settings()?;
        settings.store.load(tag)?;
        return release(args, (tag, &place), &settings, context);
    }
    let target = match (&args.parts, url) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(file).map_err(Error::io("read", file))?;
            PushTarget::Parts(PartUrls::parse(&text)?)
        }
        (None, url) => PushTarget::Whole(Location::parse(url.unwrap_or_default())?),
    };
    let settings = config::settings()?;
    settings.store.load(tag)?;
    let request = args.content.request(tag, &settings.store, context)?;
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
    output.line(&format!("  {}, {size} bytes", report.id));
    output.json(&report);
    Ok(())
}

/// Where a release goes; `None` for a pack.
fn place(args: &PushArgs, url: Option<&str>) -> forkd_core::Result<Option<ReleasePlace>> {
    let Some(url) = url else { return Ok(None) };
    if let Ok(reference) = url.parse::<Reference>() {
        let hub = config::publishing_hub(args.content.hub.as_deref())?;
        return Ok(Some(ReleasePlace::of_package(hub, &reference)));
    }
    ReleasePlace::parse(url)
}

/// Publishes a release.
fn release(
    args: &PushArgs,
    (tag, place): (&Tag, &ReleasePlace),
    settings: &Settings,
    context: &Context<'_>,
) -> Result<()> {
    let content = args.content.release(tag, &settings.store, context)?;
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
