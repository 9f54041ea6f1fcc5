use crate::context::Context;
use crate::machines::{Machines, eval, explain};
use anyhow::Result;
use serde_json::json;
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

pub(crate) fn run(args: &EvalArgs, context: &Context<'_>) -> Result<()> {
    let machines = Machines::running();
    let child = machines.child(&args.id)?;
    let limit = args.timeout_secs.map(|secs| Duration::from_secs(secs.into()));
    let answer = eval(&mut machines.talk(&child, context)?, &args.expression, limit);
    let answer = answer.map_err(|e| explain(&child, &e))?;
    if !answer.is_empty() {
        context.output.answer(&answer);
    }
    context.output.json(&json!({ "id": args.id, "answer": answer }));
    Ok(())
}
