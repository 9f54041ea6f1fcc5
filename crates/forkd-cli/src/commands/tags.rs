use crate::config;
use crate::context::Context;
use crate::output::printable;
use anyhow::Result;
use forkd_app::ReleasePlace;
use forkd_core::{Error, Kind};

/// List the tags of a repository
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd tags oci://ghcr.io/owner/pyagent")]
pub(crate) struct TagsArgs {
    /// oci://HOST/NAME or oci-layout:DIR
    #[arg(value_name = "REPOSITORY")]
    place: String,
}

pub(crate) fn run(args: &TagsArgs, context: &Context<'_>) -> Result<()> {
    let place = repository(&args.place)?;
    let settings = config::settings()?;
    let report = context.app(&settings).tags(&place)?;
    for tag in &report.tags {
        context.output.answer(&printable(tag));
    }
    if report.tags.is_empty() {
        context.output.line(&format!("no tags in {}", report.repository));
    }
    context.output.json(&report);
    Ok(())
}

/// A repository, with or without a tag.
pub(crate) fn repository(text: &str) -> forkd_core::Result<ReleasePlace> {
    ReleasePlace::parse(text)?.ok_or_else(|| {
        let message =
            format!("'{}' is no repository; expected oci://HOST/NAME or oci-layout:DIR", printable(text));
        Error::new(Kind::Usage, message)
    })
}
