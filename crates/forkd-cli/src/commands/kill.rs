use crate::config;
use crate::context::Context;
use anyhow::Result;
use forkd_app::Machines;
use forkd_core::machine::{self, DetachedChild};
use serde::Serialize;

/// End children that run detached
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  forkd kill 3fa1c9e2\n  forkd kill --all")]
pub(crate) struct KillArgs {
    /// The children: their names, or the beginnings of them
    #[arg(required_unless_present = "all")]
    ids: Vec<String>,
    /// All children
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

#[derive(Serialize)]
struct KillAnswer<'a> {
    killed: Vec<&'a str>,
}

pub(crate) fn run(args: &KillArgs, context: &Context<'_>) -> Result<()> {
    let machines = Machines::running(&config::runtime_dir());
    let mut children: Vec<DetachedChild> = Vec::new();
    // One that is not there keeps no other alive.
    let mut failure = None;
    if args.all {
        children = machines.runtime.children(&machines.engine)?;
    }
    for id in &args.ids {
        match machines.child(id) {
            Ok(child) => children.push(child),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    children.sort_by(|a, b| a.id.cmp(&b.id));
    children.dedup_by(|a, b| a.id == b.id);
    if children.is_empty() && failure.is_none() {
        context.output.line("no children are running");
    }
    for child in &children {
        machine::kill(&machines.engine, child)?;
        context.output.answer(&child.id);
    }
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    context.output.json(&KillAnswer { killed: children.iter().map(|child| child.id.as_str()).collect() });
    Ok(())
}
