//! Root disks for guests: made of an image or of packages, and kept in the cache by what they are made of.

use crate::app::App;
use crate::baker::Baker;
use crate::lines::Lines;
use crate::narrator::{Event, Speaker};
use forkd_agent::image_settings::ImageSettings;
use forkd_core::cache::{Cache, CacheEntry, CacheKind, CacheSlot, CacheWriter};
use forkd_core::machine::Stream;
use forkd_core::{Error, Result};
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
const VERSION: u32 = 2;
/// Package managers want more than many a guest.
const SETUP_MEMORY_MIB: u64 = 1024;

/// What a disk is made of.
pub(crate) enum DiskBase {
    Image(ImageSource, Platform),
    Debian(Vec<String>),
}

/// A disk to be made.
pub(crate) struct DiskPlan {
    pub(crate) base: DiskBase,
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
pub(crate) struct RootDisk {
    pub(crate) path: PathBuf,
    /// Where it came from, for `snapshot.json`.
    pub(crate) origin: Map<String, Value>,
    _held: CacheEntry,
}

/// What a plan's base turned out to be.
enum FoundBase {
    Image(Sources, Box<Resolved>),
    Debian(Debian, Vec<String>),
}

impl App<'_> {
    /// Makes a disk, or finds it.
    pub(crate) fn root_disk(&self, mut plan: DiskPlan, baker: &Baker<'_>) -> Result<RootDisk> {
        let cache = Cache::new(self.settings.cache_dir()?);
        let (found, origin) = self.find_base(&plan.base, &cache)?;
        let base = match &found {
            FoundBase::Image(_, resolved) => {
                let contents = image_settings(&resolved.config).to_bytes();
                plan.files.push(ExtraFile { path: ImageSettings::PATH.into(), mode: 0o644, contents });
                format!("image {}", resolved.digest)
            }
            FoundBase::Debian(debian, packages) => {
                format!("debian {} {}", debian.release, packages.join(" "))
            }
        };
        let (plain, wanted) = keys(&plan, &base);
        let build = |writer: &CacheWriter| self.build(&plan, found, writer);
        let held = if plan.setup.is_empty() {
            self.produce(&cache, &wanted, plan.fresh, build)?
        } else {
            self.produce(&cache, &wanted, plan.fresh, |writer| {
                let plain = self.produce(&cache, &plain, plan.fresh, build)?;
                writer.copy_from(&plain)?;
                let memory = plan.memory_mib.max(SETUP_MEMORY_MIB);
                baker.set_up(writer.path(), memory, &plan.setup, plan.boot_wait)
            })?
        };
        Ok(RootDisk { path: held.path().to_owned(), origin, _held: held })
    }

    /// Deletes what was least recently used beyond the cache's limit.
    pub(crate) fn trim_cache(&self) -> Result<()> {
        Cache::new(self.settings.cache_dir()?).trim(self.settings.cache_limit, self.env)?;
        Ok(())
    }

    fn find_base(&self, base: &DiskBase, cache: &Cache) -> Result<(FoundBase, Map<String, Value>)> {
        let mut origin = Map::new();
        Ok(match base {
            DiskBase::Image(source, platform) => {
                let sources = Sources { registry: self.settings.registry(), cache: cache.clone() };
                let resolved = sources.resolve(source, platform, self.env)?;
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
                (FoundBase::Image(sources, Box::new(resolved)), origin)
            }
            DiskBase::Debian(packages) => {
                let debian = Debian::find(self.settings.search_path.as_deref())?;
                origin.insert("debian".into(), json!({ "release": debian.release, "packages": packages }));
                (FoundBase::Debian(debian, packages.clone()), origin)
            }
        })
    }

