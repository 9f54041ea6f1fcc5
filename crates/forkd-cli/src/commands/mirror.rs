use crate::config;
use crate::context::Context;
use crate::output::{mib, printable};
use anyhow::Result;
use forkd_app::{CONNECTIONS, HubPlace, MirrorRequest};

/// Copy releases from one hub to another: only what is not there moves, and every digest stays
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  forkd mirror oci://ghcr.io/acme s3://bucket/forkd acme/python\n  \
forkd mirror /srv/hub oci-layout:/media/stick acme/python\n\nHubs: a folder, https://HOST/…/registry.json (from), \
oci://HOST[/NAMESPACE], s3://BUCKET[/PREFIX], oci-layout:DIR")]
pub(crate) struct MirrorArgs {
    /// The hub to read
    from: String,
    /// The hub to write
    to: String,
    /// Which ones [default: all that the hub lists]
    #[arg(value_name = "OWNER/NAME")]
    packages: Vec<String>,
}

pub(crate) fn run(args: &MirrorArgs, context: &Context<'_>) -> Result<()> {
    let request = MirrorRequest {
        from: HubPlace::parse(&args.from)?,
        to: HubPlace::parse(&args.to)?,
        packages: args.packages.clone(),
        connections: context.connections.unwrap_or(CONNECTIONS),
    };
    let settings = config::settings()?;
    let output = context.output;
    let reports = context.app(&settings).mirror(&request, &mut |report| {
        let name = printable(&format!("{}:{}", report.repository, report.tag));
        let (moved, there) = (mib(report.moved), mib(report.there));
        output.line(&format!("✓ {name}: moved {moved}, {there} were there"));
    })?;
    if reports.is_empty() {
        output.line("nothing to mirror: there are no releases");
    }
    output.json(&reports);
    Ok(())
}
