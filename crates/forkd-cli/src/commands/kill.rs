use super::Context;
use crate::machines::Machines;
use anyhow::Result;
use forkd_core::runtime::{self, Child};
use serde_json::json;

/// End children that run detached
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  forkd kill 3fa1c9e2\n  forkd kill --all")]
pub(crate) struct Args {
    /// The children: their names, or the beginnings of them
    #[arg(required_unless_present = "all")]
    ids: Vec<String>,
    /// All children
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<()> {
    let machines = Machines::open()?;
    let mut children: Vec<Child> = if args.all {
        machines.runtime.children(&machines.engine)
    } else {
        args.ids.iter().map(|id| machines.child(id)).collect::<Result<_>>()?
    };
    children.sort_by(|a, b| a.id.cmp(&b.id));
    children.dedup_by(|a, b| a.id == b.id);
    if children.is_empty() {
        context.output.line("no children are running");
    }
    for child in &children {
        runtime::kill(&machines.engine, child)?;
        context.output.answer(&child.id);
    }
    context.output.json(&json!({ "killed": children.iter().map(|child| &child.id).collect::<Vec<_>>() }));
    Ok(())
}
