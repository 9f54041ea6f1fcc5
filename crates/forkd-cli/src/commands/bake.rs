use super::machine_args::MachineArgs;
use crate::config;
use crate::context::Context;
use anyhow::Result;
use forkd_app::RecipeFolder;
use forkd_core::{Error, Kind};
use forkd_format::{FormatError, Tag};
use std::path::PathBuf;

/// Make a snapshot of a recipe, and run the recipe's tests in a fork before anyone sees it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "docs/recipes.md says what a recipe is.\n\nExample:\n  forkd bake recipes/python-numpy --tag py"
)]
pub(crate) struct BakeArgs {
    /// The recipe's folder
    #[arg(value_name = "FOLDER")]
    recipe: PathBuf,
    /// The snapshot to make [default: the folder's name]
    #[arg(long)]
    tag: Option<Tag>,
    #[command(flatten)]
    machine: MachineArgs,
    /// Make the root disk anew, with today's packages
    #[arg(long)]
    no_cache: bool,
}

pub(crate) fn run(args: &BakeArgs, context: &Context<'_>) -> Result<()> {
    let folder = RecipeFolder::read(&args.recipe)?;
    let tag: Tag = match &args.tag {
        Some(tag) => tag.clone(),
        None => folder
            .name
            .parse()
            .map_err(|e: FormatError| Error::new(Kind::Usage, e.to_string()).hint("give one with --tag"))?,
    };
    let settings = config::settings()?;
    let baked = context.app(&settings).bake(folder, &tag, &args.machine.request(), args.no_cache)?;
    context.output.line(&format!("  next: forkd fork --tag {tag} -n <N>"));
    context.output.json(&baked);
    Ok(())
}
