use super::Context;
use super::unpack::{Place, tell, to_json};
use crate::config;
use crate::output::mib;
use anyhow::Result;
use forkd_core::remote::Location;
use forkd_core::{PullOptions, Target};
use forkd_remote::AnyRemote;

/// Download a pack, check it, and unpack it into the local store
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  forkd pull deeplethe/python-numpy\n  forkd pull deeplethe/python-numpy@v1\n  \
forkd pull 'https://host/pyagent.forkd-snapshot.tar.zst#sha256=<hex>'"
)]
pub(crate) struct Args {
    /// A URL, or owner/name[@version] in the registry
    source: String,
    #[command(flatten)]
    place: Place,
    /// The registry for owner/name [env: FORKD_HUB_URL]
    #[arg(long, value_name = "URL")]
    hub: Option<String>,
}

/// A URL, or a name in a registry.
pub(crate) fn target(source: &str, hub: Option<&str>) -> forkd_core::Result<Target> {
    if source.contains("://") || source.starts_with("file:") {
        return Location::parse(source).map(Target::Url);
    }
    let hint = if std::path::Path::new(source).is_file() {
        "; a file on this host is for `forkd unpack`"
    } else {
        ""
    };
    let wrong =
        |e: forkd_format::FormatError| forkd_core::Error::new(forkd_core::Kind::Usage, format!("{e}{hint}"));
    Ok(Target::Reference { reference: source.parse().map_err(wrong)?, hub: config::hub(hub)? })
}

pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<()> {
    let target = target(&args.source, args.hub.as_deref())?;
    if let Target::Reference { hub, .. } = &target {
        context.output.line(&format!("→ resolves via {hub}"));
    }
    let remote = AnyRemote::new(&config::http()?)?;
    let options = PullOptions { target, unpack: args.place.options() };
    let report = forkd_core::pull(&config::store()?, &remote, &options, context.env())?;
    if report.unpack.nothing_new() && report.downloaded == 0 {
        context.output.line("✓ nothing to download: all of it is here already");
    } else {
        context.output.line(&format!("✓ downloaded {}", mib(report.downloaded)));
        context.output.line(&match &report.sha256 {
            Some(sha256) => format!("✓ sha256 verified ({}...)", sha256.short()),
            None => "! no sha256 was given for the pack: only the digests in its own manifest were checked"
                .to_owned(),
        });
    }
    tell(&report.unpack, context);
    let mut json = to_json(&report.unpack);
    json["downloaded_bytes"] = report.downloaded.into();
    json["sha256"] = report.sha256.map(|sha256| sha256.to_string()).into();
    context.output.json(&json);
    Ok(())
}
