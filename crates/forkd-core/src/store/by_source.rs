//! What was pulled before, and is still here.

use crate::error::Result;
use crate::pack::computed_id::ComputedId;
use crate::store::record::RecordedFile;
use crate::store::root::Store;
use crate::store::stored::StoredSnapshot;
use crate::unpack::plan::UnpackOptions;
use forkd_format::PackId;

/// The links that a pack of one of these names was unpacked to, root first, where they are all still here under the tags that a pull would give
/// them now; Untouched files are believed; with `force` they are read again.
pub(crate) fn already_here(
    store: &Store,
    ids: &[PackId],
    options: &UnpackOptions,
) -> Result<Option<(ComputedId, Vec<StoredSnapshot>)>> {
    if ids.is_empty() {
        return Ok(None);
    }
    let (wanted, read) = (options.tag.as_ref(), options.force);
    for tag in store.tags()? {
        let Ok(stored) = store.load(&tag) else { continue };
        let Some(source) = stored.record.as_ref().and_then(|record| record.source.as_ref()) else { continue };
        let Some(found) = ComputedId::recorded(source).filter(|found| ids.contains(&found.id())) else {
            continue;
        };
        if wanted.or(source.head.as_ref()) != Some(&tag) {
            continue;
        }
        let Ok(chain) = store.chain(&tag) else { continue };
        // A chain keeps its tags: another one for its head is refused when the pack is read.
        let renamed = chain.len() > 1 && wanted.is_some() && !options.update;
        if renamed || !chain.iter().all(|link| is_untouched(link, read)) {
            continue;
        }
        return Ok(Some((found, chain)));
    }
    Ok(None)
}

/// Whether every recorded file is as it was recorded: by its size and time, or, where `read` is set, by its bytes.
fn is_untouched(stored: &StoredSnapshot, read: bool) -> bool {
    let untouched = |file: &RecordedFile| {
        let path = stored.dir.join(&file.path);
        let size = path.metadata().map(|metadata| metadata.len());
        size.is_ok_and(|size| size == file.size)
            && match file.root.filter(|_| file.declared) {
                Some(root) => stored.root(&file.path, &path, read).is_ok_and(|found| found == root),
                None => stored.digest(&file.path, &path, read).is_ok_and(|found| found == file.sha256),
            }
    };
    stored.record.as_ref().is_some_and(|record| record.files.iter().all(untouched))
}