    /// Finds a disk in the cache, or makes it there; of several who want the same, one makes it.
    fn produce(
        &self,
        cache: &Cache,
        key: &Digest,
        fresh: bool,
        make: impl FnOnce(&CacheWriter) -> Result<()>,
    ) -> Result<CacheEntry> {
        let slot = if fresh {
            CacheSlot::Free(cache.create(CacheKind::Rootfs, key, self.env)?)
        } else {
            cache.find_or_create(CacheKind::Rootfs, key, self.env)?
        };
        let mut writer = match slot {
            CacheSlot::Found(held) => {
                self.narrator.tell(&Event::DiskFound);
                return Ok(held);
            }
            CacheSlot::Free(writer) => writer,
        };
        // What a killed run left is not known to be right.
        writer.restart()?;
        match make(&writer) {
            Ok(()) => writer.commit(),
            Err(error) => {
                writer.abandon()?;
                Err(error)
            }
        }
    }

    fn build(&self, plan: &DiskPlan, found: FoundBase, writer: &CacheWriter) -> Result<()> {
        // Layers are in the cache as long as their image is held.
        let (layers, folders, _image) = match found {
            FoundBase::Image(sources, resolved) => {
                let (reference, digest) = (resolved.reference.clone(), resolved.digest);
                self.narrator.tell(&Event::ImageFound { reference: &reference, digest: &digest });
                let (image, fetch) = sources.fetch(*resolved, self.env)?;
                self.narrator.tell(&Event::LayersHere { layers: image.layers.len(), fetch });
                let layers = image.layers.iter().zip(&image.config.diff_ids).map(|(layer, diff_id)| {
                    let (name, layer) = (layer.digest.short(), layer.clone());
                    LayerSource { open: Box::new(move || layer.open()), diff_id: Some(*diff_id), name }
                });
                let config = &image.config;
                let working_dir = Some(config.working_dir.clone()).filter(|dir| !dir.is_empty());
                let folders = config.volumes.iter().cloned().chain(working_dir).collect();
                (layers.collect(), folders, Some(image))
            }
            FoundBase::Debian(debian, packages) => {
                (vec![self.install(&debian, &packages)?], Vec::new(), None)
            }
        };
        let options = DiskOptions { size: plan.size, folders, extra: plan.files.clone() };
        let report = build_disk(&layers, writer.file(), &options, self.env)?;
        self.narrator.tell(&Event::DiskMade(report));
        Ok(())
    }

    /// Debian packages as one layer, in a file that has no name.
    fn install(&self, debian: &Debian, packages: &[String]) -> Result<LayerSource> {
        let begun = Instant::now();
        self.narrator.tell(&Event::InstallBegun { packages: packages.len(), release: &debian.release });
        let dir = self.settings.cache_dir()?;
        let tar = tempfile::tempfile_in(dir).map_err(Error::io("create a file in", dir))?;
        let hear = |stream, line: &[u8]| self.narrator.hear(Speaker::Host, stream, line);
        let lines = Lines::new(&hear);
        debian.build(packages, &tar, self.env, &mut |said| lines.push(Stream::Err, said))?;
        lines.finish();
        self.narrator.tell(&Event::InstallDone(begun.elapsed()));
        Ok(tar_layer(tar))
    }
}

/// What names a plan's disk in the cache: before and after its setup.
fn keys(plan: &DiskPlan, base: &str) -> (Digest, Digest) {
    let mut words = format!("disk {VERSION}\n{base}\nsize {:?}\n", plan.size);
    for file in &plan.files {
        let _ = writeln!(words, "file {:o} {} {}", file.mode, Digest::of(&file.contents), file.path);
    }
    let plain = Digest::of(words.as_bytes());
    for command in &plan.setup {
        let _ = writeln!(words, "setup {} {command}", command.len());
    }
    (plain, Digest::of(words.as_bytes()))
}

fn image_settings(config: &ImageConfig) -> ImageSettings {
    ImageSettings {
        env: config.env.clone(),
        folder: config.working_dir.clone(),
        user: config.user.clone(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
    }
}

fn tar_layer(tar: File) -> LayerSource {
    let open = move || -> Result<Box<dyn std::io::Read + Send>> {
        use std::io::Seek;
        let path = Path::new("the packages' files");
        let mut file = tar.try_clone().map_err(Error::io("read", path))?;
        file.rewind().map_err(Error::io("read", path))?;
        Ok(Box::new(file))
    };
    LayerSource { open: Box::new(open), diff_id: None, name: "packages".into() }
}
