use crate::config;
use crate::context::Context;
use crate::output::mib;
use anyhow::Result;
use forkd_app::RecordRequest;
use forkd_format::{PAGE_SIZE, Tag};
use std::time::Duration;

/// Record which pages a fork needs first, for a workload
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Packs of format 3 carry these pages in front, so that whoever forks the snapshot from a hub need not wait for the rest. A bake \
records its own first test.\n\nExamples:\n  forkd record pyagent --eval 'np.arange(9).sum()'\n  forkd record pyagent -- python3 -c 'import pandas'"
)]
pub(crate) struct RecordArgs {
    /// The snapshot
    tag: Tag,
    /// Ask the guest's eval endpoint
    #[arg(long, value_name = "EXPR", conflicts_with = "command")]
    eval: Option<String>,
    /// Give up after so long
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout_secs: Option<u32>,
    /// Run in the child; without it only the wake is recorded
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(crate) fn run(args: &RecordArgs, context: &Context<'_>) -> Result<()> {
    let settings = config::settings()?;
    let work = super::fork::work_of(args.eval.as_deref(), &args.command);
    let time_limit = args.timeout_secs.map(|secs| Duration::from_secs(secs.into()));
    let report = context.app(&settings).record(&RecordRequest { tag: args.tag.clone(), work, time_limit })?;
    let size = |pages: u64| mib(pages * PAGE_SIZE as u64);
    context.output.line(&format!(
        "✓ recorded for '{}': {} of memory and {} of the disk come first",
        report.tag,
        size(report.memory_pages),
        size(report.disk_pages)
    ));
    context.output.line(&format!("  next: forkd pack --format 3 --tag {}", report.tag));
    context.output.json(&report);
    Ok(())
}
