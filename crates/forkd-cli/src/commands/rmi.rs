use super::tags::repository;
use crate::complete;
use crate::config;
use crate::context::Context;
use crate::output::mib;
use anyhow::Result;
use forkd_core::{Dependents, Removal};
use forkd_format::Tag;

/// Remove snapshots from the local store, or tags from a repository
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd rmi py-base --cascade")]
pub(crate) struct RmiArgs {
    /// The snapshots
    #[arg(required_unless_present = "remote", add = complete::tags())]
    tags: Vec<Tag>,
    /// Take a tag of a repository away instead: oci://HOST/NAME:TAG
    #[arg(long, value_name = "RELEASE", conflicts_with_all = ["tags", "cascade", "force"])]
    remote: Option<String>,
    /// Remove what is chained to them too
    #[arg(long, conflicts_with = "force")]
    cascade: bool,
    /// Remove them although children of them are running, or others are chained to them, which then cannot be forked any more
    #[arg(long, short)]
    force: bool,
}

pub(crate) fn run(args: &RmiArgs, context: &Context<'_>) -> Result<()> {
    if let Some(remote) = &args.remote {
        let settings = config::settings()?;
        let report = context.app(&settings).remove_remote(&repository(remote)?)?;
        context.output.line(&format!("✓ removed '{}' from {}", report.tag, report.repository));
        context.output.json(&report);
        return Ok(());
    }
    let dependents = match (args.cascade, args.force) {
        (true, _) => Dependents::Cascade,
        (_, true) => Dependents::Orphan,
        _ => Dependents::Refuse,
    };
    let settings = config::settings()?;
    let report = context.app(&settings).remove(&args.tags, dependents)?;
    for Removal { tag, freed } in &report.removed {
        context.output.line(&format!("✓ removed '{tag}' (freed {})", mib(*freed)));
    }
    for tag in &report.orphaned {
        context.output.line(&format!("! '{tag}' has lost its chain parent"));
    }
    context.output.json(&report);
    Ok(())
}
