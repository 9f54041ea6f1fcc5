use super::Context;
use crate::config;
use crate::output::mib;
use anyhow::Result;
use forkd_core::Dependents;
use forkd_format::Tag;
use serde_json::json;

/// Remove snapshots from the local store
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd rmi py-base --cascade")]
pub(crate) struct Args {
    /// The snapshots
    #[arg(required = true)]
    tags: Vec<Tag>,
    /// Remove what is chained to them too
    #[arg(long, conflicts_with = "force")]
    cascade: bool,
    /// Remove them although others are chained to them, which then cannot be forked any more
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<()> {
    let dependents = match (args.cascade, args.force) {
        (true, _) => Dependents::Cascade,
        (_, true) => Dependents::Orphan,
        _ => Dependents::Refuse,
    };
    let report = forkd_core::remove(&config::store()?, &args.tags, dependents, context.env())?;
    for (tag, freed) in &report.removed {
        context.output.line(&format!("✓ removed '{tag}' (freed {})", mib(*freed)));
    }
    for tag in &report.orphaned {
        context.output.line(&format!("! '{tag}' has lost its chain parent"));
    }
    context.output.json(&json!({
        "removed": report.removed.iter().map(|(tag, freed)| json!({ "tag": tag, "freed_bytes": freed })).collect::<Vec<_>>(),
        "orphaned": report.orphaned,
    }));
    Ok(())
}
