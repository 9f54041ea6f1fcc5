use super::pack::Content;
use crate::config;
use crate::context::Context;
use crate::output::{mib, ratio, seconds};
use anyhow::Result;
use forkd_core::hub::Location;
use forkd_core::{Error, Kind};
use forkd_remote::AnyRemote;
use serde_json::json;

/// Pack a snapshot and upload it with one HTTP PUT, to a presigned URL for instance
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd push --tag pyagent \"$PRESIGNED_URL\"")]
pub(crate) struct PushArgs {
    #[command(flatten)]
    content: Content,
    /// Where to: http:, https: or file:
    url: String,
}

pub(crate) fn run(args: &PushArgs, context: &Context<'_>) -> Result<()> {
    let location = Location::parse(&args.url)?;
    let store = config::store()?;
    store.load(&args.content.tag)?;
    if args.content.kernel {
        let message = "push sends one file, and --kernel makes two: `forkd pack` both, and upload them beside each other";
        return Err(Error::new(Kind::Usage, message).into());
    }
    let prepared = args.content.prepare(&store, context)?;
    let options = &prepared.options;
    let temp = std::env::temp_dir();
    let path = forkd_core::temp_path(&temp, options);
    context.output.line(&format!("==> packing snapshot '{}' → {}", args.content.tag, path.display()));
    let remote = AnyRemote::new(&config::http()?)?;
    let report =
        forkd_core::push(&store, &remote, options, &location, &temp, context.env(), &mut |pack, time| {
            let compression = ratio(pack.unpacked_size, pack.size);
            context.output.line(&format!(
                "    packed {} ({compression}× compression) in {}",
                mib(pack.size),
                seconds(time)
            ));
        })?;
    let (size, time) = (report.pack.size, report.upload_time);
    let rate = mib((size as f64 / time.as_secs_f64().max(1e-3)) as u64);
    context.output.line(&format!("✓ pushed {} in {} ({rate}/s)", mib(size), seconds(time)));
    context.output.json(&json!({
        "tag": args.content.tag.as_str(),
        "url": location.to_string(),
        "size_bytes": size,
        "unpacked_bytes": report.pack.unpacked_size,
        "pack_seconds": report.pack_time.as_secs_f64(),
        "upload_seconds": time.as_secs_f64(),
    }));
    Ok(())
}
