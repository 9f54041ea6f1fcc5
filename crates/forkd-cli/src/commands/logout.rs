use crate::config;
use crate::context::Context;
use anyhow::Result;
use serde_json::json;

/// Forget the credentials of a registry
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd logout ghcr.io")]
pub(crate) struct LogoutArgs {
    /// The registry: HOST[:PORT]
    host: String,
}

pub(crate) fn run(args: &LogoutArgs, context: &Context<'_>) -> Result<()> {
    let settings = config::settings()?;
    let left = context.app(&settings).logout(&args.host)?;
    for place in &left {
        let place = settings.shown(std::path::Path::new(place));
        context.output.line(&format!("✓ removed the credentials from {place}"));
    }
    context.output.json(&json!({ "removed_from": left }));
    Ok(())
}
