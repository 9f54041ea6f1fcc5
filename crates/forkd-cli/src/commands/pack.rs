use crate::config;
use crate::context::Context;
use crate::output::{mib, printable, ratio, seconds};
use crate::place::{LocalPlace, PullSource, local, nowhere, source};
use anyhow::Result;
use forkd_core::cache::{Cache, CacheKind, CacheSlot};
use forkd_core::hub::IndexHub;
use forkd_core::store::ScratchStore;
use forkd_core::{Error, Kind, PackOptions, PullOptions, PullTarget, Store, UnpackOptions};
use forkd_engine::Kernel;
use forkd_format::manifest::Base;
use forkd_format::{Digest, Tag};
use forkd_remote::AnyRemote;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Pack a snapshot, with its ancestors, into one portable file
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  forkd pack --tag pyagent --out pyagent.forkd-snapshot.tar.zst\n  \
forkd pack --format 3 --tag pyagent-v2 --base pyagent-v1 --kernel --out v2-against-v1.forkd")]
pub(crate) struct PackArgs {
    #[command(flatten)]
    pub(crate) content: Content,
    /// Printer file [default: ./<tag>.forkd-snapshot.tar.zst]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What goes into a pack.
#[derive(Debug, clap::Args)]
pub(crate) struct Content {
    /// The snapshot to pack
    #[arg(long)]
    pub(crate) tag: Tag,
    /// For people, recorded in the pack
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The container image behind the rootfs, for audit
    #[arg(long, value_name = "IMAGE")]
    base_image: Option<String>,
    /// zstd compression level
    #[arg(long, default_value_t = 3, value_name = "1..22", value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
    /// A snapshot that whoever pulls may have: its tag, its pack, or owner/name[@version]; what is like it is not packed
    /// again (format 3; may be given several times)
    #[arg(long, value_name = "BASE")]
    base: Vec<String>,
    /// The registry for a base that is owner/name [env: FORKD_HUB_URL]
    #[arg(long, value_name = "URL")]
    hub: Option<String>,
    /// Refer to the guest's kernel too, which hosts fetch once, and put it beside the pack (format 3)
    #[arg(long)]
    pub(crate) kernel: bool,
}

/// What [`PackOptions`] point to.
pub(crate) struct Prepared {
    pub(crate) options: PackOptions,
    /// Bases that are in no store of the user's.
    _scratch: Vec<ScratchStore>,
}

impl Content {
    pub(crate) fn prepare(&self, store: &Store, context: &Context<'_>) -> Result<Prepared> {
        let kernel = if self.kernel { Some(kernel(store, &self.tag, context)?) } else { None };
        let (mut bases, mut scratch) = (Vec::new(), Vec::new());
        for base in &self.base {
            bases.push(self.base(base, store, &mut scratch, context)?);
        }
        let options = PackOptions {
            tag: self.tag.clone(),
            description: self.description.clone(),
            base_image: self.base_image.clone(),
            level: self.level,
            created_at: config::timestamp()?,
            format: context.pack_format,
            bases,
            kernel,
        };
        Ok(Prepared { options, _scratch: scratch })
    }

