use crate::context::Context;
use anyhow::Result;
use clap_mangen::Man;
use forkd_core::Error;
use std::path::{Path, PathBuf};

/// Write manual pages, one a command, into a folder
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  forkd man ~/.local/share/man/man1 && man forkd-fork")]
pub(crate) struct ManArgs {
    /// The folder, which is made
    dir: PathBuf,
}

pub(crate) fn run(args: &ManArgs, context: &Context<'_>) -> Result<()> {
    std::fs::create_dir_all(&args.dir).map_err(Error::io("create", &args.dir))?;
    let mut count = 0;
    let mut command = crate::command_line::command();
    command.build();
    write_pages(&command, "forkd", &args.dir, &mut count)?;
    context.output.line(&format!("✓ {count} manual pages in {}", args.dir.display()));
    context.output.json(&serde_json::json!({ "pages": count }));
    Ok(())
}

fn write_pages(command: &clap::Command, name: &str, dir: &Path, count: &mut usize) -> Result<()> {
    let page = dir.join(format!("{name}.1"));
    let mut text = Vec::new();
    let titled = command.clone().name(name.to_owned()).version(env!("CARGO_PKG_VERSION"));
    Man::new(titled).render(&mut text).map_err(Error::io("write", &page))?;
    std::fs::write(&page, text).map_err(Error::io("write", &page))?;
    *count += 1;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set()) {
        write_pages(sub, &format!("{name}-{}", sub.get_name()), dir, count)?;
    }
    Ok(())
}
