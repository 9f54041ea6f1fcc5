use crate::config;
use crate::context::Context;
use crate::output::mib;
use anyhow::Result;
use forkd_app::{CollectOptions, HubPlace};
use std::time::Duration;

/// Look after a hub of your own
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd hub gc s3://bucket/forkd")]
pub(crate) struct HubArgs {
    #[command(subcommand)]
    command: HubCommand,
}

#[derive(Debug, clap::Subcommand)]
enum HubCommand {
    Gc(HubGcArgs),
}

/// Say which blobs no tag reaches any more, or delete them
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  forkd hub gc s3://bucket/forkd\n  forkd hub gc s3://bucket/forkd --delete"
)]
pub(crate) struct HubGcArgs {
    /// s3://BUCKET[/PREFIX], or a folder
    hub: String,
    /// Delete them; without this they are only counted
    #[arg(long)]
    delete: bool,
    /// Leave what was written less than so many hours ago: somebody may be publishing it
    #[arg(long, value_name = "HOURS", default_value_t = 24.0)]
    grace: f64,
}

pub(crate) fn run(args: &HubArgs, context: &Context<'_>) -> Result<()> {
    let HubCommand::Gc(args) = &args.command;
    let hub = HubPlace::parse(&args.hub)?;
    let grace = Duration::try_from_secs_f64(args.grace * 3600.0).map_err(|_| {
        let message = "--grace is a number of hours, from 0";
        forkd_core::Error::new(forkd_core::Kind::Usage, message)
    })?;
    let settings = config::settings()?;
    let options = CollectOptions { grace, dry_run: !args.delete };
    let report = context.app(&settings).collect_hub(&hub, options)?;
    let (blobs, bytes) = (report.deleted_blobs, mib(report.deleted_bytes));
    let output = context.output;
    output.line(&match (blobs, report.dry_run) {
        (0, _) => "✓ nothing to delete".to_owned(),
        (_, true) => format!("would delete {blobs} blobs ({bytes}); add --delete to do it"),
        (_, false) => format!("✓ deleted {blobs} blobs ({bytes})"),
    });
    output.line(&format!(
        "  {} tags reach {} blobs; {} more are too young to go",
        report.tags, report.kept_blobs, report.young_blobs
    ));
    output.json(&report);
    Ok(())
}
