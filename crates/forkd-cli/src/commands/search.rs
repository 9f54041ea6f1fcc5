use crate::config;
use crate::context::Context;
use crate::output::{mib, printable};
use anyhow::Result;
use forkd_format::registry::PackageDetails;

/// Find packages on the hubs by words of their names and descriptions
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  forkd search\n  forkd search python numpy --hub /srv/hub")]
pub(crate) struct SearchArgs {
    /// Words, all of which must be there; none for all packages
    words: Vec<String>,
    /// The hub [env: FORKD_HUB_URL]
    #[arg(long, value_name = "HUB")]
    hub: Option<String>,
}

pub(crate) fn run(args: &SearchArgs, context: &Context<'_>) -> Result<()> {
    let settings = config::settings()?;
    let hubs = config::hubs(args.hub.as_deref())?;
    let found = context.app(&settings).search(&args.words, &hubs)?;
    let output = context.output;
    for hub in found.iter().filter(|hub| hub.fault.is_some()) {
        let fault = hub.fault.as_deref().unwrap_or_default();
        context.env().progress.note(&format!("{}: {}", hub.hub, printable(fault)));
    }
    let packages: Vec<&PackageDetails> = found.iter().flat_map(|hub| &hub.packages).collect();
    let names: Vec<String> = packages.iter().map(|package| printable(&package.name)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(4).clamp(4, 48);
    if output.is_quiet() {
        names.iter().for_each(|name| output.answer(name));
    } else if packages.is_empty() {
        let words = args.words.join(" ");
        output.answer(&match words.as_str() {
            "" => format!("no packages in {hubs}"),
            words => format!("nothing found for '{}' in {hubs}", printable(words)),
        });
    } else {
        output.answer(&format!("{:<width$}  {:<10}  {:>10}  DESCRIPTION", "NAME", "LATEST", "SIZE"));
        for (package, name) in packages.iter().zip(&names) {
            let description = printable(package.description.as_deref().unwrap_or_default());
            let (version, size) = latest(package);
            let line = format!("{name:<width$}  {version:<10}  {size:>10}  {description}");
            output.answer(output.fit(line.trim_end()));
        }
    }
    output.json(&serde_json::json!({ "hubs": found }));
    Ok(())
}

/// The name that `latest` has beside that, and its size.
fn latest(package: &PackageDetails) -> (String, String) {
    let Some(latest) = package.latest() else { return (String::new(), String::new()) };
    let name = package.own_name(latest).unwrap_or(&latest.version);
    (printable(name), latest.smallest().map_or_else(String::new, mib))
}