    /// A tag of the store, a pack, or a name in a registry: the last two are unpacked for as long as the work takes, unless they
    /// are here.
    fn base(
        &self,
        base: &str,
        store: &Store,
        scratch: &mut Vec<ScratchStore>,
        context: &Context<'_>,
    ) -> Result<(Store, Tag)> {
        match local(base, store) {
            Some(LocalPlace::Tag(tag)) => return Ok((store.clone(), tag)),
            Some(LocalPlace::File(file)) => {
                let temporary = store.scratch(context.env())?;
                let options = UnpackOptions { cache: cache(), ..UnpackOptions::default() };
                let report = forkd_core::unpack_file(temporary.store(), file, &options, context.env())?;
                let found = (temporary.store().clone(), report.head);
                scratch.push(temporary);
                return Ok(found);
            }
            None if !base.contains('/') || base.contains("://") => return Err(nowhere(base).into()),
            None => {}
        }
        let remote = AnyRemote::new(&config::http()?)?;
        let PullSource::Name(reference, index) = source(base, self.hub.as_deref())? else {
            return Err(nowhere(base).into());
        };
        let unpack = UnpackOptions { cache: cache(), ..UnpackOptions::default() };
        let hub = IndexHub::new(&remote, &index, unpack.cache.as_ref());
        let options = PullOptions {
            target: PullTarget::Name { reference, hub: &hub },
            unpack: unpack.clone(),
            connections: context.connections.unwrap_or(super::pull::CONNECTIONS),
        };
        if let Some(tag) = forkd_core::plan_pull(store, &remote, &options, context.env())?.here() {
            return Ok((store.clone(), tag.clone()));
        }
        let temporary = store.scratch(context.env())?;
        let report = forkd_core::pull(temporary.store(), &remote, &options, context.env())?;
        let found = (temporary.store().clone(), report.unpack.head);
        scratch.push(temporary);
        Ok(found)
    }
}

fn cache() -> Option<Cache> {
    config::cache_dir().ok().map(|dir| Cache::new(&dir))
}

/// The uncompressed kernel that a snapshot was baked with, from the cache, and its release.
fn kernel(store: &Store, tag: &Tag, context: &Context<'_>) -> Result<(String, PathBuf)> {
    let stored = store.load(tag)?;
    let recorded = stored.snapshot.get("kernel");
    let field = |name: &str| recorded.and_then(|kernel| kernel.get(name)).and_then(serde_json::Value::as_str);
    let missing = |why: String| Error::new(Kind::NotFound, format!("the kernel of '{tag}' {why}"));
    let image: Digest =
        field("sha256").ok_or_else(|| missing("is not named in its snapshot.json".into()))?.parse()?;
    let root = config::cache_dir()?;
    let kernel = Kernel::with_digest(&root, &image)?;
    let kernel = kernel.ok_or_else(|| {
        missing(format!("(sha256 {image}) is not in {}: pack without --kernel", config::display(&root)))
    })?;
    let bytes = kernel.vmlinux()?;
    let release = field("release").unwrap_or("unknown").to_owned();
    let entry = match Cache::new(&root).find_or_create(CacheKind::Blob, &Digest::of(&bytes), context.env())? {
        CacheSlot::Found(entry) => entry,
        CacheSlot::Free(mut writer) => {
            writer.restart()?;
            writer.write_at(&bytes, 0)?;
            writer.commit()?
        }
    };
    Ok((release, entry.path().to_owned()))
}

/// What frames take from a base, in words.
pub(crate) fn refers_to(base: &Base) -> String {
    let size = |pages: u64| mib(pages * forkd_format::PAGE_SIZE as u64);
    format!(
        "{} of '{}': {} of it copied, {} of it compressed against",
        printable(&base.path),
        printable(&base.name),
        size(base.copied_pages),
        size(base.similar_pages)
    )
}

pub(crate) fn run(args: &PackArgs, context: &Context<'_>) -> Result<()> {
    let tag = &args.content.tag;
    let out = args.out.clone().unwrap_or_else(|| format!("./{tag}.forkd-snapshot.tar.zst").into());
    if out.as_os_str() == "-" {
        let message = "a pack is not written to standard output: its manifest comes first and is known last; name a file";
        return Err(Error::new(Kind::Usage, message).into());
    }
    // The specification shows the default without its "./".
    let shown = out.strip_prefix("./").unwrap_or(&out).display().to_string();
    let store = config::store()?;
    store.load(tag)?;
    context.output.line(&format!("==> packing snapshot '{tag}' → {shown}"));
    let begun = Instant::now();
    let prepared = args.content.prepare(&store, context)?;
    let report = forkd_core::pack(&store, &prepared.options, &out, context.env())?;
    let (size, unpacked) = (report.size, report.unpacked_size);
    let what = format!(
        "✓ wrote {} ({} uncompressed; {}× compression)",
        mib(size),
        mib(unpacked),
        ratio(unpacked, size)
    );
    context.output.line(&match report.links {
        1 => format!("{what} in {}", seconds(begun.elapsed())),
        links => format!("{what}  ({links} chain links)"),
    });
    for base in report.manifest.bases.iter().filter(|base| !base.is_unused()) {
        context.output.line(&format!("  refers to {}", refers_to(base)));
    }
    context.output.line(&format!("  next: scp/upload, then `forkd unpack {shown}` on the target host"));
    context.output.json(&json!({
        "tag": tag.as_str(),
        "path": report.path.display().to_string(),
        "size_bytes": size,
        "unpacked_bytes": unpacked,
        "links": report.links,
        "format": report.manifest.version,
        "bases": report.manifest.bases,
        "seconds": begun.elapsed().as_secs_f64(),
    }));
    Ok(())
}
