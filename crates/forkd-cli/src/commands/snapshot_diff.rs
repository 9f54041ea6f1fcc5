use crate::config;
use crate::context::Context;
use crate::machines::{Machines, with_guest_words};
use crate::output::{mib, seconds};
use anyhow::Result;
use forkd_core::machine::DiffOptions;
use forkd_format::{PAGE_SIZE, Tag};
use serde_json::json;
use std::time::Instant;

/// Fork a snapshot, run a command in the child, and freeze what it changed into a chain link
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  forkd snapshot-diff --from py-base --tag py-numpy --exec '/run/forkd/agent eval \"import numpy\"'"
)]
pub(crate) struct SnapshotDiffArgs {
    /// The snapshot to go on from: the link's parent
    #[arg(long, value_name = "BASE")]
    from: Tag,
    /// The link to make
    #[arg(long, value_name = "NEW")]
    tag: Tag,
    /// Run in the child, by its shell, before it is frozen; it must succeed
    #[arg(long, value_name = "CMD")]
    exec: String,
}

pub(crate) fn run(args: &SnapshotDiffArgs, context: &Context<'_>) -> Result<()> {
    let begun = Instant::now();
    let store = config::store()?;
    store.load(&args.from)?;
    let machines = Machines::open()?;
    let options = DiffOptions {
        from: args.from.clone(),
        tag: args.tag.clone(),
        exec: args.exec.clone(),
        created_at: config::timestamp()?,
    };
    context.output.line(&format!("==> baking link '{}' on top of '{}'", args.tag, args.from));
    let (engine, runtime) = (&machines.engine, &machines.runtime);
    let report = with_guest_words(context, |output| {
        forkd_core::machine::snapshot_diff(&store, engine, runtime, &options, context.env(), output)
    })?;
    if !report.link {
        let note =
            "more pages became zero than a link can list; it holds all of its memory and has no parent";
        context.env().progress.note(note);
    }
    context.output.line(&format!(
        "✓ snapshot '{}' at {}/ in {}: {} pages changed ({}), {} became zero",
        args.tag,
        config::display(&report.path),
        seconds(begun.elapsed()),
        report.changed,
        mib(report.changed * PAGE_SIZE as u64),
        report.zeroed
    ));
    context.output.line(&format!("  next: forkd fork --tag {} -n <N>", args.tag));
    context.output.json(&json!({
        "tag": args.tag,
        "parent": report.link.then_some(&args.from),
        "path": report.path.display().to_string(),
        "changed_pages": report.changed,
        "zeroed_pages": report.zeroed,
        "exec_seconds": report.ran.as_secs_f64(),
        "seconds": begun.elapsed().as_secs_f64(),
    }));
    Ok(())
}
