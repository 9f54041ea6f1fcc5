use crate::complete;
use crate::config;
use crate::context::Context;
use crate::output::{mib, printable, ratio, seconds};
use crate::place::{LocalPlace, local, nowhere, source};
use anyhow::{Context as _, Result};
use forkd_app::{BaseSource, PackRequest, PullSource};
use forkd_core::{Error, Kind, PackOptions, ReleaseOptions, Store};
use forkd_format::Tag;
use forkd_format::manifest::Base;
use forkd_format::paged::MAX_DEPTH;
use std::path::PathBuf;

/// Pack a snapshot, with its ancestors, into one portable file
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  forkd pack pyagent --out pyagent.forkd-snapshot.tar.zst\n  \
forkd pack pyagent-v2 --format 3 --base pyagent-v1 --kernel --out v2-against-v1.forkd")]
pub(crate) struct PackArgs {
    /// The snapshot to pack
    #[arg(value_name = "TAG", required_unless_present = "tag", conflicts_with = "tag", add = complete::tags())]
    name: Option<Tag>,
    #[command(flatten)]
    pub(crate) content: PackContent,
    /// Printer file [default: ./<tag>.forkd-snapshot.tar.zst]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What goes into a pack.
#[derive(Debug, clap::Args)]
pub(crate) struct PackContent {
    /// The snapshot to pack, by a flag
    #[arg(long, add = complete::tags())]
    pub(crate) tag: Option<Tag>,
    /// For people, recorded in the pack
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The container image behind the rootfs, for audit
    #[arg(long, value_name = "IMAGE")]
    base_image: Option<String>,
    /// zstd compression level [default: 3]
    #[arg(long, value_name = "1..22", value_parser = clap::value_parser!(i32).range(1..=22))]
    level: Option<i32>,
    /// How many frames may need each other in a row; 0: each stands by itself, which takes most bytes (format 3)
    #[arg(long, default_value_t = PackOptions::DEPTH, value_name = "0..32", value_parser = clap::value_parser!(u8).range(0..=i64::from(MAX_DEPTH)))]
    depth: u8,
    /// A snapshot that whoever pulls may have: its tag, its pack, or owner/name[@version]; what is like it is not packed
    /// again (format 3; may be given several times)
    #[arg(long, value_name = "BASE")]
    base: Vec<String>,
    /// The registry for a base that is owner/name [env: FORKD_HUB_URL]
    #[arg(long, value_name = "URL")]
    pub(crate) hub: Option<String>,
    /// Refer to the guest's kernel too, which hosts fetch once, and put it beside the pack (format 3)
    #[arg(long)]
    pub(crate) kernel: bool,
}

impl PackContent {
    pub(crate) fn request(&self, tag: &Tag, store: &Store, context: &Context<'_>) -> Result<PackRequest> {
        let bases = self.base.iter().map(|base| self.base_source(base, store));
        Ok(PackRequest {
            tag: tag.clone(),
            description: self.description.clone(),
            base_image: self.base_image.clone(),
            level: self.level.unwrap_or(3),
            depth: self.depth,
            format: context.pack_format,
            bases: bases.collect::<Result<_>>()?,
            kernel: self.kernel,
            connections: context.connections,
        })
    }

    /// What goes into a release.
    pub(crate) fn release(&self, tag: &Tag, store: &Store, context: &Context<'_>) -> Result<ReleaseOptions> {
        if context.pack_format.is_some() || self.kernel || self.depth != PackOptions::DEPTH {
            let message = "--format, --depth and --kernel are for packs; a release is no pack";
            return Err(Error::new(Kind::Usage, message).into());
        }
        let base = |base: &String| match local(base, store) {
            Some(LocalPlace::Tag(tag)) => Ok(tag),
            _ => {
                Err(Error::new(Kind::NotFound, format!("'{}' is no snapshot in the store", printable(base)))
                    .hint("a release is based on snapshots of the store: pull it first"))
            }
        };
        Ok(ReleaseOptions {
            tag: tag.clone(),
            description: self.description.clone(),
            base_image: self.base_image.clone(),
            level: self.level,
            bases: self.base.iter().map(base).collect::<forkd_core::Result<_>>()?,
            replace: true,
            variant: false,
        })
    }

    /// A tag of the store, a pack, or a name in a registry.
    fn base_source(&self, base: &str, store: &Store) -> Result<BaseSource> {
        match local(base, store) {
            Some(LocalPlace::Tag(tag)) => Ok(BaseSource::Tag(tag)),
            Some(LocalPlace::File(file)) => Ok(BaseSource::File(file.to_owned())),
            None if !base.contains('/') || base.contains("://") => Err(nowhere(base).into()),
            None => match source(base, self.hub.as_deref())? {
                PullSource::Name(reference, hubs) => Ok(BaseSource::Name(reference, hubs)),
                PullSource::Url(_) | PullSource::Release(_) | PullSource::Locked { .. } => {
                    Err(nowhere(base).into())
                }
            },
        }
    }
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
    let tag = args.name.as_ref().or(args.content.tag.as_ref()).context("clap wants one of the two")?;
    let out = args.out.clone().unwrap_or_else(|| format!("./{tag}.forkd-snapshot.tar.zst").into());
    if out.as_os_str() == "-" {
        let message = "a pack is not written to standard output: its manifest comes first and is known last";
        return Err(Error::new(Kind::Usage, message).hint("name a file").into());
    }
    // The specification shows the default without its "./".
    let shown = out.strip_prefix("./").unwrap_or(&out).display().to_string();
    let settings = config::settings()?;
    settings.store.load(tag)?;
    context.output.line(&format!("==> packing snapshot '{tag}' → {shown}"));
    let request = args.content.request(tag, &settings.store, context)?;
    let report = context.app(&settings).pack(&request, &out)?;
    let (size, unpacked) = (report.size, report.unpacked_size);
    let what = format!(
        "✓ wrote {} ({} uncompressed; {}× compression)",
        mib(size),
        mib(unpacked),
        ratio(unpacked, size)
    );
    context.output.line(&match report.links {
        1 => format!("{what} in {}", seconds(report.time)),
        links => format!("{what}  ({links} chain links)"),
    });
    let chain = settings.store.chain(tag)?;
    let disks = chain.iter().filter(|link| link.rootfs().is_some()).count();
    if disks > 1 && context.pack_format.is_none_or(|format| !format.is_paged()) {
        let what = format!("each of {disks} links carries its whole disk, for hosts of 0.5.x");
        context.env().progress.note(&format!("{what}; `--format 3` stores what links share once"));
    }
    for base in report.bases.iter().filter(|base| !base.is_unused()) {
        context.output.line(&format!("  refers to {}", refers_to(base)));
    }
    context.output.line(&format!("  next: scp/upload, then `forkd unpack {shown}` on the target host"));
    context.output.line(&format!("  {}, {size} bytes", report.id));
    context.output.json(&report);
    Ok(())
}
