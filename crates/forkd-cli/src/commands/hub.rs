use crate::config;
use crate::context::Context;
use crate::hub_names::hub_place;
use crate::output::{mib, printable};
use anyhow::Result;
use forkd_app::{CollectOptions, HubPlace, Severity, SiteOptions};
use std::path::PathBuf;
use std::time::Duration;

/// Look after a hub of your own
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  forkd hub init /srv/hub\n  forkd hub check /srv/hub --deep\n  forkd hub gc s3://bucket/forkd"
)]
pub(crate) struct HubArgs {
    #[command(subcommand)]
    command: HubCommand,
}

#[derive(Debug, clap::Subcommand)]
enum HubCommand {
    Init(HubInitArgs),
    Check(HubCheckArgs),
    Page(HubPageArgs),
    Gc(HubGcArgs),
}

/// Make a hub: a folder or bucket with an empty registry.json
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  forkd hub init /srv/hub\n  forkd hub init s3://bucket/forkd")]
pub(crate) struct HubInitArgs {
    /// A folder, or s3://BUCKET[/PREFIX]
    hub: String,
}

/// See whether a hub's list is well formed and all that it names is there; exit code 6 where somebody who pulls would be refused
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  forkd hub check /srv/hub\n  forkd hub check https://hub.example.com/registry.json --deep"
)]
pub(crate) struct HubCheckArgs {
    /// A folder, s3://BUCKET[/PREFIX], or the URL of a registry.json
    hub: String,
    /// Read all bytes of all artifacts and hold them against their digests
    #[arg(long)]
    deep: bool,
}

fn check(args: &HubCheckArgs, context: &Context<'_>) -> Result<()> {
    let hub = hub_place(&args.hub, "HUB")?;
    let settings = config::settings()?;
    let report = context.app(&settings).check_hub(&hub, args.deep)?;
    let output = context.output;
    for fault in &report.faults {
        let sign = if fault.severity == Severity::Error { '✗' } else { '!' };
        output.answer(&printable(&format!("{sign} {}: {}", fault.what, fault.message)));
    }
    let (packages, versions, artifacts) = (report.packages, report.versions, report.artifacts);
    let read = if report.deep { "read" } else { "found" };
    output.line(&format!("{packages} packages, {versions} versions; {artifacts} artifacts {read}"));
    output.json(&report);
    let errors = report.faults.iter().filter(|fault| fault.severity == Severity::Error).count();
    if report.has_errors() {
        let message = format!("{}: {errors} of what it names cannot be pulled", report.hub);
        return Err(forkd_core::Error::new(forkd_core::Kind::Integrity, message)
            .hint("publish these versions again, or `forkd unpublish` them")
            .into());
    }
    let warnings = report.faults.len();
    output.line(&match warnings {
        0 => "✓ nothing is wrong with it".to_owned(),
        _ => format!("✓ all that it names can be pulled ({warnings} warnings)"),
    });
    Ok(())
}

/// Write a hub's catalogue as a static site: a list that can be searched, and a page for each package
#[derive(Debug, clap::Args)]
#[command(after_help = "It needs no server of its own: any web server, or a browser on the files.\n\n\
Examples:\n  forkd hub page /srv/hub --out /srv/hub --url https://hub.example.com/registry.json\n  forkd hub page s3://bucket/forkd --out site")]
pub(crate) struct HubPageArgs {
    /// A folder, s3://BUCKET[/PREFIX], oci://HOST[/NAMESPACE], or the URL of a registry.json
    hub: String,
    /// The folder for the site, which is made
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What visitors name the hub by in the command lines that they copy [default: HUB where that is a URL of a web server, a bucket or a registry]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// What stands above the list
    #[arg(long, value_name = "TEXT", default_value = "Snapshot hub")]
    title: String,
}

fn page(args: &HubPageArgs, context: &Context<'_>) -> Result<()> {
    let hub = hub_place(&args.hub, "HUB")?;
    let named = match &hub {
        HubPlace::Folder(_) | HubPlace::Layout(_) => None,
        hub => Some(hub.index_name()),
    };
    let settings = config::settings()?;
    let options = SiteOptions {
        title: args.title.clone(),
        hub: args.url.clone().or(named),
        made: Some(settings.timestamp.chars().take(10).collect()),
    };
    let report = context.app(&settings).hub_page(&hub, &args.out, &options)?;
    let place = args.out.join("index.html");
    context.output.line(&format!(
        "✓ {} packages on {} files: {}",
        report.packages,
        report.files,
        place.display()
    ));
    context.output.json(&report);
    Ok(())
}

/// Say which packs and blobs nothing names any more, or delete them
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  forkd hub gc s3://bucket/forkd\n  forkd hub gc s3://bucket/forkd --delete"
)]
pub(crate) struct HubGcArgs {
    /// s3://BUCKET[/PREFIX], or a folder
    hub: String,
    /// Delete them; without this they are only counted
    #[arg(long)]
    delete: bool,
    /// Leave what was written less than so many hours ago: somebody may be publishing it
    #[arg(long, value_name = "HOURS", default_value_t = 24.0)]
    grace: f64,
}

pub(crate) fn run(args: &HubArgs, context: &Context<'_>) -> Result<()> {
    match &args.command {
        HubCommand::Init(args) => init(args, context),
        HubCommand::Check(args) => check(args, context),
        HubCommand::Page(args) => page(args, context),
        HubCommand::Gc(args) => gc(args, context),
    }
}

fn init(args: &HubInitArgs, context: &Context<'_>) -> Result<()> {
    let hub = HubPlace::parse(&args.hub)?;
    let settings = config::settings()?;
    let is_new = context.app(&settings).init_hub(&hub)?;
    context.output.line(&if is_new {
        format!("✓ {hub} is a hub now\n  next: forkd publish TAG owner/name@v1 --to {hub}")
    } else {
        format!("✓ {hub} is a hub already; nothing was changed")
    });
    context.output.json(&serde_json::json!({ "hub": hub.to_string(), "created": is_new }));
    Ok(())
}

fn gc(args: &HubGcArgs, context: &Context<'_>) -> Result<()> {
    let hub = HubPlace::parse(&args.hub)?;
    let grace = Duration::try_from_secs_f64(args.grace * 3600.0).map_err(|_| {
        let message = "--grace is a number of hours, from 0";
        forkd_core::Error::new(forkd_core::Kind::Usage, message)
    })?;
    let settings = config::settings()?;
    let options = CollectOptions { grace, dry_run: !args.delete };
    let report = context.app(&settings).collect_hub(&hub, options)?;
    let (blobs, bytes) = (report.deleted_blobs, mib(report.deleted_bytes));
    let output = context.output;
    output.line(&match (blobs, report.dry_run) {
        (0, _) => "✓ nothing to delete".to_owned(),
        (_, true) => format!("would delete {blobs} files ({bytes}); add --delete to do it"),
        (_, false) => format!("✓ deleted {blobs} files ({bytes})"),
    });
    output.line(&format!(
        "  {} files are in use ({} tags); {} more are too young to go",
        report.kept_blobs, report.tags, report.young_blobs
    ));
    output.json(&report);
    Ok(())
}
