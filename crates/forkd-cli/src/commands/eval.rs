use super::Context;
use crate::machines::{Machines, eval};
use anyhow::Result;
use serde_json::json;

/// Ask a child's eval endpoint: a warm program that answers without being started
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd eval 3fa1c9e2 'np.linalg.det(np.eye(3))'")]
pub(crate) struct Args {
    /// The child: its name, or the beginning of it
    id: String,
    /// What to ask; what that means is up to the program in the guest (docs/agent.md)
    #[arg(value_name = "EXPR", allow_hyphen_values = true)]
    expression: String,
}

pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<()> {
    let answer = eval(&mut Machines::open()?.talk(&args.id, context)?, &args.expression)?;
    if !answer.is_empty() {
        context.output.answer(&answer);
    }
    context.output.json(&json!({ "id": args.id, "answer": answer }));
    Ok(())
}
