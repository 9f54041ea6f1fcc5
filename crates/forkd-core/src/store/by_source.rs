//! What was pulled before, and is still here.

use crate::error::Result;
use crate::store::record::RecordedFile;
use crate::store::root::Store;
use crate::store::stored::{Stored, parent_of};
use crate::unpack::plan::{LinkReport, Outcome, UnpackOptions, UnpackReport};
use forkd_format::Digest;

/// The snapshots that a pack of one of these digests was unpacked to, where they are all still here under the tags that a pull would give
/// them now. Untouched files are believed; `read` has them read again.
pub(crate) fn already_here(
    store: &Store,
    digests: &[Digest],
    options: &UnpackOptions,
) -> Result<Option<(Digest, UnpackReport)>> {
    if digests.is_empty() {
        return Ok(None);
    }
    for tag in store.tags()? {
        let Ok(stored) = store.load(&tag) else { continue };
        let Some(source) = stored.record.as_ref().and_then(|record| record.source.as_ref()) else { continue };
        let Some(found) = source.sha256.filter(|sha256| digests.contains(sha256)) else { continue };
        if options.tag.as_ref().or(source.head.as_ref()) != Some(&tag) {
            continue;
        }
        let Ok(chain) = store.chain(&tag) else { continue };
        // A chain keeps its tags: another one for its head is refused when the pack is read.
        let renamed = chain.len() > 1 && options.tag.is_some();
        if renamed || !chain.iter().all(|link| is_untouched(link, options.force)) {
            continue;
        }
        let links = chain.iter().map(|link| LinkReport {
            tag: link.tag.clone(),
            local_tag: link.tag.clone(),
            path: link.dir.clone(),
            parent: parent_of(Some(link)).ok().flatten(),
            outcome: Outcome::Kept,
        });
        let unpacked_size =
            chain.iter().filter_map(|link| link.record.as_ref()).flat_map(|r| &r.files).map(|f| f.size).sum();
        let report =
            UnpackReport { links: links.collect(), chain: chain.len() > 1, head: tag, unpacked_size };
        return Ok(Some((found, report)));
    }
    Ok(None)
}

/// Whether every recorded file is as it was recorded: by its size and time, or, where `read` is set, by its bytes.
fn is_untouched(stored: &Stored, read: bool) -> bool {
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
