use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::store::lock::LockKind;
use crate::store::root::Store;
use crate::store::staged::{RootfsPath, StagedSnapshot};
use forkd_format::Tag;
use serde::Serialize;
use std::path::PathBuf;

/// A snapshot with a second tag.
#[derive(Debug, Clone, Serialize)]
pub struct RetagReport {
    /// The tag that it had.
    pub old: Tag,
    /// Its second tag.
    pub new: Tag,
    /// The folder of the second tag.
    #[serde(serialize_with = "crate::json::path")]
    pub path: PathBuf,
}

/// Gives a snapshot a second tag. The two share their files on the disk; removing one leaves the other whole.
///
/// # Errors
/// [`Kind::NotFound`], [`Kind::General`] where the new tag is taken by other bytes.
pub fn retag(store: &Store, old: &Tag, new: &Tag, env: Env<'_>) -> Result<RetagReport> {
    if old == new {
        return Err(Error::new(Kind::Usage, format!("'{old}' has that tag already")));
    }
    store.load(old)?;
    // In the order of the tags, as everyone who locks several.
    let mut wanted = [(old, LockKind::Shared), (new, LockKind::Exclusive)];
    wanted.sort_by_key(|(tag, _)| *tag);
    let _locks = [store.lock(wanted[0].0, wanted[0].1, env)?, store.lock(wanted[1].0, wanted[1].1, env)?];
    let stored = store.load(old)?;
    store.require_free(new)?;
    let staging = store.stage(env)?;
    let staged = StagedSnapshot::create(&staging, "tag", new)?;
    staged.link_bodies(&stored)?;
    let sealed = staged.seal(&stored.snapshot, RootfsPath::As(&stored), stored.record.clone())?;
    Ok(RetagReport { old: old.clone(), new: new.clone(), path: sealed.publish()? })
}
