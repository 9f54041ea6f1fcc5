use crate::config;
use crate::context::Context;
use anyhow::Result;
use forkd_app::HubPlace;
use forkd_core::{Error, Kind};
use forkd_format::Reference;

/// Take a version off a hub's list
#[derive(Debug, clap::Args)]
#[command(after_help = "What it named stays until `forkd hub gc`: hosts may have pinned it.\n\n\
Example:\n  forkd unpublish acme/pyagent@v2 --from /srv/hub")]
pub(crate) struct UnpublishArgs {
    /// owner/name@version
    name: String,
    /// The hub [env: FORKD_HUB_URL]
    #[arg(long, value_name = "HUB")]
    from: Option<String>,
    /// Say what would be taken off, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &UnpublishArgs, context: &Context<'_>) -> Result<()> {
    let name: Reference = args.name.parse()?;
    if !args.name.contains('@') {
        let message = format!("'{}' names no version", name.package);
        return Err(Error::new(Kind::Usage, message)
            .hint(format!("forkd unpublish {}@VERSION", name.package))
            .into());
    }
    let hub = config::publishing_hub(args.from.as_deref())?;
    if let HubPlace::Registry { .. } | HubPlace::Layout(_) = hub {
        return Err(Error::new(Kind::Usage, format!("{hub} keeps releases by their tags"))
            .hint(format!("`forkd rmi --remote {hub}/{}:{}`", name.package, name.version))
            .into());
    }
    let settings = config::settings()?;
    let report = context.app(&settings).unpublish(&name, &hub, args.dry_run)?;
    let what = if report.dry_run { "would take" } else { "✓ took" };
    context.output.line(&format!("{what} {} off {}", report.reference, report.hub));
    context.output.line(&match report.left.as_slice() {
        [] => "  nothing is left of the package".to_owned(),
        left => format!("  left: {}", crate::output::printable(&left.join(", "))),
    });
    context.output.json(&report);
    Ok(())
}
