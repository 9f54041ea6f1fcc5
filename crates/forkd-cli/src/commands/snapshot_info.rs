use crate::config;
use crate::context::Context;
use crate::output::{mib, printable};
use anyhow::Result;
use forkd_core::{ChainInfo, LinkInfo};
use forkd_format::Tag;

/// Show a snapshot's chain: what each link holds and takes on the disk
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd snapshot-info py-pandas")]
pub(crate) struct SnapshotInfoArgs {
    /// The snapshot, the head of its chain
    tag: Tag,
}

pub(crate) fn run(args: &SnapshotInfoArgs, context: &Context<'_>) -> Result<()> {
    let info = forkd_core::chain_info(&config::store()?, &args.tag)?;
    context.output.answer(&text(&info));
    context.output.json(&info);
    Ok(())
}

fn text(info: &ChainInfo) -> String {
    let shape = match info.links.len() {
        1 => "flat".to_owned(),
        links => format!("chain of {links}"),
    };
    let mut lines = vec![format!("{}  ({shape})", info.tag)];
    if let Some(engine) = &info.engine {
        let name = [&engine.name, &engine.version].into_iter().flatten();
        let name = name.map(String::as_str).collect::<Vec<_>>().join(" ");
        let fields = [&engine.machine, &engine.accel, &engine.cpu].into_iter().flatten().cloned();
        let facts: Vec<String> = std::iter::once(name).chain(fields).collect();
        lines.push(format!("  engine      {}", printable(&facts.join(", "))));
    }
    lines.extend(info.assembled.map(|assembled| {
        let what = if assembled { "yes" } else { "no: the first fork puts it together" };
        format!("  assembled   {what}")
    }));
    lines.extend(info.links.iter().map(link));
    lines.join("\n")
}

fn link(link: &LinkInfo) -> String {
    let parent = link.parent.as_ref().map(|parent| format!("  (chain parent: {parent})")).unwrap_or_default();
    let created = link.created_at.as_ref().map(|at| format!("  {}", printable(at))).unwrap_or_default();
    let zeros = if link.zero_pages > 0 { format!(", {} made zero", link.zero_pages) } else { String::new() };
    let rootfs = link.rootfs_disk.map(|disk| format!("\n    rootfs    {} on disk", mib(disk)));
    format!(
        "  link '{}'{parent}{created}\n    memory    {} on disk: {} pages of {}{zeros}{}",
        link.tag,
        mib(link.memory_disk),
        link.stored_pages,
        mib(link.memory),
        rootfs.unwrap_or_default()
    )
}
