use crate::config;
use crate::context::Context;
use crate::output::{mib, printable};
use crate::place::{LocalPlace, PullSource, local, nowhere, source};
use anyhow::Result;
use forkd_core::hub::IndexHub;
use forkd_core::{Inspection, PagedFacts};
use forkd_format::Tag;
use forkd_format::manifest::BaseKind;
use forkd_remote::AnyRemote;
use serde_json::{Value, json};

/// Show what a pack, a snapshot or a registry entry is: manifest, chain, sizes, digests
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  forkd inspect pyagent.forkd-snapshot.tar.zst\n  forkd inspect pyagent\n  \
forkd inspect deeplethe/python-numpy"
)]
pub(crate) struct InspectArgs {
    /// A pack file, a tag, or owner/name[@version]
    what: String,
    /// The registry for owner/name [env: FORKD_HUB_URL]
    #[arg(long, value_name = "URL")]
    hub: Option<String>,
}

pub(crate) fn run(args: &InspectArgs, context: &Context<'_>) -> Result<()> {
    let store = config::store()?;
    let inspection = match local(&args.what, &store) {
        Some(LocalPlace::Tag(tag)) => forkd_core::inspect_tag(&store, &tag)?,
        Some(LocalPlace::File(file)) => forkd_core::inspect_file(file, context.env())?,
        None if args.what.contains('/')
            && !args.what.contains("://")
            && !args.what.starts_with(['/', '.']) =>
        {
            return registry(args, context);
        }
        None => return Err(nowhere(&args.what).into()),
    };
    context.output.answer(&text(&inspection));
    context.output.json(&to_json(&inspection));
    Ok(())
}

fn registry(args: &InspectArgs, context: &Context<'_>) -> Result<()> {
    let PullSource::Name(reference, hub) = source(&args.what, args.hub.as_deref())? else {
        return Err(nowhere(&args.what).into());
    };
    let remote = AnyRemote::new(&config::http()?)?;
    let (location, version) = IndexHub::new(&remote, &hub, None).version(&reference, context.env().cancel)?;
    let mut lines = vec![
        reference.to_string(),
        format!("  url         {location}"),
        format!("  sha256      {}", version.sha256),
        format!("  size        {} ({} bytes)", mib(version.size_bytes), version.size_bytes),
    ];
    lines.extend(version.memory_mib.map(|memory| format!("  memory      {memory} MiB")));
    lines.extend(version.base_image.as_ref().map(|image| format!("  base image  {}", printable(image))));
    context.output.answer(&lines.join("\n"));
    context.output.json(&json!({
        "reference": reference.to_string(),
        "url": location.to_string(),
        "sha256": version.sha256,
        "size_bytes": version.size_bytes,
        "memory_mib": version.memory_mib,
        "base_image": version.base_image,
    }));
    Ok(())
}

fn text(inspection: &Inspection) -> String {
    let mut lines = vec![inspection.tag.to_string()];
    let mut fact = |name: &str, value: Option<String>| {
        lines.extend(value.map(|value| format!("  {name:<12}{}", printable(&value))))
    };
    fact("description", inspection.description.clone());
    fact("base image", inspection.base_image.clone());
    fact("created", inspection.created_at.clone());
    fact("packed by", inspection.forkd_version.as_ref().map(|version| format!("forkd {version}")));
    fact(
        "pack",
        inspection
            .pack_version
            .map(|version| format!("version {version}, {}", mib(inspection.pack_size.unwrap_or(0)))),
    );
    fact("came from", inspection.source.as_ref().map(|source| source.name.clone()));
    fact(
        "pack sha256",
        inspection.source.as_ref().and_then(|source| source.id).map(|id| id.digest().to_string()),
    );
    for link in &inspection.links {
        let parent =
            link.parent.as_ref().map(|parent| format!("  (chain parent: {parent})")).unwrap_or_default();
        lines.push(format!("  link '{}'{parent}", link.tag));
        for file in &link.files {
            let disk = file.disk_size.map(|size| format!(" ({} on disk)", mib(size))).unwrap_or_default();
            let digest = file
                .sha256
                .map_or_else(|| "no digest recorded".to_owned(), |sha256| format!("sha256:{sha256}"));
            lines.push(format!("    {:<14}{:>14} bytes  {digest}{disk}", file.path, file.size));
        }
    }
    if let Some(rootfs) = &inspection.rootfs {
        let (name, size) = (rootfs.file_name(), rootfs.size);
        lines.push(format!("  beside the pack: {name}, {size} bytes uncompressed  sha256:{}", rootfs.sha256));
    }
    if let Some(framed) = &inspection.paged {
        lines.extend(framed_text(framed));
    }
    lines.join("\n")
}

