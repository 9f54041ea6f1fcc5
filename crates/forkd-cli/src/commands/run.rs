use super::fork::ForkArgs;
use crate::complete;
use crate::context::Context;
use anyhow::Result;

/// Run a command in a fresh child of a snapshot, pulled first where it is not here; the child goes with it
#[derive(Debug, clap::Args)]
#[command(after_help = "Without a command the guest's eval endpoint can be asked (--eval).\n\nExamples:\n  \
forkd run python-numpy -- python3 -c 'print(6 * 7)'\n  forkd run acme/python-numpy --eval 'np.arange(9).sum()'")]
pub(crate) struct RunArgs {
    /// A snapshot in the store, or a URL or owner/name[@version] on a hub
    #[arg(value_name = "SNAPSHOT", add = complete::tags())]
    snapshot: String,
    /// The hub for owner/name [env: FORKD_HUB_URL]
    #[arg(long, value_name = "HUB")]
    hub: Option<String>,
    /// Give the child a network: it reaches what this user reaches, this host's loopback included
    #[arg(long)]
    net: bool,
    /// Memory of the host's that the child may take, at most
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(16..=1_048_576))]
    memory_limit_mib: Option<u64>,
    /// Ask the guest's eval endpoint
    #[arg(long, value_name = "EXPR", conflicts_with = "command", required_unless_present = "command")]
    eval: Option<String>,
    /// Kill the program, or give its answer up, after so long
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout_secs: Option<u32>,
    /// What runs; its output and its exit code are ours
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(crate) fn run(args: &RunArgs, context: &Context<'_>) -> Result<()> {
    context.output.pass_through();
    let fork = ForkArgs {
        source: Some(args.snapshot.clone()),
        tag: None,
        hub: args.hub.clone(),
        n: 1,
        settle_secs: 0,
        detach: false,
        memory_limit_mib: args.memory_limit_mib,
        net: args.net,
        eval: args.eval.clone(),
        timeout_secs: args.timeout_secs,
        command: args.command.clone(),
    };
    super::fork::run(&fork, context)
}
