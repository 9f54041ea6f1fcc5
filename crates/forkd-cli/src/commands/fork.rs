use super::Context;
use crate::config;
use crate::output::printable;
use anyhow::Result;
use forkd_engine::Qemu;
use forkd_format::Tag;
use serde_json::json;
use std::time::Instant;

/// Fork a snapshot copy-on-write into children, and wait until each answers
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd fork --tag python-numpy -n 8")]
pub(crate) struct Args {
    /// The snapshot
    #[arg(long)]
    tag: Tag,
    /// How many children
    #[arg(short, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    n: u16,
}

pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<()> {
    let store = config::store()?;
    store.load(&args.tag)?;
    let engine = Qemu::find(config::runtime_dir())?;
    let begun = Instant::now();
    let mut children = Vec::new();
    forkd_core::fork(&store, &engine, &args.tag, args.n.into(), context.env(), &mut |child| {
        let (number, time, answer) = (child.number, child.time.as_secs_f64(), printable(&child.answer));
        context.output.answer(&format!("child {number} answered in {time:.2}s: {answer}"));
        children.push(json!({ "child": number, "seconds": time, "answer": child.answer }));
    })?;
    let time = begun.elapsed().as_secs_f64();
    let plural = if args.n == 1 { "child" } else { "children" };
    context.output.line(&format!("✓ {} {plural} of '{}' answered in {time:.2}s", args.n, args.tag));
    context.output.json(&json!({ "tag": args.tag, "children": children, "seconds": time }));
    Ok(())
}