/// Frames, and what they refer to.
fn framed_text(framed: &PagedFacts) -> Vec<String> {
    let size = |pages: u64| mib(pages * forkd_format::PAGE_SIZE as u64);
    let mut lines = vec![
        format!("  manifest    sha256:{}", framed.manifest_sha256),
        format!("  head        {} bytes: manifest and index", framed.head_bytes),
    ];
    let width = framed.files.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines.push(format!(
        "    {:width$}{:>8}{:>8}{:>14}{:>12}{:>12}{:>12}",
        "frames", "stored", "zero", "bytes", "data", "copied", "similar"
    ));
    for (name, facts) in &framed.files {
        lines.push(format!(
            "    {name:width$}{:>8}{:>8}{:>14}{:>12}{:>12}{:>12}",
            facts.stored,
            facts.zero,
            facts.bytes,
            size(facts.data_pages),
            size(facts.copied_pages),
            size(facts.similar_pages)
        ));
    }
    for base in framed.bases.iter().filter(|base| !base.is_unused()) {
        lines.push(format!("  refers to {}", super::pack::refers_to(base)));
        lines.push(format!("    {} bytes  sha256:{}  root:{}", base.size, base.sha256, base.root));
        if base.kind == BaseKind::Kernel {
            lines.push(format!("    beside the pack: {}", base.file_name()));
        }
    }
    lines
}

/// The facts, and what goes into a registry.
fn framed_json(framed: &PagedFacts, size: Option<u64>) -> Value {
    let files = framed.files.iter().map(|(name, facts)| {
        json!({
            "name": name,
            "stored_frames": facts.stored,
            "zero_frames": facts.zero,
            "stored_bytes": facts.bytes,
            "data_pages": facts.data_pages,
            "copied_pages": facts.copied_pages,
            "similar_pages": facts.similar_pages,
        })
    });
    json!({
        "files": files.collect::<Vec<_>>(),
        "artifact": artifact(framed, size),
    })
}

/// What a registry says of a pack, but for where it lies.
pub(crate) fn artifact(framed: &PagedFacts, size: Option<u64>) -> Value {
    json!({
        "format": 3,
        "manifest_sha256": framed.manifest_sha256,
        "size_bytes": size,
        "head_bytes": framed.head_bytes,
        "bases": framed.bases.iter().filter(|base| !base.is_unused()).collect::<Vec<_>>(),
    })
}

fn to_json(inspection: &Inspection) -> Value {
    let links = inspection.links.iter().map(|link| {
        let files = link.files.iter().map(|file| {
            json!({ "path": file.path, "size_bytes": file.size, "disk_bytes": file.disk_size, "sha256": file.sha256 })
        });
        json!({
            "tag": link.tag.as_str(),
            "parent": link.parent.as_ref().map(Tag::as_str),
            "parent_content_hash": link.parent_content_hash,
            "files": files.collect::<Vec<_>>(),
        })
    });
    json!({
        "tag": inspection.tag.as_str(),
        "pack_version": inspection.pack_version,
        "pack_bytes": inspection.pack_size,
        "description": inspection.description,
        "base_image": inspection.base_image,
        "created_at": inspection.created_at,
        "forkd_version": inspection.forkd_version,
        "source": inspection.source.as_ref().map(|source| json!({ "name": source.name, "sha256": source.id.map(|id| id.digest()) })),
        "rootfs": inspection.rootfs.as_ref().map(|rootfs| {
            json!({ "file": rootfs.file_name(), "size_bytes": rootfs.size, "sha256": rootfs.sha256 })
        }),
        "links": links.collect::<Vec<_>>(),
        "frames": inspection.paged.as_ref().map(|framed| framed_json(framed, inspection.pack_size)),
    })
}
