//! Packs, with what they refer to brought here first.

use crate::app::App;
use crate::hubs::Hubs;
use crate::pull::{PullRequest, PullSource, TagChoice};
use forkd_core::cache::{Cache, CacheKind, CacheSlot};
use forkd_core::store::ScratchStore;
use forkd_core::{
    Error, Kind, PackOptions, PackReport, PushReport, PushTarget, Result, Store, UnpackOptions,
};
use forkd_engine::Kernel;
use forkd_format::{Digest, PackFormat, Reference, Tag};
use forkd_remote::AnyRemote;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What goes into a pack.
#[derive(Debug, Clone)]
pub struct PackRequest {
    /// The snapshot; with it go its ancestors.
    pub tag: Tag,
    /// For people; where none is given, what the snapshot came with.
    pub description: Option<String>,
    /// The container image behind the rootfs; where none is given, what the snapshot came with.
    pub base_image: Option<String>,
    /// zstd's level, 1 to 22.
    pub level: i32,
    /// How deep frames may need each other (paged packs only).
    pub depth: u8,
    /// Where none is named, that which 0.5.x hosts read.
    pub format: Option<PackFormat>,
    /// Snapshots whose files frames may refer to (paged packs only).
    pub bases: Vec<BaseSource>,
    /// Whether frames may refer to the guest's kernel, which then lies beside the pack (paged packs only).
    pub kernel: bool,
    /// For bases on a hub; see [`forkd_core::PullOptions::connections`].
    pub connections: Option<usize>,
}

/// Where a base is.
#[derive(Debug, Clone)]
pub enum BaseSource {
    /// In the store.
    Tag(Tag),
    /// In a pack on this host.
    File(PathBuf),
    /// On a hub: its name, and the hubs that it is looked up in.
    Name(Reference, Hubs),
}

/// What [`PackOptions`] point to.
pub(crate) struct PackInput {
    pub(crate) options: PackOptions,
    /// Bases that are in no store of the user's.
    _scratch: Vec<ScratchStore>,
}

impl App<'_> {
    /// Packs into a new file.
    ///
    /// # Errors
    /// As [`forkd_core::pack`] and, for bases on a hub, [`forkd_core::pull`].
    pub fn pack(&self, request: &PackRequest, out: &Path) -> Result<PackReport> {
        let input = self.pack_input(request)?;
        forkd_core::pack(&self.settings.store, &input.options, out, self.env)
    }

    /// Packs into a temporary file and uploads it. `begun` is told where that is, `packed` when it is made.
    ///
    /// # Errors
    /// As [`App::pack`] and [`forkd_core::push`]; [`Kind::Usage`] with a kernel, which would be a second file.
    pub fn push(
        &self,
        request: &PackRequest,
        target: &PushTarget,
        begun: &mut dyn FnMut(&Path),
        packed: &mut dyn FnMut(&PackReport),
    ) -> Result<PushReport> {
        if request.kernel {
            let message = "push sends one file, and --kernel makes two";
            return Err(
                Error::new(Kind::Usage, message).hint("`forkd pack` both, and upload them beside each other")
            );
        }
        let settings = self.settings;
        let input = self.pack_input(request)?;
        begun(&forkd_core::temp_path(&settings.temp_dir, &input.options));
        let remote = AnyRemote::new(&settings.http)?;
        let (options, temp) = (&input.options, &settings.temp_dir);
        forkd_core::push(&settings.store, &remote, options, target, temp, self.env, packed)
    }

    pub(crate) fn pack_input(&self, request: &PackRequest) -> Result<PackInput> {
        let kernel = if request.kernel { Some(self.kernel_of(&request.tag)?) } else { None };
        let (mut bases, mut scratch) = (Vec::new(), Vec::new());
        for base in &request.bases {
            bases.push(self.open_base(base, request.connections, &mut scratch)?);
        }
        let options = PackOptions {
            tag: request.tag.clone(),
            description: request.description.clone(),
            base_image: request.base_image.clone(),
            level: request.level,
            depth: request.depth,
            created_at: self.settings.timestamp.clone(),
            format: request.format,
            bases,
            kernel,
        };
        Ok(PackInput { options, _scratch: scratch })
    }

    /// A pack, or a name in a registry, is unpacked for as long as the work takes, unless it is here.
    fn open_base(
        &self,
        base: &BaseSource,
        connections: Option<usize>,
        scratch: &mut Vec<ScratchStore>,
    ) -> Result<(Store, Tag)> {
        let store = &self.settings.store;
        let unpack = UnpackOptions { cache: self.settings.cache(), ..UnpackOptions::default() };
        let (temporary, head) = match base {
            BaseSource::Tag(tag) => return Ok((store.clone(), tag.clone())),
            BaseSource::File(file) => {
                let temporary = store.scratch(self.env)?;
                let report = forkd_core::unpack_file(temporary.store(), file, &unpack, self.env)?;
                (temporary, report.head)
            }
            BaseSource::Name(reference, hubs) => {
                let source = PullSource::Name(reference.clone(), hubs.clone());
                let place = TagChoice::default();
                let request = PullRequest { source, place, connections, limit_rate: None };
                let found = self.with_pull(&request, None, |remote, options| {
                    if let Some(tag) = forkd_core::plan_pull(store, remote, options, self.env)?.here() {
                        return Ok((None, tag.clone()));
                    }
                    let temporary = store.scratch(self.env)?;
                    let report = forkd_core::pull(temporary.store(), remote, options, self.env)?;
                    Ok((Some(temporary), report.unpack.head))
                })?;
                match found {
                    (None, tag) => return Ok((store.clone(), tag)),
                    (Some(temporary), tag) => (temporary, tag),
                }
            }
        };
        let found = (temporary.store().clone(), head);
        scratch.push(temporary);
        Ok(found)
    }

    /// The uncompressed kernel that a snapshot was baked with, from the cache, and its release.
    pub(crate) fn kernel_of(&self, tag: &Tag) -> Result<(String, PathBuf)> {
        let stored = self.settings.store.load(tag)?;
        let recorded = stored.snapshot.get("kernel");
        let field = |name: &str| recorded.and_then(|kernel| kernel.get(name)).and_then(Value::as_str);
        let missing = |why: String| Error::new(Kind::NotFound, format!("the kernel of '{tag}' {why}"));
        let image = field("sha256").ok_or_else(|| missing("is not named in its snapshot.json".into()))?;
        let image: Digest = image.parse().map_err(Error::malformed(stored.dir.display().to_string()))?;
        let root = self.settings.cache_dir()?;
        let kernel = Kernel::with_digest(root, &image)?.ok_or_else(|| {
            let place = self.settings.shown(root);
            missing(format!("(sha256 {image}) is not in {place}")).hint("pack without --kernel")
        })?;
        let bytes = kernel.vmlinux()?;
        let release = field("release").unwrap_or("unknown").to_owned();
        let slot = Cache::new(root).find_or_create(CacheKind::Blob, &Digest::of(&bytes), self.env)?;
        let entry = match slot {
            CacheSlot::Found(entry) => entry,
            CacheSlot::Free(mut writer) => {
                writer.restart()?;
                writer.write_at(&bytes, 0)?;
                writer.commit()?
            }
        };
        Ok((release, entry.path().to_owned()))
    }
}
