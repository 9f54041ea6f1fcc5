use super::pack::PackContent;
use crate::config;
use crate::context::Context;
use crate::output::{mib, ratio, seconds};
use anyhow::Result;
use forkd_core::hub::Location;

/// Pack a snapshot and upload it with one HTTP PUT, to a presigned URL for instance
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd push --tag pyagent \"$PRESIGNED_URL\"")]
pub(crate) struct PushArgs {
    #[command(flatten)]
    content: PackContent,
    /// Where to: http:, https: or file:
    url: String,
}

pub(crate) fn run(args: &PushArgs, context: &Context<'_>) -> Result<()> {
    let location = Location::parse(&args.url)?;
    let settings = config::settings()?;
    let tag = &args.content.tag;
    settings.store.load(tag)?;
    let request = args.content.request(&settings.store, context)?;
    let output = context.output;
    let report = context.app(&settings).push(
        &request,
        &location,
        &mut |temp| output.line(&format!("==> packing snapshot '{tag}' → {}", temp.display())),
        &mut |pack| {
            let compression = ratio(pack.unpacked_size, pack.size);
            let (size, time) = (mib(pack.size), seconds(pack.time));
            output.line(&format!("    packed {size} ({compression}× compression) in {time}"));
        },
    )?;
    let (size, time) = (report.size, report.upload_time);
    let rate = mib((size as f64 / time.as_secs_f64().max(1e-3)) as u64);
    output.line(&format!("✓ pushed {} in {} ({rate}/s)", mib(size), seconds(time)));
    output.json(&report);
    Ok(())
}
