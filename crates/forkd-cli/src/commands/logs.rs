use crate::config;
use crate::context::Context;
use crate::narrator::pass_on;
use anyhow::Result;
use forkd_app::Machines;
use forkd_core::Error;
use forkd_core::machine::Stream;
use std::io::Read;
use std::time::Duration;

/// Print a child's console
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd logs 3fa1c9e2 --follow")]
pub(crate) struct LogsArgs {
    /// The child: its name, or the beginning of it
    id: String,
    /// Go on as long as the child lives
    #[arg(short, long)]
    follow: bool,
}

pub(crate) fn run(args: &LogsArgs, context: &Context<'_>) -> Result<()> {
    let child = Machines::running(&config::runtime_dir()).child(&args.id)?;
    let path = child.run.join("console");
    let mut file = std::fs::File::open(&path).map_err(Error::io("open", &path))?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer).map_err(Error::io("read", &path))?;
        if read > 0 {
            if pass_on(Stream::Out, &buffer[..read]).is_err() {
                return Ok(());
            }
        } else if args.follow
            && child.run.exists()
            && forkd_core::machine::is_held(&child.run.join(forkd_core::machine::ALIVE))
        {
            context.env().cancel.check()?;
            std::thread::sleep(Duration::from_millis(100));
        } else {
            return Ok(());
        }
    }
}
