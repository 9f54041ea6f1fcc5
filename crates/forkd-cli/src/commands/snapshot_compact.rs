use crate::config;
use crate::context::Context;
use anyhow::Result;
use forkd_format::Tag;

/// Make a flat snapshot of a chain: one that needs no parent
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd snapshot-compact --from py-pandas --to py-pandas-flat")]
pub(crate) struct SnapshotCompactArgs {
    /// The head of the chain
    #[arg(long, value_name = "TAG")]
    from: Tag,
    /// The flat snapshot to make; they share what they can on disk
    #[arg(long, value_name = "NEW")]
    to: Tag,
}

pub(crate) fn run(args: &SnapshotCompactArgs, context: &Context<'_>) -> Result<()> {
    let store = config::store()?;
    let report = forkd_core::compact(&store, &args.from, &args.to, &config::timestamp()?, context.env())?;
    let place = config::display(&report.path);
    context.output.line(&format!("✓ compacted '{}' into '{}' at {place}/", args.from, args.to));
    context.output.json(&report);
    Ok(())
}
