use crate::config;
use crate::context::Context;
use anyhow::Result;
use forkd_app::TagChoice;
use forkd_core::{Outcome, UnpackReport};
use forkd_format::Tag;
use std::path::PathBuf;

/// Unpack a pack into the local store, checking every digest
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd unpack pyagent.forkd-snapshot.tar.zst")]
pub(crate) struct UnpackArgs {
    /// The pack
    file: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// Where the snapshot goes.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// Another tag for the snapshot; not for chains
    #[arg(long, value_name = "NEW")]
    tag: Option<Tag>,
    /// Replace a snapshot that has other bytes
    #[arg(long)]
    force: bool,
}

impl Place {
    pub(crate) fn choice(&self) -> TagChoice {
        TagChoice { tag: self.tag.clone(), force: self.force, update: false }
    }
}

pub(crate) fn run(args: &UnpackArgs, context: &Context<'_>) -> Result<()> {
    let settings = config::settings()?;
    let report = context.app(&settings).unpack(&args.file, &args.place.choice())?;
    tell(&report, context);
    context.output.json(&report);
    Ok(())
}

/// Prints what is in the store now.
pub(crate) fn tell(report: &UnpackReport, context: &Context<'_>) {
    let head = &report.head;
    if report.chain {
        let quoted = |tag: &Tag| format!("'{tag}'");
        let width =
            report.links.iter().map(|link| quoted(&link.tag).len().max(quoted(&link.local_tag).len())).max();
        let width = width.unwrap_or_default();
        for link in &report.links {
            let parent =
                link.parent.as_ref().map(|parent| format!("  (chain parent: {parent})")).unwrap_or_default();
            context.output.line(&format!(
                "✓ link {:width$} → {:width$} at {}/{parent}{}",
                quoted(&link.tag),
                quoted(&link.local_tag),
                config::display(&link.path),
                if link.outcome == Outcome::Kept { "  (already here)" } else { "" },
            ));
        }
        context.output.line(&format!("✓ unpacked {} chain link(s), head = '{head}'", report.links.len()));
    } else if let Some(link) = report.links.last() {
        let path = config::display(&link.path);
        context.output.line(&match link.outcome {
            Outcome::Kept => format!("✓ tag '{head}' is already at {path}/ with the same bytes"),
            _ => format!("✓ unpacked tag '{head}' at {path}/"),
        });
    }
    context.output.line(&format!("  next: forkd fork --tag {head} -n <N>"));
}
