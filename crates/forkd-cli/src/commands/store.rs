use crate::config;
use crate::context::Context;
use anyhow::Result;
use clap::Subcommand;

/// Share the store with a group of users, or take it back
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Who is in the group can do all that the owner can, and runs what others of it have put there. Others reach \
nothing.\n\nExample, for all users of a group `vm`:\n  export XDG_DATA_HOME=/srv/vm\n  forkd store share vm"
)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Let a group use it
    Share {
        /// A group's name or number
        group: String,
    },
    /// Close it to all but its owner
    Unshare,
}

pub(crate) fn run(args: &StoreArgs, context: &Context<'_>) -> Result<()> {
    let settings = config::settings()?;
    let app = context.app(&settings);
    let (report, what) = match &args.command {
        StoreCommand::Share { group } => (app.share_store(group)?, format!("shared with group '{group}'")),
        StoreCommand::Unshare => (app.unshare_store()?, "its owner's alone".to_owned()),
    };
    context.output.line(&format!("✓ the store at {}/ is {what}", config::display(&report.path)));
    if let Some(closed) = &report.closed {
        let closed = config::display(closed);
        let what = format!("{closed} is closed to the group: put the store where all can reach it");
        context.env().progress.note(&format!("{what}, as in XDG_DATA_HOME=/srv/<name>"));
    }
    context.output.json(&report);
    Ok(())
}
