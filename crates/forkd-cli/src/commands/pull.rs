use super::unpack::{Place, tell};
use crate::config;
use crate::context::Context;
use crate::lockfile;
use crate::output::{mib, printable};
use crate::place::source;
use anyhow::Result;
use forkd_app::{ArrivalProgram, ForkSource, PullRequest, PullSource, TagChoice};
use forkd_core::{Error, Kind, PullReport, PullSummary};
use forkd_format::{LockedPackage, Reference, Tag};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Download a pack, check it, and unpack it into the local store
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  forkd pull deeplethe/python-numpy\n  forkd pull deeplethe/python-numpy@v1\n  \
forkd pull 'https://host/pyagent.forkd-snapshot.tar.zst#sha256=<hex>'"
)]
pub(crate) struct PullArgs {
    /// A URL, or owner/name[@version] on a hub
    #[arg(required_unless_present = "locked")]
    source: Option<String>,
    /// Take what forkd.lock says and nothing else: of all names in it, or of the one that is given
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = lockfile::DEFAULT,
        conflicts_with_all = ["hub", "update", "lazy", "dry_run"])]
    locked: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    /// The registry for owner/name [env: FORKD_HUB_URL]
    #[arg(long, value_name = "URL")]
    hub: Option<String>,
    /// Say what would be fetched and what is here, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Move the tag under which owner/name is here to this version; the old one stays until the new one is whole
    #[arg(long, conflicts_with_all = ["force", "tag", "lazy"])]
    update: bool,
    /// Return as soon as the snapshot can be forked; the rest comes in the background
    #[arg(long, conflicts_with = "dry_run")]
    lazy: bool,
    /// Fetch and serve a snapshot that is arriving; what happens is printed as JSON
    #[arg(long, hide = true)]
    serve_arrival: bool,
    /// End machines whose files are no longer served
    #[arg(long, hide = true)]
    guard_arrival: bool,
    /// Fetch no more bytes a second than this, over all connections: 500k, 2M
    #[arg(long, value_name = "RATE", value_parser = bytes_per_second)]
    limit_rate: Option<u64>,
}

pub(crate) fn run(args: &PullArgs, context: &Context<'_>) -> Result<()> {
    if args.guard_arrival {
        forkd_core::arrival::guard(std::io::stdin().lock());
        return Ok(());
    }
    if let Some(file) = &args.locked {
        return locked(file, args, context);
    }
    let named = args.source.as_deref().unwrap_or_default();
    let mut request = PullRequest {
        source: source(named, args.hub.as_deref())?,
        place: args.place.choice(),
        connections: context.connections,
        limit_rate: args.limit_rate,
    };
    if args.serve_arrival {
        let settings = config::settings()?;
        let guard = ["pull", "--guard-arrival", "--", named].map(OsString::from).to_vec();
        let guard = ArrivalProgram { program: std::env::current_exe()?, args: guard };
        context.app(&settings).serve_arrival(&request, &guard, &|word| {
            use std::io::Write;
            let mut out = std::io::stdout().lock();
            // Nobody may be there to hear it any more.
            let _ = serde_json::to_writer(&mut out, word)
                .map(|()| out.write_all(b"\n").and_then(|()| out.flush()));
        })?;
        return Ok(());
    }
    if let PullSource::Name(_, hub) = &request.source {
        context.output.line(&format!("→ resolves via {hub}"));
    }
    let settings = config::settings()?;
    if args.update {
        let PullSource::Name(reference, hubs) = &request.source else {
            let message = "--update is for owner/name: what comes by a URL has no versions";
            return Err(Error::new(Kind::Usage, message).into());
        };
        if let Some(tag) = context.app(&settings).tag_of(&reference.package, hubs)? {
            request.place = TagChoice { tag: Some(tag), force: false, update: true };
        }
    }
    if args.dry_run {
        return tell_plan(&context.app(&settings).pull_summary(&request)?, context);
    }
    if args.lazy
        && let ForkSource::Arriving(snapshot, _) =
            context.app(&settings).arrive(&request, &program(named, args.hub.as_deref(), &request)?)?
    {
        let (tag, here, total) = (&snapshot.tag, mib(snapshot.here), mib(snapshot.total));
        context
            .output
            .line(&format!("✓ '{tag}' can be forked: {here} of {total} are here; the rest is arriving"));
        context.output.line(&format!("  next: forkd fork --tag {tag} -n <N>"));
        context.output.json(&snapshot);
        return Ok(());
    }
    let report = context.app(&settings).pull(&request)?;
    tell_pull(&report, context);
    context.output.json(&report);
    Ok(())
}

