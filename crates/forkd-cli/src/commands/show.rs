use crate::config;
use crate::context::Context;
use crate::output::{mib, printable};
use anyhow::Result;
use forkd_app::PackageReport;
use forkd_format::Reference;
use forkd_format::registry::{VersionDetails, engine_words};
use serde_json::Value;

/// Show a package of a hub: versions, sizes, what it runs under, and what pulling it would cost here
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  forkd show acme/pyagent\n  forkd show acme/pyagent@v1 --hub /srv/hub")]
pub(crate) struct ShowArgs {
    /// owner/name[@version]
    name: Reference,
    /// The hub [env: FORKD_HUB_URL]
    #[arg(long, value_name = "HUB")]
    hub: Option<String>,
}

pub(crate) fn run(args: &ShowArgs, context: &Context<'_>) -> Result<()> {
    let settings = config::settings()?;
    let hubs = config::hubs(args.hub.as_deref())?;
    let report = context.app(&settings).show(&args.name, &hubs)?;
    context.output.answer(&text(&report));
    context.output.json(&report);
    Ok(())
}

fn text(report: &PackageReport) -> String {
    let package = &report.package;
    let mut lines = vec![printable(&package.name)];
    let mut field = |name: &str, value: &str| lines.push(format!("  {name:<12}{}", printable(value)));
    if let Some(description) = &package.description {
        field("description", description);
    }
    field("hub", &report.hub);
    let version = package.version(&report.version);
    if let Some(version) = version {
        about(version, &mut field);
    }
    field("signed", "no (signatures are not there yet)");
    field(
        "here",
        &match (&report.pull.here, report.pull.fetch_bytes) {
            (Some(tag), _) => format!("yes, as '{tag}'"),
            (None, Some(bytes)) => format!("no; a pull would fetch {}", mib(bytes)),
            (None, None) => "no; the server does not say what a pull would fetch".to_owned(),
        },
    );
    if let Some(misfit) = &report.misfit {
        field("! not here", misfit);
    }
    lines.push(String::new());
    lines.push(format!("  {:<12}{:>10}  {:>10}  CREATED", "VERSION", "SIZE", "UPDATE"));
    for version in &package.versions {
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), mib);
        let (created, fault) = (version.created_at.as_deref().unwrap_or("-"), version.fault.as_deref());
        let last = fault.map_or_else(|| created.to_owned(), |fault| format!("cannot be read: {fault}"));
        lines.push(format!(
            "  {:<12}{:>10}  {:>10}  {}",
            printable(&version.version),
            size(version.smallest()),
            size(version.update()),
            printable(&last)
        ));
    }
    lines.join("\n")
}

fn about(version: &VersionDetails, field: &mut dyn FnMut(&str, &str)) {
    if let Some(pack) = &version.pack {
        field("sha256", &pack.sha256.to_string());
        field("size", &format!("{} ({} bytes), for every host", mib(pack.size_bytes), pack.size_bytes));
    }
    for artifact in &version.artifacts {
        let bases: Vec<&str> = artifact.bases.iter().map(|base| base.name.as_str()).collect();
        let what = match bases.as_slice() {
            [] => "format 3".to_owned(),
            bases => format!("format 3, for hosts that have {}", bases.join(", ")),
        };
        field("", &format!("{} ({} bytes), {what}", mib(artifact.size_bytes), artifact.size_bytes));
    }
    if let Some(release) = &version.release {
        field("release", &format!("sha256:{} ({})", release.digest, mib(release.size_bytes)));
    }
    if let Some(memory) = version.memory_mib {
        field("memory", &format!("{memory} MiB"));
    }
    if let Some(image) = &version.base_image {
        field("base image", image);
    }
    if let Some(created) = &version.created_at {
        field("created", created);
    }
    if let Some(recipe) = &version.recipe_path {
        field("recipe", recipe);
    }
    if !version.chain.is_empty() {
        field("chain", &version.chain.join(" → "));
    }
    let untold = || "an engine that the hub does not tell".to_owned();
    field("needs", &version.engine.as_ref().map_or_else(untold, engine_words));
    for variant in &version.variants {
        let engine = engine_words(&Value::Object(variant.engine.clone()));
        field("or", &format!("{engine} ({})", mib(variant.pack.size_bytes)));
    }
}
