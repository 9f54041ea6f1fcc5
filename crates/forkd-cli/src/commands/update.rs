use super::pull::tell_pull;
use crate::config;
use crate::context::Context;
use crate::output::mib;
use anyhow::Result;
use forkd_app::UpdateReport;
use forkd_format::Reference;

/// Say which snapshots have newer versions on the hubs, or move some to them
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a name nothing is changed.\n\nExamples:\n  forkd update\n  forkd update acme/pyagent\n  \
forkd update acme/pyagent@v1\n  forkd update --all"
)]
pub(crate) struct UpdateArgs {
    /// owner/name[@version]: moves to that version, `latest` as a rule
    names: Vec<Reference>,
    /// Move all
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Say what would be moved, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// The hub [env: FORKD_HUB_URL]
    #[arg(long, value_name = "HUB")]
    hub: Option<String>,
}

pub(crate) fn run(args: &UpdateArgs, context: &Context<'_>) -> Result<()> {
    let settings = config::settings()?;
    let hubs = config::hubs(args.hub.as_deref())?;
    let reports = context.app(&settings).updates(&args.names, &hubs)?;
    let output = context.output;
    for report in &reports {
        output.answer(&line(report));
    }
    if reports.is_empty() {
        output.line("nothing here was pulled by a name");
    }
    let newer: Vec<&UpdateReport> = reports.iter().filter(|report| report.newer.is_some()).collect();
    if args.dry_run || (args.names.is_empty() && !args.all) {
        if let Some(first) = newer.first() {
            output.line(&format!("  next: forkd update {}, or --all", first.from.package));
        }
        output.json(&serde_json::json!({ "snapshots": reports }));
        return Ok(());
    }
    for report in newer {
        let asked = args.names.iter().find(|name| name.package == report.from.package).cloned();
        let latest =
            Reference { package: report.from.package.clone(), version: "latest".into(), digest: None };
        let request = context.app(&settings).update_request(&asked.unwrap_or(latest), &report.tag, &hubs);
        tell_pull(&context.app(&settings).pull(&request)?, context);
    }
    output.json(&serde_json::json!({ "snapshots": reports }));
    Ok(())
}

fn line(report: &UpdateReport) -> String {
    let UpdateReport { tag, from, newer, fetch_bytes } = report;
    match newer {
        None => format!("✓ '{tag}' ({}) is the newest", from.package),
        Some(newer) => {
            let cost = fetch_bytes.map_or_else(String::new, |bytes| format!(": {} to fetch", mib(bytes)));
            format!("↑ '{tag}' ({}) can move to {}{cost}", from.package, crate::output::printable(newer))
        }
    }
}