/// Pulls what a lockfile names.
fn locked(file: &Path, args: &PullArgs, context: &Context<'_>) -> Result<()> {
    let missing = || {
        Error::new(Kind::NotFound, format!("there is no {}", file.display())).hint("forkd lock owner/name…")
    };
    let lock = lockfile::read(file)?.ok_or_else(missing)?;
    let mut packages = lock.packages;
    if let Some(name) = &args.source {
        let wanted: Reference = name.parse()?;
        packages.retain(|package| package.reference().is_ok_and(|other| other.package == wanted.package));
        let is_other = |package: &LockedPackage| {
            let says_version = name.split("@sha256:").next().is_some_and(|name| name.contains('@'));
            let named =
                says_version && package.reference().is_ok_and(|other| other.version != wanted.version);
            let digests = package.pack.iter().map(|pack| pack.sha256).chain(package.release_sha256);
            let mut digests = digests.chain(package.artifacts.iter().map(|one| one.manifest_sha256));
            named || wanted.digest.is_some_and(|pin| !digests.any(|digest| digest == pin))
        };
        if let Some(package) = packages.iter().find(|package| is_other(package)) {
            let message = format!("{} has {}, not {name}", file.display(), package.reference);
            return Err(Error::new(Kind::NotFound, message).hint(format!("forkd lock {name}")).into());
        }
        if packages.is_empty() {
            let message = format!("'{}' is not in {}", wanted.package, file.display());
            return Err(Error::new(Kind::NotFound, message).hint(format!("forkd lock {name}")).into());
        }
    }
    let settings = config::settings()?;
    let place = args.place.choice();
    if place.tag.is_some() && packages.len() > 1 {
        return Err(Error::new(
            Kind::Usage,
            format!("--tag names one snapshot; {} has {}", file.display(), packages.len()),
        )
        .into());
    }
    let hubs = config::hubs(None)?;
    let mut reports = Vec::new();
    for package in packages {
        context.output.line(&format!("→ {} as {} has it", package.reference, file.display()));
        let is_known = hubs.have(&package.hub);
        let request = PullRequest {
            source: PullSource::Locked { package: Box::new(package), is_known },
            place: place.clone(),
            connections: context.connections,
            limit_rate: args.limit_rate,
        };
        let report = context.app(&settings).pull(&request)?;
        tell_pull(&report, context);
        reports.push(report);
    }
    context.output.json(&serde_json::json!({ "pulled": reports }));
    Ok(())
}

/// Says what came.
pub(crate) fn tell_pull(report: &PullReport, context: &Context<'_>) {
    if let Some(choice) = &report.choice {
        context.output.line(&printable(&format!("→ {choice}")));
    }
    if report.unpack.nothing_new() && report.downloaded == 0 {
        context.output.line("✓ nothing to download: all of it is here already");
    } else {
        context.output.line(&format!("✓ downloaded {}", mib(report.downloaded)));
        if report.resumed > 0 {
            context.output.line(&format!("✓ {} of it were here from an earlier run", mib(report.resumed)));
        }
        tell_reused(&report.reused, context);
        context.output.line(&match &report.verified {
            Some(verified) => format!("✓ sha256 verified ({}...)", verified.id().digest().short()),
            None => "! no sha256 was given for the pack: only the digests in its own manifest were checked"
                .to_owned(),
        });
    }
    tell(&report.unpack, context);
}

/// This program, as one that fetches and serves what arrives.
pub(crate) fn program(source: &str, hub: Option<&str>, request: &PullRequest) -> Result<ArrivalProgram> {
    let mut args: Vec<OsString> = Vec::new();
    args.extend(request.connections.iter().flat_map(|count| ["--jobs".into(), count.to_string().into()]));
    args.extend(["pull".into(), "--serve-arrival".into()]);
    args.extend(hub.into_iter().flat_map(|hub| ["--hub".into(), hub.into()]));
    args.extend(request.place.tag.iter().flat_map(|tag| ["--tag".into(), tag.as_str().into()]));
    args.extend(request.place.force.then(|| "--force".into()));
    args.extend(request.limit_rate.iter().flat_map(|rate| ["--limit-rate".into(), rate.to_string().into()]));
    args.extend(["--".into(), source.into()]);
    Ok(ArrivalProgram { program: std::env::current_exe()?, args })
}

/// Says what would be fetched.
fn tell_plan(plan: &PullSummary, context: &Context<'_>) -> Result<()> {
    if plan.here.is_some() {
        context.output.answer("nothing to fetch: all of it is here already");
    } else {
        if let Some(choice) = &plan.choice {
            context.output.answer(&printable(&format!("→ {choice}")));
        }
        let from = plan.location.as_ref().map(ToString::to_string).unwrap_or_default();
        let bytes = plan.fetch_bytes.map_or_else(|| "all that there is".to_owned(), mib);
        context.output.answer(&format!("would fetch {bytes} from {from}"));
        if plan.no_ranges {
            context
                .output
                .answer("the server gives no ranges: all of the pack comes, whatever of it is here");
        }
        for (tag, bytes) in plan.reused.iter().filter(|_| !plan.no_ranges) {
            context.output.answer(&format!("would take {} from '{tag}'", mib(*bytes)));
        }
    }
    context.output.json(plan);
    Ok(())
}

fn tell_reused(reused: &BTreeMap<Tag, u64>, context: &Context<'_>) {
    for (tag, bytes) in reused {
        context.output.line(&format!("✓ took {} from '{tag}'", mib(*bytes)));
    }
}

/// A number of bytes: 500k, 2M, 1.5G (powers of 1024).
fn bytes_per_second(text: &str) -> std::result::Result<u64, String> {
    let wrong = || {
        format!("'{text}' is no rate: expected a number of bytes a second, with k, M or G behind it for more")
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "" => 1.0,
        "k" | "K" => 1024.0,
        "m" | "M" => 1024.0 * 1024.0,
        "g" | "G" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    if number.is_finite() && number * scale >= 1.0 { Ok((number * scale) as u64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::bytes_per_second;

    #[test]
    fn rates_are_read_as_people_write_them() {
        assert_eq!(bytes_per_second("500"), Ok(500));
        assert_eq!(bytes_per_second("500k"), Ok(512_000));
        assert_eq!(bytes_per_second("1.5M"), Ok(1_572_864));
        assert_eq!(bytes_per_second("2G"), Ok(2 << 30));
        for bad in ["", "0", "-1", "k", "5x", "5 M", "nan", "inf"] {
            assert!(bytes_per_second(bad).is_err(), "{bad}");
        }
    }
}
