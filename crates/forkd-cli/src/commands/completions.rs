use crate::context::Context;
use anyhow::Result;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use forkd_core::Error;
use std::io::Write;
use std::path::Path;

/// A shell.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Print what makes a shell complete commands, flags and tags
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  source <(forkd completions bash)          # in ~/.bashrc\n  \
source <(forkd completions zsh)           # in ~/.zshrc, after compinit\n  \
forkd completions fish > ~/.config/fish/completions/forkd.fish")]
pub(crate) struct CompletionsArgs {
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, _: &Context<'_>) -> Result<()> {
    let shell: &dyn EnvCompleter = match args.shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut text = Vec::new();
    shell
        .write_registration("COMPLETE", "forkd", "forkd", "forkd", &mut text)
        .map_err(Error::io("write", Path::new("completions")))?;
    let mut out = std::io::stdout().lock();
    out.write_all(&text).and_then(|()| out.flush()).map_err(Error::io("write", Path::new("completions")))?;
    Ok(())
}
