use crate::config;
use crate::context::Context;
use crate::output::{mib, seconds};
use anyhow::Result;
use forkd_format::{PAGE_SIZE, Tag};

/// Fork a snapshot, run a command in the child, and freeze what it changed into a chain link
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  forkd snapshot-diff --from py-base --tag py-numpy --exec '/run/forkd/agent eval \"import numpy\"'"
)]
pub(crate) struct SnapshotDiffArgs {
    /// The snapshot to go on from: the link's parent
    #[arg(long, value_name = "BASE")]
    from: Tag,
    /// The link to make
    #[arg(long, value_name = "NEW")]
    tag: Tag,
    /// Run in the child, by its shell, before it is frozen; it must succeed
    #[arg(long, value_name = "CMD")]
    exec: String,
}

pub(crate) fn run(args: &SnapshotDiffArgs, context: &Context<'_>) -> Result<()> {
    let settings = config::settings()?;
    let report = context.app(&settings).snapshot_diff(&args.from, &args.tag, &args.exec)?;
    if report.parent.is_none() {
        let note =
            "more pages became zero than a link can list; it holds all of its memory and has no parent";
        context.env().progress.note(note);
    }
    context.output.line(&format!(
        "✓ snapshot '{}' at {}/ in {}: {} pages changed ({}), {} became zero",
        args.tag,
        config::display(&report.path),
        seconds(report.time),
        report.changed,
        mib(report.changed * PAGE_SIZE as u64),
        report.zeroed
    ));
    context.output.line(&format!("  next: forkd fork --tag {} -n <N>", args.tag));
    context.output.json(&report);
    Ok(())
}
