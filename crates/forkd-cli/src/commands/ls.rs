use crate::config;
use crate::context::Context;
use crate::output::mib;
use anyhow::Result;
use forkd_app::Machines;
use forkd_core::machine::DetachedChild;
use forkd_format::Tag;
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// List the children that run detached
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd ls")]
pub(crate) struct LsArgs {
    /// Print names only
    #[arg(long)]
    ids: bool,
}

pub(crate) fn run(args: &LsArgs, context: &Context<'_>) -> Result<()> {
    let machines = Machines::running(&config::runtime_dir());
    let children = machines.runtime.children(&machines.engine)?;
    if args.ids || context.output.is_quiet() {
        children.iter().for_each(|child| context.output.answer(&child.id));
    } else if children.is_empty() {
        context.output.line("no children are running; forkd fork --tag <TAG> --detach");
    } else {
        context.output.line(&format!(
            "  {:<8}  {:<20} {:>8} {:>11}  {:<3}  {:>7}",
            "ID", "TAG", "UP", "MEMORY", "NET", "PID"
        ));
        for child in &children {
            let memory = memory(child).map_or("?".into(), mib);
            let net = if child.network { "yes" } else { "no" };
            let (tag, up) = (child.tag.as_str(), up(child));
            context.output.line(&format!(
                "  {:<8}  {tag:<20} {up:>8} {memory:>11}  {net:<3}  {:>7}",
                child.id, child.pid
            ));
        }
    }
    let children = children.iter().map(|child| LsChild {
        id: &child.id,
        tag: &child.tag,
        pid: child.pid,
        created: child.created,
        created_at: jiff::Timestamp::from_second(child.created as i64).ok().map(|time| time.to_string()),
        network: child.network,
        memory_bytes: memory(child),
    });
    context.output.json(&LsAnswer { children: children.collect() });
    Ok(())
}

#[derive(Serialize)]
struct LsAnswer<'a> {
    children: Vec<LsChild<'a>>,
}

#[derive(Serialize)]
struct LsChild<'a> {
    id: &'a str,
    tag: &'a Tag,
    pid: u32,
    created: u64,
    created_at: Option<String>,
    network: bool,
    memory_bytes: Option<u64>,
}

fn up(child: &DetachedChild) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    match now.saturating_sub(child.created) {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..86_400 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// Memory that the child takes on this host: its own, and its share of what it shares.
fn memory(child: &DetachedChild) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", child.pid)).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
