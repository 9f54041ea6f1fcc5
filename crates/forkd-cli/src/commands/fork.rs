use crate::complete;
use crate::config;
use crate::context::Context;
use crate::output::mib;
use crate::place::source;
use anyhow::{Context as _, Result};
use forkd_app::{ChildWork, ForkRequest, ForkSource, PullRequest, Settings, TagChoice};
use forkd_core::arrival::Lease;
use forkd_core::machine::Limits;
use forkd_format::Tag;
use std::time::Duration;

/// Fork a snapshot copy-on-write into children
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --detach no child outlives the command.\n\nExamples:\n  forkd fork python-numpy -n 8 --eval 'np.arange(9).sum()'\n  \
                  forkd fork python-numpy -n 8 -- sh -c 'hostname; date'\n  forkd fork acme/python-numpy --detach"
)]
pub(crate) struct ForkArgs {
    /// A snapshot in the store, or a URL or owner/name[@version] on a hub: children start as soon as what they need first is here
    #[arg(value_name = "SNAPSHOT", required_unless_present = "tag", conflicts_with = "tag", add = complete::tags())]
    pub(crate) source: Option<String>,
    /// A snapshot in the store
    #[arg(long, add = complete::tags())]
    pub(crate) tag: Option<Tag>,
    /// The hub for owner/name [env: FORKD_HUB_URL]
    #[arg(long, value_name = "HUB")]
    pub(crate) hub: Option<String>,
    /// How many children
    #[arg(short, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) n: u16,
    /// Let the children run on for so long after they are awake and their work is done
    #[arg(long, default_value_t = 0, value_name = "SECS")]
    pub(crate) settle_secs: u32,
    /// Let the children live on; see `forkd ls`
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Memory of the host's that each child may take, at most
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(16..=1_048_576))]
    pub(crate) memory_limit_mib: Option<u64>,
    /// Give the children a network: they reach what this user reaches, this host's loopback included
    #[arg(long)]
    pub(crate) net: bool,
    /// Ask the guest's eval endpoint in every child
    #[arg(long, value_name = "EXPR", conflicts_with = "command")]
    pub(crate) eval: Option<String>,
    /// Kill the program of a child, or give its answer up, after so long
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) timeout_secs: Option<u32>,
    /// Run in every child; each line of output gets the child's number, and the worst exit code is ours
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// What is to be forked, and the right to read it where it is arriving.
fn find(args: &ForkArgs, context: &Context<'_>, settings: &Settings) -> Result<(Tag, Option<Lease>)> {
    let here = args.source.as_ref().and_then(|what| what.parse::<Tag>().ok()).or(args.tag.clone());
    if let Some(tag) = here {
        let lease = if settings.store.contains(&tag) { None } else { Lease::open(&settings.store, &tag)? };
        return Ok((tag, lease));
    }
    let what = args.source.as_ref().context("clap wants one of the two")?;
    let request = PullRequest {
        source: source(what, args.hub.as_deref())?,
        place: TagChoice::default(),
        connections: context.connections,
        limit_rate: None,
    };
    let program = super::pull::program(what, args.hub.as_deref(), &request)?;
    match context.app(settings).arrive(&request, &program)? {
        ForkSource::Whole(tag) => Ok((tag, None)),
        ForkSource::Arriving(snapshot, lease) => {
            let (tag, here, total) = (&snapshot.tag, mib(snapshot.here), mib(snapshot.total));
            context.output.line(&format!("→ '{tag}' is arriving: {here} of {total} are here"));
            Ok((snapshot.tag, Some(lease)))
        }
    }
}

/// What is done in children: an expression, else a command, else nothing.
pub(super) fn work_of(expression: Option<&str>, command: &[String]) -> ChildWork {
    match expression {
        Some(expression) => ChildWork::Eval(expression.to_owned()),
        None if command.is_empty() => ChildWork::None,
        None => ChildWork::Program(command.to_vec()),
    }
}

pub(crate) fn run(args: &ForkArgs, context: &Context<'_>) -> Result<()> {
    let settings = config::settings()?;
    let work = work_of(args.eval.as_deref(), &args.command);
    let did = match work {
        ChildWork::Eval(_) => "answered",
        ChildWork::None => "ready",
        ChildWork::Program(_) => "ended",
    };
    let (tag, lease) = find(args, context, &settings)?;
    let request = ForkRequest {
        tag: tag.clone(),
        lease,
        count: args.n.into(),
        limits: Limits {
            network: args.net,
            memory: args.memory_limit_mib.map(|mib| mib << 20),
            detached: args.detach,
        },
        work,
        time_limit: args.timeout_secs.map(|secs| Duration::from_secs(secs.into())),
        keep_output: context.output.is_json(),
        settle: Duration::from_secs(args.settle_secs.into()),
    };
    let report = context.app(&settings).fork(&request)?;
    let plural = if args.n == 1 { "child" } else { "children" };
    let time = report.time.as_secs_f64();
    if context.output.passes_through() {
        context.output.exit_with(report.exit_code());
        context.output.json(&report);
        return Ok(());
    }
    context.output.line(&format!("✓ {} {plural} of '{}' {did} in {time:.2}s", args.n, tag));
    if args.detach {
        let first = report.children.first().map_or("<ID>", |child| child.id.as_str());
        context.output.line(&format!("  next: forkd exec {first} -- <CMD>, forkd ls, forkd kill --all"));
    }
    context.output.exit_with(report.exit_code());
    context.output.json(&report);
    Ok(())
}
