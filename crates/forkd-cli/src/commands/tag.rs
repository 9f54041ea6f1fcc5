use crate::config;
use crate::context::Context;
use anyhow::Result;
use forkd_format::Tag;

/// Give a snapshot a second tag; the two share their files on disk
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd tag python-numpy python-numpy-2026-11")]
pub(crate) struct TagArgs {
    /// The snapshot
    old: Tag,
    /// Its second tag
    new: Tag,
}

pub(crate) fn run(args: &TagArgs, context: &Context<'_>) -> Result<()> {
    let report = forkd_core::retag(&config::store()?, &args.old, &args.new, context.env())?;
    let path = config::display(&report.path);
    context.output.line(&format!("✓ tagged '{}' as '{}' at {path}/", args.old, args.new));
    context.output.json(&report);
    Ok(())
}
