use super::Context;
use crate::config;
use crate::output::{mib, ratio, seconds};
use anyhow::Result;
use forkd_core::{Error, Kind, PackOptions};
use forkd_format::Tag;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Pack a snapshot, with its ancestors, into one portable file
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd pack --tag pyagent --out pyagent.forkd-snapshot.tar.zst")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) content: Content,
    /// Output file [default: ./<tag>.forkd-snapshot.tar.zst]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What goes into a pack.
#[derive(Debug, clap::Args)]
pub(crate) struct Content {
    /// The snapshot to pack
    #[arg(long)]
    pub(crate) tag: Tag,
    /// For people, recorded in the pack
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The container image behind the rootfs, for audit
    #[arg(long, value_name = "IMAGE")]
    base_image: Option<String>,
    /// zstd compression level
    #[arg(long, default_value_t = 3, value_name = "1..22", value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
}

impl Content {
    pub(crate) fn options(&self) -> Result<PackOptions> {
        Ok(PackOptions {
            tag: self.tag.clone(),
            description: self.description.clone(),
            base_image: self.base_image.clone(),
            level: self.level,
            created_at: config::timestamp()?,
        })
    }
}

pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<()> {
    let tag = &args.content.tag;
    let out = args.out.clone().unwrap_or_else(|| format!("./{tag}.forkd-snapshot.tar.zst").into());
    if out.as_os_str() == "-" {
        let message = "a pack is not written to standard output: its manifest comes first and is known last; name a file";
        return Err(Error::new(Kind::Usage, message).into());
    }
    // The specification shows the default without its "./".
    let shown = out.strip_prefix("./").unwrap_or(&out).display().to_string();
    let store = config::store()?;
    store.load(tag)?;
    context.output.line(&format!("==> packing snapshot '{tag}' → {shown}"));
    let begun = Instant::now();
    let report = forkd_core::pack(&store, &args.content.options()?, &out, context.env())?;
    let (size, unpacked) = (report.size, report.unpacked_size);
    let what = format!(
        "✓ wrote {} ({} uncompressed; {}× compression)",
        mib(size),
        mib(unpacked),
        ratio(unpacked, size)
    );
    context.output.line(&match report.links {
        1 => format!("{what} in {}", seconds(begun.elapsed())),
        links => format!("{what}  ({links} chain links)"),
    });
    context.output.line(&format!("  next: scp/upload, then `forkd unpack {shown}` on the target host"));
    context.output.json(&json!({
        "tag": tag.as_str(),
        "path": report.path.display().to_string(),
        "size_bytes": size,
        "unpacked_bytes": unpacked,
        "links": report.links,
        "seconds": begun.elapsed().as_secs_f64(),
    }));
    Ok(())
}
