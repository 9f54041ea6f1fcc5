use crate::config;
use crate::context::Context;
use crate::output::{mib, printable};
use crate::place::{LocalPlace, local, nowhere};
use anyhow::Result;
use forkd_core::cache::Cache;
use forkd_core::{Error, Kind, VerifyReport};
use serde::Serialize;

/// Compute every digest again and check every chain edge
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd verify pyagent")]
pub(crate) struct VerifyArgs {
    /// A tag in the store, or a pack file
    what: String,
}

#[derive(Serialize)]
struct VerifyAnswer<'a> {
    ok: bool,
    #[serde(flatten)]
    report: &'a VerifyReport,
}

pub(crate) fn run(args: &VerifyArgs, context: &Context<'_>) -> Result<()> {
    let store = config::store()?;
    let report = match local(&args.what, &store) {
        Some(LocalPlace::Tag(tag)) => forkd_core::verify_tag(&store, &tag, context.env())?,
        Some(LocalPlace::File(file)) => {
            let cache = config::cache_dir().ok().map(|dir| Cache::new(&dir));
            forkd_core::verify_file(&store, file, cache.as_ref(), context.env())?
        }
        None => return Err(nowhere(&args.what).into()),
    };
    for damage in &report.damage {
        context.output.answer(&printable(&format!("✗ {damage}")));
    }
    for tag in &report.unrecorded {
        context
            .output
            .line(&format!("! no digests were ever recorded for '{tag}': nothing to hold its files against"));
    }
    if report.renewed_times > 0 {
        let what = format!("✓ {} files have new times, and the right bytes", report.renewed_times);
        context.output.line(&format!("{what}: recorded, so that forks need not read them again"));
    }
    context.output.json(&VerifyAnswer { ok: report.damage.is_empty(), report: &report });
    match report.damage.len() {
        0 => {
            let (links, files, bytes) = (report.links, report.files, mib(report.bytes));
            let chain = if links > 1 { format!(" and {} chain edge(s)", links - 1) } else { String::new() };
            context.output.line(&format!("✓ verified '{}': {files} files{chain}, {bytes}", args.what));
            Ok(())
        }
        count => {
            let message = format!("'{}' is damaged in {count} place(s)", args.what);
            Err(Error::new(Kind::Integrity, message).hint("pull or unpack it again with --force").into())
        }
    }
}
