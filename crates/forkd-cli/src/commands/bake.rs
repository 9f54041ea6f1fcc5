use super::machine_args::{AccelArg, request};
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
    /// The kernel: a bzImage, or a vmlinux with a PVH entry [default: Debian's cloud kernel, from the cache or fetched]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// What runs the guest's processor; with several, one snapshot for each that this host has: the first is TAG, the others TAG-kvm, TAG-tcg
    #[arg(long, value_enum, value_delimiter = ',', default_value = "auto")]
    accel: Vec<AccelArg>,
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
    if let [accel] = args.accel.as_slice() {
        let machine = request(args.kernel.clone(), *accel);
        let baked = context.app(&settings).bake(folder, &tag, &machine, args.no_cache)?;
        context.output.line(&format!("  next: forkd fork --tag {tag} -n <N>"));
        context.output.json(&baked);
        return Ok(());
    }
    let is_odd = |accel: &AccelArg| {
        *accel == AccelArg::Auto || args.accel.iter().filter(|other| *other == accel).count() > 1
    };
    if args.accel.iter().any(is_odd) {
        return Err(Error::new(Kind::Usage, "--accel takes auto, or each of kvm and tcg once").into());
    }
    let (mut all, mut reasons) = (Vec::new(), Vec::new());
    for accel in &args.accel {
        let tag = match (all.is_empty(), accel) {
            (true, _) => tag.clone(),
            (false, AccelArg::Kvm) => format!("{tag}-kvm").parse()?,
            (false, AccelArg::Tcg) => format!("{tag}-tcg").parse()?,
            (false, AccelArg::Auto) => continue,
        };
        let (folder, machine) = (RecipeFolder::read(&args.recipe)?, request(args.kernel.clone(), *accel));
        match context.app(&settings).bake(folder, &tag, &machine, args.no_cache && all.is_empty()) {
            // What this host does not have is no fault of the recipe's.
            Err(error) if error.kind() == Kind::Incompatible => {
                context.env().progress.note(&error.to_string());
                reasons.push(error);
            }
            baked => all.push((tag, baked?)),
        }
    }
    let Some((first, _)) = all.first() else {
        return Err(reasons.remove(0).into());
    };
    let more: Vec<String> = all.iter().skip(1).map(|(tag, _)| tag.to_string()).collect();
    context.output.line(&format!("  next: forkd publish {first} owner/name@v1 --to HUB"));
    for tag in more {
        context.output.line(&format!("        forkd publish {tag} owner/name@v1 --to HUB --variant"));
    }
    context
        .output
        .json(&serde_json::json!({ "snapshots": all.iter().map(|(_, baked)| baked).collect::<Vec<_>>() }));
    Ok(())
}
