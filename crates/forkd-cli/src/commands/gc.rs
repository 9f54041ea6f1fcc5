use super::Context;
use crate::config;
use anyhow::Result;
use serde_json::json;

/// Delete what interrupted runs left behind
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd gc")]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args, context: &Context<'_>) -> Result<()> {
    let removed = config::store()?.gc(context.env().progress)?;
    context.output.line(&match removed {
        0 => "✓ nothing to clean up".to_owned(),
        count => format!("✓ removed {count} leftover(s)"),
    });
    context.output.json(&json!({ "removed": removed }));
    Ok(())
}
