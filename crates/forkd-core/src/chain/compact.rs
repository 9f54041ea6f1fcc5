use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::store::lock::{LockKind, TagLock};
use crate::store::record::{HashedFile, Record, RecordedFile, modified_ns};
use crate::store::root::Store;
use crate::store::staged::write_sealed;
use crate::store::stored::{Stored, check_untouched};
use forkd_format::Tag;
use forkd_format::manifest::{MEMORY, ROOTFS, SNAPSHOT_JSON};
use std::path::{Path, PathBuf};

/// Makes a flat snapshot of a chain: one that needs no parent. Memory, device state and root disk are shared with the chain on the disk.
///
/// # Errors
/// [`Kind::NotFound`], [`Kind::General`] where the new tag is taken, [`Kind::Integrity`] where a link was altered.
pub fn compact(store: &Store, from: &Tag, to: &Tag, created_at: &str, env: Env<'_>) -> Result<PathBuf> {
    if from == to {
        return Err(Error::new(Kind::Usage, format!("'{from}' has that tag already")));
    }
    let target = store.dir(to);
    let (chain, _locks) = lock_chain(store, from, to, env)?;
    if store.contains(to) {
        return Err(Error::new(
            Kind::General,
            format!("'{to}' is already at {}; `forkd rmi {to}` first", target.display()),
        ));
    }
    let head = &chain[chain.len() - 1];
    check_untouched(head)?;
    let memory = store.memory(&chain, env)?;
    let staging = store.stage(env)?;
    let dir = staging.dir("compact")?;
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
        let to = dir.join(name);
        store.disk().link(&path, &to).map_err(Error::io("link", &to))?;
        record.files.push(recorded(store, head, name, &path, env)?);
    }
    let flat = ["parent_tag", "parent_content_hash", "zero_pages"]
        .iter()
        .fold(head.snapshot.clone(), |snapshot, key| snapshot.with(key, None));
    let inside = head.dir.join(ROOTFS).exists() && head.snapshot.rootfs().is_some();
    let own = inside.then(|| target.join(ROOTFS).display().to_string());
    let rootfs = own.as_deref().or(head.snapshot.rootfs());
    let text = flat.relocated(&format!("{}/", target.display()), rootfs).to_bytes();
    let mtime_ns = write_sealed(store.disk(), &dir.join(SNAPSHOT_JSON), &text)?;
    record.files.insert(0, HashedFile::of(&text, mtime_ns).recorded(SNAPSHOT_JSON));
    let text = serde_json::to_vec(&record).map_err(|e| Error::new(Kind::General, e.to_string()))?;
    write_sealed(store.disk(), &dir.join(Record::NAME), &text)?;
    env.cancel.check()?;
    store.publish(&dir, to)?;
    Ok(target)
}

/// Locks a chain for reading and the new tag for writing, in the order of the tags, as everyone who locks several.
fn lock_chain(store: &Store, from: &Tag, to: &Tag, env: Env<'_>) -> Result<(Vec<Stored>, Vec<TagLock>)> {
    let tags = |chain: &[Stored]| chain.iter().map(|link| link.tag.clone()).collect::<Vec<Tag>>();
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
fn recorded(store: &Store, head: &Stored, name: &str, path: &Path, env: Env<'_>) -> Result<RecordedFile> {
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
