use crate::error::{Error, Kind, Result};
use crate::store::stored::StoredSnapshot;
use forkd_format::manifest::{Link, MEMORY};
use forkd_format::{Digest, Snapshot, Tag};

/// Reads a link's `snapshot.json`, which must name the same parent as the manifest that was checked.
pub(crate) fn parse_description(link: &Link, bytes: &[u8]) -> Result<Snapshot> {
    let snapshot = Snapshot::parse(bytes).map_err(Error::malformed(link.tag.to_string()))?;
    let named = snapshot.parent().map_err(Error::malformed(link.tag.to_string()))?;
    let tag = named.as_ref().map(|parent| &parent.tag);
    let hash = named.as_ref().and_then(|parent| parent.content_hash);
    if let (Some(hash), Some(declared)) = (hash, link.parent_content_hash)
        && hash != declared
    {
        let message = format!(
            "'{}': snapshot.json has parent_content_hash {hash}; the manifest declares {declared}",
            link.tag
        );
        return Err(Error::new(Kind::Integrity, message));
    }
    if tag != link.parent_tag.as_ref() {
        let words = |tag: Option<&Tag>| {
            tag.map_or_else(|| "no parent".to_owned(), |tag| format!("the parent '{tag}'"))
        };
        let message = format!(
            "'{}': snapshot.json names {}; the manifest names {}",
            link.tag,
            words(tag),
            words(link.parent_tag.as_ref())
        );
        return Err(Error::new(Kind::Integrity, message));
    }
    Ok(snapshot)
}

/// Puts bytes of a `snapshot.json`, at most a MiB by the manifest's rules, at their place.
pub(crate) fn put(text: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    text.resize(text.len().max(end), 0);
    text[offset as usize..end].copy_from_slice(bytes);
}

/// The memory image's digest names a snapshot to its children.
pub(crate) fn memory_digest(stored: &StoredSnapshot) -> Result<Digest> {
    stored.digest(MEMORY, &stored.dir.join(MEMORY), false)
}
