use crate::config;
use crate::context::Context;
use anyhow::Result;
use forkd_app::Secret;
use forkd_core::{Error, Kind};
use std::io::Read;

/// The longest password that is read, in bytes.
const LONGEST: u64 = 64 << 10;

/// Log in to a registry: a name and a password are tried, then kept where docker and podman look too
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  echo \"$TOKEN\" | forkd login ghcr.io --username me --password-stdin")]
pub(crate) struct LoginArgs {
    /// The registry: HOST[:PORT]
    host: String,
    /// Who you are there
    #[arg(short, long, value_name = "NAME")]
    username: String,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
}

pub(crate) fn run(args: &LoginArgs, context: &Context<'_>) -> Result<()> {
    if !args.password_stdin {
        let message = "a password is taken from standard input only, where no list of processes shows it";
        return Err(Error::new(Kind::Usage, message).hint("add --password-stdin and pipe it in").into());
    }
    let mut password = String::new();
    std::io::stdin().lock().take(LONGEST).read_to_string(&mut password)?;
    let password = password.trim_end_matches(['\r', '\n']).to_owned();
    if password.is_empty() {
        return Err(Error::new(Kind::Usage, "no password came on standard input").into());
    }
    let settings = config::settings()?;
    let report = context.app(&settings).login(&args.host, &args.username, Secret(password))?;
    let kept = settings.shown(std::path::Path::new(&report.kept_in));
    context.output.line(&format!("✓ logged in to {}; kept in {kept}", report.host));
    context.output.json(&report);
    Ok(())
}
