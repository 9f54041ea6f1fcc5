use crate::config;
use crate::context::Context;
use crate::output::mib;
use anyhow::Result;
use forkd_core::cache::Cache;
use serde_json::json;
use std::time::Duration;

/// Delete what interrupted runs left behind, and of the cache what is beyond its limit
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Of images and root disks in the cache, those not used for longest go first.\n\nExamples:\n  forkd gc\n  forkd gc --cache-limit-mib 0"
)]
pub(crate) struct GcArgs {
    /// What the cache may take [env: FORKD_CACHE_LIMIT_MIB] [default: 20480]
    #[arg(long, value_name = "MIB")]
    cache_limit_mib: Option<u32>,
}

/// What a server answered is forgotten when nobody asked again in so long.
const UNUSED_ANSWER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub(crate) fn run(args: &GcArgs, context: &Context<'_>) -> Result<()> {
    let limit = args.cache_limit_mib.map_or_else(config::cache_limit, |mib| Ok(u64::from(mib) << 20))?;
    let removed = config::store()?.gc(context.env().progress)?;
    let cache = Cache::new(&config::cache_dir()?);
    let freed = cache.trim(limit, context.env())?;
    let _ = cache.sweep_answers(UNUSED_ANSWER);
    match removed {
        0 if freed.entries == 0 => context.output.line("✓ nothing to clean up"),
        0 => {}
        count => context.output.line(&format!("✓ removed {count} leftover(s)")),
    }
    if freed.entries > 0 {
        context.output.line(&format!(
            "✓ removed {} of the cache's files (freed {})",
            freed.entries,
            mib(freed.bytes)
        ));
    }
    context.output.json(&json!({
        "removed": removed,
        "cache_removed": freed.entries,
        "cache_freed_bytes": freed.bytes,
    }));
    Ok(())
}
