use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::store::lock::{LockKind, TagLock};
use crate::store::record::{HashedFile, Record, RecordedFile, modified_ns};
use crate::store::root::Store;
use crate::store::staged::{RootfsPath, StagedSnapshot};
use crate::store::stored::{StoredSnapshot, check_untouched};
use forkd_format::Tag;
use forkd_format::manifest::MEMORY;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A chain that was made flat.
#[derive(Debug, Clone, Serialize)]
pub struct CompactReport {
    /// The head of the chain.
    pub from: Tag,
    /// The flat snapshot.
    pub to: Tag,
    #[serde(serialize_with = "crate::json::path")]
    pub path: PathBuf,
}

/// Makes a flat snapshot of a chain: one that needs no parent. Memory, device state and root disk are shared with the chain on the disk.
///
/// # Errors
/// [`Kind::NotFound`], [`Kind::General`] where the new tag is taken, [`Kind::Integrity`] where a link was altered.
pub fn compact(store: &Store, from: &Tag, to: &Tag, created_at: &str, env: Env<'_>) -> Result<CompactReport> {
    if from == to {
        return Err(Error::new(Kind::Usage, format!("'{from}' has that tag already")));
    }
    let (chain, _locks) = lock_chain(store, from, to, env)?;
    store.require_free(to)?;
    let head = &chain[chain.len() - 1];
    check_untouched(head)?;
    let memory = store.memory(&chain, env)?;
    let staging = store.stage(env)?;
    let staged = StagedSnapshot::create(&staging, "compact", to)?;
    let known = head.record.clone().unwrap_or_default();
    let mut record = Record {
        record_version: 1,
        created_at: Some(created_at.to_owned()),
        description: known.description,
        base_image: known.base_image,
        ..Record::default()
    };
    let mut files = head.bodies();
    files.retain(|(name, path)| *name != MEMORY && path.starts_with(&head.dir));
    files.push((MEMORY, memory));
    for (name, path) in files {
        staged.link_file(name, &path)?;
        record.files.push(recorded(store, head, name, &path, env)?);
    }
    let flat = ["parent_tag", "parent_content_hash", "zero_pages"]
        .iter()
        .fold(head.snapshot.clone(), |snapshot, key| snapshot.with(key, None));
    let sealed = staged.seal(&flat, RootfsPath::As(head), Some(record))?;
    env.cancel.check()?;
    Ok(CompactReport { from: from.clone(), to: to.clone(), path: sealed.publish()? })
}

/// Locks a chain for reading and the new tag for writing, in the order of the tags, as everyone who locks several.
fn lock_chain(
    store: &Store,
    from: &Tag,
    to: &Tag,
    env: Env<'_>,
) -> Result<(Vec<StoredSnapshot>, Vec<TagLock>)> {
    let tags = |chain: &[StoredSnapshot]| chain.iter().map(|link| link.tag.clone()).collect::<Vec<Tag>>();
    loop {
        let wanted = tags(&store.chain(from)?);
        let mut kinds: Vec<(&Tag, LockKind)> =
            wanted.iter().filter(|tag| *tag != to).map(|tag| (tag, LockKind::Shared)).collect();
        kinds.push((to, LockKind::Exclusive));
        kinds.sort_by_key(|(tag, _)| *tag);
        let locks =
            kinds.into_iter().map(|(tag, kind)| store.lock(tag, kind, env)).collect::<Result<Vec<_>>>()?;
        let chain = store.chain(from)?;
        // Another chain under the same tag may have come before the locks did.
        if tags(&chain) == wanted {
            return Ok((chain, locks));
        }
    }
}

/// What the head's record says of a file; an assembled memory is read, which also shows whether it still is what it was.
fn recorded(
    store: &Store,
    head: &StoredSnapshot,
    name: &str,
    path: &Path,
    env: Env<'_>,
) -> Result<RecordedFile> {
    let own = path.starts_with(&head.dir);
    if let Some(known) = head.record.as_ref().and_then(|record| record.file(name)).filter(|_| own) {
        let mtime_ns = modified_ns(&path.metadata().map_err(Error::io("read", path))?);
        return Ok(RecordedFile { mtime_ns, ..known.clone() });
    }
    env.progress.start("reading", path.metadata().ok().map(|metadata| metadata.len()));
    let hashed = HashedFile::read(path, &mut |bytes| {
        env.progress.advance(bytes);
        env.cancel.check()
    });
    env.progress.finish();
    let hashed = hashed?;
    if let Some((_, expected)) = head.snapshot.frozen("memory").filter(|_| !own)
        && hashed.sha256 != expected
    {
        store.forget_assembled(&expected)?;
        let (path, found) = (path.display(), hashed.sha256);
        let message =
            format!("{path}: sha256 is {found}; expected {expected}. Try again: it is assembled anew then");
        return Err(Error::new(Kind::Integrity, message));
    }
    Ok(hashed.recorded(name))
}
