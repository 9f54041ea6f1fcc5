use crate::config;
use crate::context::Context;
use crate::output::printable;
use anyhow::Result;
use forkd_app::{Machines, eval};
use serde::Serialize;
use std::io::IsTerminal;
use std::time::Duration;

/// Ask a child's eval endpoint: a warm program that answers without being started
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd eval 3fa1c9e2 'np.linalg.det(np.eye(3))'")]
pub(crate) struct EvalArgs {
    /// The child: its name, or the beginning of it
    id: String,
    /// What to ask; what that means is up to the program in the guest (docs/agent.md)
    #[arg(value_name = "EXPR", allow_hyphen_values = true)]
    expression: String,
    /// Give up after so long; the guest's agent does after 600 s
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout_secs: Option<u32>,
}

#[derive(Serialize)]
struct EvalAnswer<'a> {
    id: &'a str,
    answer: String,
}

pub(crate) fn run(args: &EvalArgs, context: &Context<'_>) -> Result<()> {
    let machines = Machines::running(&config::runtime_dir());
    let child = machines.child(&args.id)?;
    let limit = args.timeout_secs.map(|secs| Duration::from_secs(secs.into()));
    let answer = eval(&mut machines.talk(&child, context.env())?, &args.expression, limit);
    let answer = answer.map_err(|e| Machines::explain(&child, e))?;
    if !answer.is_empty() {
        // As it is for a program that reads it; a terminal is not steered by a guest.
        let shown =
            |line: &str| if std::io::stdout().is_terminal() { printable(line) } else { line.to_owned() };
        context.output.answer(&answer.split('\n').map(shown).collect::<Vec<_>>().join("\n"));
    }
    context.output.json(&EvalAnswer { id: &args.id, answer });
    Ok(())
}
