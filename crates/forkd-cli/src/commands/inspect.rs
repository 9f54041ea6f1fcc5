use crate::config;
use crate::context::Context;
use crate::output::{mib, printable};
use crate::place::{LocalPlace, local, nowhere, source};
use anyhow::Result;
use forkd_app::PullSource;
use forkd_core::{Inspection, PagedFacts, SetFacts};
use forkd_format::manifest::BaseKind;

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
    context.output.json(&inspection);
    Ok(())
}

fn registry(args: &InspectArgs, context: &Context<'_>) -> Result<()> {
    let PullSource::Name(reference, hubs) = source(&args.what, args.hub.as_deref())? else {
        return Err(nowhere(&args.what).into());
    };
    let settings = config::settings()?;
    let entry = context.app(&settings).registry_entry(&reference, &hubs)?;
    let mut lines = vec![
        entry.reference.clone(),
        format!("  url         {}", entry.url),
        format!("  sha256      {}", entry.sha256),
        format!("  size        {} ({} bytes)", mib(entry.size_bytes), entry.size_bytes),
    ];
    lines.extend(entry.memory_mib.map(|memory| format!("  memory      {memory} MiB")));
    lines.extend(entry.base_image.as_ref().map(|image| format!("  base image  {}", printable(image))));
    context.output.answer(&lines.join("\n"));
    context.output.json(&entry);
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
    if let Some(paged) = &inspection.paged {
        lines.extend(paged_text(paged));
    }
    lines.join("\n")
}

/// Frames, and what they refer to.
fn paged_text(paged: &PagedFacts) -> Vec<String> {
    let size = |pages: u64| mib(pages * forkd_format::PAGE_SIZE as u64);
    let mut lines = vec![
        format!("  manifest    sha256:{}", paged.artifact.manifest_sha256),
        format!("  head        {} bytes: manifest and index", paged.artifact.head_bytes),
    ];
    if paged.working_set.pages > 0 {
        let SetFacts { pages, bytes } = &paged.working_set;
        lines.push(format!("  working set {} in {bytes} bytes", size(*pages as u64)));
    }
    let width = paged.files.iter().map(|facts| facts.name.len()).max().unwrap_or(0);
    lines.push(format!(
        "    {:width$}{:>8}{:>8}{:>14}{:>12}{:>12}{:>12}{:>7}",
        "frames", "stored", "zero", "bytes", "data", "copied", "similar", "depth"
    ));
    for facts in &paged.files {
        lines.push(format!(
            "    {:width$}{:>8}{:>8}{:>14}{:>12}{:>12}{:>12}{:>7}",
            facts.name,
            facts.stored,
            facts.zero,
            facts.bytes,
            size(facts.data_pages),
            size(facts.copied_pages),
            size(facts.similar_pages),
            facts.depth
        ));
    }
    for base in &paged.artifact.bases {
        lines.push(format!("  refers to {}", super::pack::refers_to(base)));
        lines.push(format!("    {} bytes  sha256:{}  root:{}", base.size, base.sha256, base.root));
        if base.kind == BaseKind::Kernel {
            lines.push(format!("    beside the pack: {}", base.file_name()));
        }
    }
    lines
}
