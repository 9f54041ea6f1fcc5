use crate::baking::{Baker, MachineArgs, require_free};
use crate::config;
use crate::context::Context;
use crate::disks::{self, Base, DiskPlan};
use crate::machines::eval;
use crate::output::seconds;
use anyhow::Result;
use forkd_core::machine::{BakeOptions, Exec, Guest, Stream, Streams};
use forkd_core::{Error, Kind};
use forkd_format::recipe::{RECIPE, RecipeTest};
use forkd_format::{Recipe, Tag};
use forkd_image::ExtraFile;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The largest file of a recipe, in bytes.
const MAX_FILE: u64 = 64 << 20;
/// How long a test may take.
const TEST_LIMIT: Duration = Duration::from_secs(600);

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
    let folder = args.recipe.canonicalize().map_err(Error::io("open", &args.recipe))?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let tag = match &args.tag {
        Some(tag) => tag.clone(),
        None => name.parse().map_err(|e| Error::new(Kind::Usage, format!("{e}; give one with --tag")))?,
    };
    let (recipe, files) = read(&folder)?;
    let baked = bake(&recipe, files, &name, &tag, &args.machine, args.no_cache, context)?;
    context.output.line(&format!("  next: forkd fork --tag {tag} -n <N>"));
    context.output.json(&baked);
    Ok(())
}

/// A recipe and the bytes of its files.
fn read(folder: &Path) -> Result<(Recipe, Vec<ExtraFile>)> {
    let path = folder.join(RECIPE);
    let wrong = |e: String| Error::new(Kind::Usage, format!("{}: {e}", path.display()));
    let text =
        String::from_utf8(disks::read_file(&path, Recipe::MAX_LEN)?).map_err(|e| wrong(e.to_string()))?;
    let recipe = Recipe::parse(&text).map_err(|e| wrong(e.to_string()))?;
    // What several recipes need lies beside them; a link must not lead out of there.
    let around = folder.parent().unwrap_or(folder);
    let mut files = Vec::new();
    for file in &recipe.files {
        let contents = match (&file.content, &file.from) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, from) => {
                let path = folder.join(from.as_deref().unwrap_or_default());
                let real = path.canonicalize().map_err(Error::io("open", &path))?;
                if !real.starts_with(around) {
                    let message = format!("{} leads out of {}", path.display(), around.display());
                    return Err(Error::new(Kind::Usage, message).into());
                }
                disks::read_file(&real, MAX_FILE)?
            }
        };
        let mode = file.mode().map_err(|e| Error::new(Kind::Usage, e))?;
        files.push(ExtraFile { path: file.to.clone(), mode, contents });
    }
    Ok((recipe, files))
}

/// Bakes a recipe.
pub(crate) fn bake(
    recipe: &Recipe,
    files: Vec<ExtraFile>,
    name: &str,
    tag: &Tag,
    machine: &MachineArgs,
    fresh: bool,
    context: &Context<'_>,
) -> Result<Value> {
    let store = config::store()?;
    require_free(&store, tag)?;
    let base = match &recipe.image {
        Some(image) => Base::Image(image.parse()?, "linux/amd64".parse()?),
        None => Base::Debian(recipe.debian.clone()),
    };
    let baker = Baker::open(machine, context)?;
    let boot_wait = Duration::from_secs(recipe.wait_secs);
    let plan = DiskPlan {
        base,
        size: recipe.disk_mib.map(|mib| mib << 20),
        files,
        setup: recipe.setup.clone(),
        memory_mib: recipe.memory_mib,
        boot_wait,
        fresh,
    };
    let disk = disks::make(plan, &baker, context)?;
    let mut origin = disk.origin.clone();
    origin.insert("recipe".into(), json!({ "name": name, "description": recipe.description }));
    let options = BakeOptions {
        tag: tag.clone(),
        machine: baker.machine(recipe.memory_mib),
        rootfs: disk.path.clone(),
        boot_wait,
        user: recipe.user.clone(),
        warm: recipe.warm.clone(),
        ready: recipe.ready.clone(),
        origin,
        created_at: config::timestamp()?,
    };
    let mut results = Vec::new();
    let mut baked = baker.bake(&store, &options, &mut |guest| {
        for (number, test) in (1..).zip(&recipe.tests) {
            let begun = Instant::now();
            let words = run_test(test, guest, &recipe.user).and_then(|answer| judge(test, &answer));
            words.map_err(|e| Error::new(e.kind(), format!("test {number} of the recipe: {e}")))?;
            let time = begun.elapsed();
            let asked = test.eval.as_ref().or(test.run.as_ref()).map_or("", String::as_str);
            let first = asked.lines().next().unwrap_or_default();
            context.output.line(&format!("✓ test {number} in {}: {first}", seconds(time)));
            results.push(json!({ "test": asked, "seconds": time.as_secs_f64() }));
        }
        Ok(())
    })?;
    baked["tests"] = Value::Array(results);
    drop(disk);
    disks::trim(context)?;
    Ok(baked)
}

fn run_test(test: &RecipeTest, guest: &mut Guest, user: &str) -> forkd_core::Result<String> {
    if let Some(expression) = &test.eval {
        return eval(guest, expression, Some(TEST_LIMIT));
    }
    let command = test.run.clone().unwrap_or_default();
    let exec = Exec {
        argv: ["/bin/sh".into(), "-c".into(), command.clone()].to_vec(),
        user: user.to_owned(),
        limit_ms: TEST_LIMIT.as_millis() as u64,
        ..Exec::default()
    };
    let mut said = [Vec::new(), Vec::new()];
    let mut output = |stream, bytes: &[u8]| {
        let said = &mut said[usize::from(stream == Stream::Err)];
        let room = (1_usize << 20).saturating_sub(said.len());
        said.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(())
    };
    let exit = guest.exec(&exec, &mut Streams { input: None, output: &mut output, controls: None })?;
    let [out, err] = said.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if exit.code != 0 {
        let last = err.lines().chain(out.lines()).rfind(|line| !line.trim().is_empty()).unwrap_or("nothing");
        let message = format!("exit code {} of {command}; it said: {last}", exit.code);
        return Err(Error::new(Kind::General, message));
    }
    Ok(out)
}

fn judge(test: &RecipeTest, answer: &str) -> forkd_core::Result<()> {
    test.judge(answer).map_err(|e| Error::new(Kind::General, e))
}
