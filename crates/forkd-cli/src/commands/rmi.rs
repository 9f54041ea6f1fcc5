use crate::config;
use crate::context::Context;
use crate::machines::Machines;
use crate::output::mib;
use anyhow::Result;
use forkd_core::{Dependents, Error, Kind, Store};
use forkd_format::Tag;
use serde_json::json;

/// Remove snapshots from the local store
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd rmi py-base --cascade")]
pub(crate) struct RmiArgs {
    /// The snapshots
    #[arg(required = true)]
    tags: Vec<Tag>,
    /// Remove what is chained to them too
    #[arg(long, conflicts_with = "force")]
    cascade: bool,
    /// Remove them although children of them are running, or others are chained to them, which then cannot be forked any more
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &RmiArgs, context: &Context<'_>) -> Result<()> {
    let dependents = match (args.cascade, args.force) {
        (true, _) => Dependents::Cascade,
        (_, true) => Dependents::Orphan,
        _ => Dependents::Refuse,
    };
    let store = config::store()?;
    if !args.force {
        refuse_running(args, &store)?;
    }
    let report = forkd_core::remove(&store, &args.tags, dependents, context.env())?;
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

/// Children that run keep their files open and would go on without; but who removes their snapshot has hardly meant that.
fn refuse_running(args: &RmiArgs, store: &Store) -> Result<()> {
    let machines = Machines::running();
    let running = machines.runtime.children(&machines.engine)?;
    let mut tags = args.tags.clone();
    if args.cascade {
        loop {
            let more = store.dependents(&tags)?;
            if more.is_empty() {
                break;
            }
            tags.extend(more.into_iter().map(|(_, tag)| tag));
        }
    }
    for tag in &tags {
        let of = store.dir(tag);
        let ids: Vec<&str> =
            running.iter().filter(|child| child.snapshot == of).map(|child| child.id.as_str()).collect();
        if !ids.is_empty() {
            let message = format!("'{tag}': children of it are running ({})", ids.join(", "));
            return Err(Error::new(Kind::General, message)
                .hint("`forkd kill` them first, or --force")
                .into());
        }
    }
    Ok(())
}
