use crate::config;
use crate::context::Context;
use crate::output::mib;
use anyhow::Result;

/// Delete what interrupted runs left behind, and of the cache what is beyond its limit
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Of images and root disks in the cache, those not used for longest go first.\n\nExamples:\n  forkd gc\n  forkd gc --cache-limit-mib 0"
)]
pub(crate) struct GcArgs {
    /// What the cache may take [env: FORKD_CACHE_LIMIT_MIB] [default: 20480]
    #[arg(long, value_name = "MIB")]
    cache_limit_mib: Option<u32>,
    /// Say what would be deleted, and delete nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &GcArgs, context: &Context<'_>) -> Result<()> {
    let settings = config::settings()?;
    let limit = args.cache_limit_mib.map_or(settings.cache_limit, |mib| u64::from(mib) << 20);
    let report = context.app(&settings).gc(limit, args.dry_run)?;
    let did = if args.dry_run { "would remove" } else { "✓ removed" };
    match report.removed {
        0 if report.cache_removed == 0 => context.output.line("✓ nothing to clean up"),
        0 => {}
        count => context.output.line(&format!("{did} {count} leftover(s)")),
    }
    if report.cache_removed > 0 {
        context.output.line(&format!(
            "{did} {} of the cache's files ({} {})",
            report.cache_removed,
            if args.dry_run { "which take" } else { "freed" },
            mib(report.cache_freed_bytes)
        ));
    }
    context.output.json(&report);
    Ok(())
}
