use crate::config;
use crate::context::Context;
use crate::output::{age, mib, printable};
use anyhow::Result;
use forkd_core::SnapshotList;
use std::time::{Duration, SystemTime};

/// List the snapshots in the local store
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd images --format json")]
pub(crate) struct ImagesArgs {}

pub(crate) fn run(_args: &ImagesArgs, context: &Context<'_>) -> Result<()> {
    let list = forkd_core::images(&config::store()?)?;
    if context.output.is_quiet() {
        list.snapshots.iter().for_each(|image| context.output.answer(image.tag.as_str()));
        list.arriving.iter().for_each(|snapshot| context.output.answer(snapshot.tag.as_str()));
    } else {
        context.output.answer(&table(&list, SystemTime::now()));
    }
    context.output.json(&list);
    Ok(())
}

fn table(list: &SnapshotList, now: SystemTime) -> String {
    let images = &list.snapshots;
    if images.is_empty() && list.arriving.is_empty() {
        return "  no snapshots here yet\n  next: forkd pull deeplethe/python-numpy".to_owned();
    }
    let mut lines = vec!["  TAG                SIZE        MEMORY     CREATED  ROOTFS".to_owned()];
    for image in images {
        if let Some(damage) = &image.damage {
            lines.push(format!("  {:<14} damaged: {}", image.tag, printable(damage)));
            continue;
        }
        let age = age(now.duration_since(image.created).unwrap_or(Duration::ZERO));
        let chain = match (&image.parent, image.depth) {
            (None, _) => String::new(),
            (Some(parent), Some(depth)) => format!("   chain of {depth}, parent {parent}"),
            (Some(parent), None) => format!("   parent {parent}, an ancestor is missing"),
        };
        let (size, memory) = (mib(image.disk_size), mib(image.memory));
        let rootfs = if image.rootfs { "yes" } else { "no" };
        lines.push(format!("  {:<14} {size:>10}   {memory:>9}    {age:>6}   {rootfs}{chain}", image.tag));
    }
    for snapshot in &list.arriving {
        let fetched = match &snapshot.stopped {
            _ if snapshot.fetched => String::new(),
            None => ", nobody is fetching the rest".to_owned(),
            Some(why) => format!(", nobody is fetching the rest: {}", printable(why)),
        };
        let (here, total) = (mib(snapshot.here), mib(snapshot.total));
        lines.push(format!("  {:<14} arriving: {here} of {total} are here{fetched}", snapshot.tag));
    }
    let total = mib(list.total);
    let plural = if images.len() == 1 { "" } else { "s" };
    lines.push(format!("\n  {} snapshot{plural} · {total} total", images.len()));
    if let Some(damaged) = images.iter().find(|image| image.damage.is_some()) {
        let tag = &damaged.tag;
        lines.push(format!("  next: forkd rmi {tag}, then pull or bake it again"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use forkd_core::SnapshotSummary;

    #[test]
    fn the_table_is_that_of_the_specification() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let image = |tag: &str, tenths: u64, memory_mib: u64, hours: u64| SnapshotSummary {
            tag: tag.parse().unwrap(),
            path: "/x".into(),
            disk_size: tenths * (1 << 20) / 10 + 1,
            memory: memory_mib << 20,
            created: now - Duration::from_secs(hours * 3600),
            rootfs: true,
            parent: None,
            depth: Some(1),
            description: None,
            damage: None,
        };
        let snapshots = vec![
            image("python-numpy", 221, 512, 72),
            image("playwright-browser", 1062, 2048, 170),
            image("pyagent", 148, 512, 1),
        ];
        let expected = "  TAG                SIZE        MEMORY     CREATED  ROOTFS
  python-numpy     22.1 MiB   512.0 MiB    3d ago   yes
  playwright-browser  106.2 MiB   2048.0 MiB    1w ago   yes
  pyagent          14.8 MiB   512.0 MiB    1h ago   yes

  3 snapshots · 143.1 MiB total";
        let total = snapshots.iter().map(|image| image.disk_size).sum();
        assert_eq!(table(&SnapshotList { snapshots, arriving: Vec::new(), total }, now), expected);
    }
}
