use crate::config;
use crate::context::Context;
use anyhow::Result;
use forkd_format::Tag;
use serde_json::json;

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
    let path = forkd_core::retag(&config::store()?, &args.old, &args.new, context.env())?;
    context.output.line(&format!("✓ tagged '{}' as '{}' at {}/", args.old, args.new, config::display(&path)));
    context.output.json(&json!({ "old": args.old, "new": args.new, "path": path.display().to_string() }));
    Ok(())
}
