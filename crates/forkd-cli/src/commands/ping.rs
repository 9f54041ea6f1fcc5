use crate::config;
use crate::context::Context;
use anyhow::Result;
use forkd_app::Machines;
use serde::Serialize;
use std::time::Duration;

/// Ask a child for a sign of life
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd ping 3fa1c9e2")]
pub(crate) struct PingArgs {
    /// The child: its name, or the beginning of it
    id: String,
    /// How often to ask
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
}

#[derive(Serialize)]
struct PingAnswer<'a> {
    id: &'a str,
    milliseconds: Vec<f64>,
}

pub(crate) fn run(args: &PingArgs, context: &Context<'_>) -> Result<()> {
    let machines = Machines::running(&config::runtime_dir());
    let child = machines.child(&args.id)?;
    let mut guest = machines.talk(&child, context.env())?;
    let mut times = Vec::new();
    for _ in 0..args.count {
        let time = guest.ping(Duration::from_secs(30)).map_err(|e| Machines::explain(&child, e))?;
        let time = time.as_secs_f64() * 1000.0;
        context.output.answer(&format!("pong from {} in {time:.2} ms", args.id));
        times.push(time);
    }
    context.output.json(&PingAnswer { id: &args.id, milliseconds: times });
    Ok(())
}
