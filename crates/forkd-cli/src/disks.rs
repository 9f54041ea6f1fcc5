//! Root disks for guests: made of an image or of packages, and kept in the cache by what they are made of.

use crate::baking::Baker;
use crate::config;
use crate::context::Context;
use crate::output::{mib, seconds};
use anyhow::Result;
use forkd_core::cache::{Cache, CacheEntry, CacheKind, CacheSlot, CacheWriter};
use forkd_core::{Error, Kind};
use forkd_format::Digest;
use forkd_image::{
    Debian, DiskOptions, ExtraFile, ImageConfig, ImageSource, LayerSource, Platform, Resolved, Sources,
    build_disk,
};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Changes with each change of how disks are made: those made before are not used any more.
const VERSION: u32 = 1;
/// Package managers want more than many a guest.
const SETUP_MEMORY_MIB: u64 = 1024;

/// What a disk is made of.
pub(crate) enum Base {
    Image(ImageSource, Platform),
    Debian(Vec<String>),
}

/// A disk to be made.
pub(crate) struct DiskPlan {
    pub(crate) base: Base,
    /// In bytes.
    pub(crate) size: Option<u64>,
    pub(crate) files: Vec<ExtraFile>,
    /// Run as root in a guest with a network.
    pub(crate) setup: Vec<String>,
    /// The memory of the guest that is to be baked.
    pub(crate) memory_mib: u64,
    pub(crate) boot_wait: Duration,
    /// Whether to use nothing that was made before.
    pub(crate) fresh: bool,
}

/// A disk in the cache, held there.
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    /// Where it came from, for `snapshot.json`.
    pub(crate) origin: Map<String, Value>,
    _held: CacheEntry,
}

/// What a plan's base turned out to be.
enum Found {
    Image(Sources, Box<Resolved>),
    Debian(Debian, Vec<String>),
}

/// Makes a disk, or finds it.
pub(crate) fn make(mut plan: DiskPlan, baker: &Baker<'_>, context: &Context<'_>) -> Result<Disk> {
    let cache = Cache::new(&config::cache_dir()?);
    let (found, origin) = find(&plan.base, &cache, context)?;
    let base = match &found {
        Found::Image(_, resolved) => {
            let contents = image_file(&resolved.config);
            plan.files.push(ExtraFile { path: "/etc/forkd/image".into(), mode: 0o644, contents });
            format!("image {}", resolved.digest)
        }
        Found::Debian(debian, packages) => format!("debian {} {}", debian.release, packages.join(" ")),
    };
    let mut words = format!("disk {VERSION}\n{base}\nsize {:?}\n", plan.size);
    for file in &plan.files {
        let _ = writeln!(words, "file {:o} {} {}", file.mode, Digest::of(&file.contents), file.path);
    }
    let plain = Digest::of(words.as_bytes());
    for command in &plan.setup {
        let _ = writeln!(words, "setup {} {command}", command.len());
    }
    let wanted = Digest::of(words.as_bytes());
    let build = |writer: &CacheWriter| build(&plan, found, writer, context);
    let held = if plan.setup.is_empty() {
        produce(&cache, &wanted, plan.fresh, context, build)?
    } else {
        produce(&cache, &wanted, plan.fresh, context, |writer| {
            let plain = produce(&cache, &plain, plan.fresh, context, build)?;
            writer.copy_from(&plain)?;
            let memory = plan.memory_mib.max(SETUP_MEMORY_MIB);
            baker.set_up(writer.path(), memory, &plan.setup, plan.boot_wait)
        })?
    };
    Ok(Disk { path: held.path().to_owned(), origin, _held: held })
}

fn find(base: &Base, cache: &Cache, context: &Context<'_>) -> Result<(Found, Map<String, Value>)> {
    let mut origin = Map::new();
    Ok(match base {
        Base::Image(source, platform) => {
            let sources = Sources {
                http: config::http()?,
                credential_files: config::credential_files(),
                cache: cache.clone(),
            };
            let resolved = sources.resolve(source, platform, context.env())?;
            origin.insert(
                "image".into(),
                json!({
                    "reference": resolved.reference,
                    "digest": format!("sha256:{}", resolved.digest),
                    "platform": platform.to_string(),
                    "entrypoint": resolved.config.entrypoint,
                    "cmd": resolved.config.cmd,
                }),
            );
            (Found::Image(sources, Box::new(resolved)), origin)
        }
        Base::Debian(packages) => {
            let debian = Debian::find(std::env::var_os("PATH").as_deref())?;
            origin.insert("debian".into(), json!({ "release": debian.release, "packages": packages }));
            (Found::Debian(debian, packages.clone()), origin)
        }
    })
}

