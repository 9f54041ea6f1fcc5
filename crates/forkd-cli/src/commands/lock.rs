use crate::config;
use crate::context::Context;
use crate::lockfile;
use anyhow::Result;
use forkd_app::{HubPlace, Hubs};
use forkd_core::{Error, Kind};
use forkd_format::{Lockfile, Reference};
use std::path::PathBuf;

/// Write down which artifacts names stand for, so that `forkd pull --locked` takes exactly those
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Names that are in the file already are looked up again; without a name all of them are.\n\n\
Examples:\n  forkd lock acme/pyagent acme/postgres@v3\n  forkd pull --locked"
)]
pub(crate) struct LockArgs {
    /// owner/name[@version]
    names: Vec<Reference>,
    /// The file
    #[arg(long, value_name = "FILE", default_value = lockfile::DEFAULT)]
    file: PathBuf,
    /// The hub [env: FORKD_HUB_URL]
    #[arg(long, value_name = "HUB")]
    hub: Option<String>,
}

pub(crate) fn run(args: &LockArgs, context: &Context<'_>) -> Result<()> {
    let settings = config::settings()?;
    let hubs = config::hubs(args.hub.as_deref())?;
    let mut lock = match lockfile::read(&args.file)? {
        Some(lock) => lock,
        None if args.names.is_empty() => {
            let message = format!("there is no {}", args.file.display());
            return Err(Error::new(Kind::NotFound, message).hint("forkd lock owner/name…").into());
        }
        None => Lockfile::new(Vec::new()),
    };
    let all = || lock.packages.iter().filter_map(|package| package.reference().ok()).collect();
    let names: Vec<Reference> = if args.names.is_empty() { all() } else { args.names.clone() };
    for name in &names {
        // As it was found before, unless the user says otherwise.
        let before =
            lock.packages.iter().find(|other| args.names.is_empty() && other.reference == name.to_string());
        let hubs = match before.filter(|_| args.hub.is_none()) {
            Some(before) => Hubs::one(HubPlace::parse(&before.hub)?),
            None => hubs.clone(),
        };
        let found = context.app(&settings).lock(name, &hubs)?;
        let what = match (&found.pack, found.release_sha256) {
            (Some(pack), _) => format!("sha256 {}", pack.sha256.short()),
            (None, Some(release)) => format!("release {}", release.short()),
            (None, None) => String::new(),
        };
        context.output.line(&format!("✓ {name}: {what}"));
        // One line a package: another version of it takes the place of the one that was asked for before.
        let same = |other: &forkd_format::LockedPackage| {
            other.reference().is_ok_and(|reference| reference.package == name.package)
        };
        match lock.packages.iter_mut().find(|other| same(other)) {
            Some(other) => *other = found,
            None => lock.packages.push(found),
        }
    }
    lockfile::write(&args.file, &lock)?;
    context.output.line(&format!("  {} has {} packages", args.file.display(), lock.packages.len()));
    context.output.json(&lock);
    Ok(())
}
