use crate::config;
use crate::context::Context;
use crate::output::mib;
use anyhow::Result;
use forkd_core::cache::Cache;
use forkd_core::{Usage, Used};
use serde::Serialize;

/// Say what lies on the disk, and what of it could go
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd df")]
pub(crate) struct DfArgs {}

#[derive(Serialize)]
struct DfAnswer {
    #[serde(flatten)]
    usage: Usage,
    cache_limit_bytes: u64,
}

pub(crate) fn run(_args: &DfArgs, context: &Context<'_>) -> Result<()> {
    let usage = forkd_core::usage(&config::store()?, &Cache::new(&config::cache_dir()?))?;
    let limit = config::cache_limit()?;
    context.output.answer(&table(&usage, limit));
    context.output.json(&DfAnswer { usage, cache_limit_bytes: limit });
    Ok(())
}

fn rows(usage: &Usage) -> [(&'static str, Used); 6] {
    [
        ("snapshots", usage.snapshots),
        ("memories of chains", usage.assembled),
        ("images", usage.images),
        ("root disks", usage.disks),
        ("kernels", usage.kernels),
        ("unfinished", usage.partial),
    ]
}

fn table(usage: &Usage, limit: u64) -> String {
    let mut lines = vec!["  TYPE                 COUNT          SIZE   RECLAIMABLE".to_owned()];
    let rows = rows(usage);
    for (name, used) in &rows {
        let (size, reclaimable) = (mib(used.bytes), mib(used.reclaimable));
        lines.push(format!("  {name:<18} {:>7}  {size:>12}  {reclaimable:>12}", used.count));
    }
    let total = mib(rows.iter().map(|(_, used)| used.bytes).sum());
    lines.push(format!("\n  {total} total · images and root disks may take {}", mib(limit)));
    lines.push("  next: forkd rmi <TAG>, forkd gc --cache-limit-mib 0".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_adds_up() {
        let used = |count, mib: u64, reclaimable: u64| Used {
            count,
            bytes: mib << 20,
            reclaimable: reclaimable << 20,
        };
        let usage = Usage {
            snapshots: used(2, 300, 0),
            images: used(7, 60, 60),
            disks: used(1, 150, 150),
            ..Usage::default()
        };
        let expected = "  TYPE                 COUNT          SIZE   RECLAIMABLE
  snapshots                2     300.0 MiB       0.0 MiB
  memories of chains       0       0.0 MiB       0.0 MiB
  images                   7      60.0 MiB      60.0 MiB
  root disks               1     150.0 MiB     150.0 MiB
  kernels                  0       0.0 MiB       0.0 MiB
  unfinished               0       0.0 MiB       0.0 MiB

  510.0 MiB total · images and root disks may take 1024.0 MiB
  next: forkd rmi <TAG>, forkd gc --cache-limit-mib 0";
        assert_eq!(table(&usage, 1 << 30), expected);
    }
}