/// `/etc/forkd/image` (docs/agent.md).
fn image_file(config: &ImageConfig) -> Vec<u8> {
    let one = |key, value: &String| (!value.is_empty()).then(|| format!("{key} {value}\0"));
    let env = config.env.iter().map(|value| format!("env {value}\0"));
    let entrypoint = config.entrypoint.iter().map(|value| format!("entrypoint {value}\0"));
    let cmd = config.cmd.iter().map(|value| format!("cmd {value}\0"));
    let rest = [one("folder", &config.working_dir), one("user", &config.user)].into_iter().flatten();
    env.chain(rest).chain(entrypoint).chain(cmd).collect::<String>().into_bytes()
}

/// Finds a disk in the cache, or makes it there; of several who want the same, one makes it.
fn produce(
    cache: &Cache,
    key: &Digest,
    fresh: bool,
    context: &Context<'_>,
    make: impl FnOnce(&CacheWriter) -> Result<()>,
) -> Result<CacheEntry> {
    let slot = if fresh {
        CacheSlot::Free(cache.create(CacheKind::Rootfs, key, context.env())?)
    } else {
        cache.find_or_create(CacheKind::Rootfs, key, context.env())?
    };
    let mut writer = match slot {
        CacheSlot::Found(held) => {
            context.output.line("✓ root disk: from the cache");
            return Ok(held);
        }
        CacheSlot::Free(writer) => writer,
    };
    // What a killed run left is not known to be right.
    writer.restart()?;
    match make(&writer) {
        Ok(()) => Ok(writer.commit()?),
        Err(error) => {
            writer.abandon()?;
            Err(error)
        }
    }
}

fn build(plan: &DiskPlan, found: Found, writer: &CacheWriter, context: &Context<'_>) -> Result<()> {
    let begun = Instant::now();
    let env = context.env();
    let mut image = None;
    let layers = match found {
        Found::Image(sources, resolved) => {
            context.output.line(&format!("→ {} (sha256:{})", resolved.reference, resolved.digest.short()));
            let (fetched, report) = sources.fetch(*resolved, env)?;
            let how = match (report.fetched_layers, report.cached_layers) {
                (0, _) => "none fetched".to_owned(),
                (fetched, cached) => {
                    format!("{fetched} fetched ({}), {cached} were here", mib(report.fetched_bytes))
                }
            };
            context.output.line(&format!("✓ {} layers: {how}", fetched.layers.len()));
            let diff_ids = &fetched.config.diff_ids;
            let layers = fetched.layers.iter().zip(diff_ids).map(|(layer, diff_id)| {
                let (name, layer) = (layer.digest.short(), layer.clone());
                LayerSource { open: Box::new(move || layer.open()), diff_id: Some(*diff_id), name }
            });
            let layers = layers.collect();
            image = Some(fetched);
            layers
        }
        Found::Debian(debian, packages) => {
            context.output.line(&format!(
                "==> installing {} packages on Debian {}",
                packages.len(),
                debian.release
            ));
            let dir = config::cache_dir()?;
            std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
            let tar = tempfile::tempfile_in(&dir).map_err(Error::io("create a file in", &dir))?;
            let quiet = context.output.is_quiet();
            debian.build(&packages, &tar, env, &mut |said| {
                if !quiet {
                    let _ = crate::machines::pass_on(forkd_core::machine::Stream::Err, said);
                }
            })?;
            context.output.line(&format!("✓ installed in {}", seconds(begun.elapsed())));
            vec![tar_layer(tar)]
        }
    };
    let options = DiskOptions { size: plan.size, extra: plan.files.clone() };
    let report = build_disk(&layers, writer.file(), &options, env)?;
    drop(image);
    context.output.line(&format!(
        "✓ root disk: {} of {} in {} files",
        mib(report.used),
        mib(report.size),
        report.files
    ));
    Ok(())
}

fn tar_layer(tar: File) -> LayerSource {
    let open = move || -> forkd_core::Result<Box<dyn std::io::Read + Send>> {
        use std::io::Seek;
        let path = Path::new("the packages' files");
        let mut file = tar.try_clone().map_err(Error::io("read", path))?;
        file.rewind().map_err(Error::io("read", path))?;
        Ok(Box::new(file))
    };
    LayerSource { open: Box::new(open), diff_id: None, name: "packages".into() }
}

/// Deletes what was least recently used beyond the cache's limit.
pub(crate) fn trim(context: &Context<'_>) -> Result<()> {
    Cache::new(&config::cache_dir()?).trim(config::cache_limit()?, context.env())?;
    Ok(())
}

/// Reads a file of a recipe's.
pub(crate) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let found = path.metadata().map_err(Error::io("open", path))?;
    if !found.is_file() || found.len() > limit {
        let message = format!("{}: expected a file of at most {limit} bytes", path.display());
        return Err(Error::new(Kind::Usage, message).into());
    }
    Ok(std::fs::read(path).map_err(Error::io("read", path))?)
}
