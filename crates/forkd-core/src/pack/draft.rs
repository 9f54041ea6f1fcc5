use crate::error::{Error, Kind, Result};
use crate::pack::input::PackInput;
use crate::pack::options::PackOptions;
use crate::store::stored::StoredSnapshot;
use forkd_format::layout::{entry_header, padding};
use forkd_format::manifest::{FILE_ORDER, FileEntry, Link, MANIFEST, MEMORY, SNAPSHOT_JSON};
use forkd_format::{Digest, Manifest, PackFormat};

/// The manifest with every size and no digest: exactly as long as it will be.
pub(crate) fn draft(
    chain: &[StoredSnapshot],
    inputs: &[PackInput],
    options: &PackOptions,
) -> Result<Manifest> {
    let unknown = Digest::of(b"");
    let mut links = Vec::new();
    for (l, stored) in chain.iter().enumerate() {
        let names = std::iter::once(SNAPSHOT_JSON).chain(stored.bodies().into_iter().map(|(name, _)| name));
        let sizes = inputs.iter().filter(|input| input.link == l).map(|input| input.size);
        let files: Vec<FileEntry> = names
            .zip(sizes)
            .map(|(name, size)| FileEntry { path: name.into(), size, sha256: unknown, root: None })
            .collect();
        debug_assert!(
            files
                .iter()
                .map(|f| f.path.as_str())
                .eq(FILE_ORDER.into_iter().filter(|n| files.iter().any(|f| f.path == *n)))
        );
        let parent = stored.snapshot.parent().map_err(Error::malformed(stored.dir.display().to_string()))?;
        let parent_tag = parent.as_ref().map(|parent| parent.tag.clone());
        // A host that wrote no hash trusts the tag; the pack names what the parent is now.
        let hash = parent.map(|parent| parent.content_hash.unwrap_or(unknown));
        links.push(Link { tag: stored.tag.clone(), parent_tag, parent_content_hash: hash, files });
    }
    let head = chain.last().and_then(|stored| stored.record.clone()).unwrap_or_default();
    Ok(Manifest {
        version: format(options, links.len())?.version(),
        tag: options.tag.clone(),
        description: options.description.clone().or(head.description),
        base_image: options.base_image.clone().or(head.base_image),
        created_at: Some(options.created_at.clone()),
        forkd_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        links,
        rootfs: None,
        index: None,
        bases: Vec::new(),
    })
}

/// The format that is asked for, where it can hold the snapshot.
fn format(options: &PackOptions, links: usize) -> Result<PackFormat> {
    let wrong = |message: &str| Err(Error::new(Kind::Usage, format!("'{}' {message}", options.tag)));
    let format = match (options.format, links) {
        (Some(PackFormat::Single), 2..) => {
            return wrong("is a chain; format 1 holds one snapshot: use 2 or 3");
        }
        (Some(PackFormat::Chain), 1) => return wrong("is no chain; format 2 holds one: use 1 or 3"),
        (Some(format), _) => format,
        (None, 1) => PackFormat::Single,
        (None, _) => PackFormat::Chain,
    };
    if !format.is_paged() && (!options.bases.is_empty() || options.kernel.is_some()) {
        return wrong("can refer to bases in format 3 only: add --format 3");
    }
    Ok(format)
}

/// The manifest as a tar entry, padded.
pub(crate) fn manifest_entry(manifest: &Manifest) -> Result<Vec<u8>> {
    let text = manifest.to_bytes();
    let mut entry = entry_header(MANIFEST, text.len() as u64).map_err(Error::malformed(MANIFEST))?.to_vec();
    let pad = padding(text.len() as u64);
    entry.extend(text);
    entry.resize(entry.len() + pad, 0);
    Ok(entry)
}

/// Enters the digests that the files turned out to have, and holds the chain's edges against them.
pub(crate) fn complete(manifest: &mut Manifest, inputs: &[PackInput], digests: Vec<Digest>) -> Result<()> {
    for (input, digest) in inputs.iter().zip(digests) {
        manifest.links[input.link].files[input.index].sha256 = digest;
    }
    complete_edges(manifest)?;
    // What no forkd would read is not written.
    Manifest::parse(&manifest.to_bytes())
        .map_err(Error::malformed(format!("'{}' cannot be packed", manifest.tag)))?;
    Ok(())
}

/// Holds each link's parent hash against the digest that its parent turned out to have.
pub(crate) fn complete_edges(manifest: &mut Manifest) -> Result<()> {
    for i in 1..manifest.links.len() {
        let Some(memory) = manifest.links[i - 1].memory() else { continue };
        let parent = manifest.links[i - 1].tag.clone();
        let link = &mut manifest.links[i];
        match link.parent_content_hash {
            Some(hash) if hash == Digest::of(b"") => link.parent_content_hash = Some(memory),
            Some(hash) if hash != memory => {
                let message = format!(
                    "'{}' was made on top of '{parent}' with {MEMORY} {hash}, but '{parent}' has {memory} here: the chain \
                     would not restore. Pull or unpack the right '{parent}' first",
                    link.tag
                );
                return Err(Error::new(Kind::Integrity, message));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A snapshot that is not what was put there is not passed on.
pub(crate) fn check_records(chain: &[StoredSnapshot], manifest: &Manifest) -> Result<()> {
    for (stored, link) in chain.iter().zip(&manifest.links) {
        for file in link.files.iter().filter(|file| file.path != SNAPSHOT_JSON) {
            let recorded = stored.record.as_ref().and_then(|record| record.file(&file.path));
            if let Some(recorded) = recorded.filter(|recorded| recorded.sha256 != file.sha256) {
                let message = format!(
                    "{}: sha256 is {}; recorded was {}. `forkd verify {}` shows where it is damaged",
                    stored.dir.join(&file.path).display(),
                    file.sha256,
                    recorded.sha256,
                    stored.tag
                );
                return Err(Error::new(Kind::Integrity, message));
            }
        }
    }
    Ok(())
}
