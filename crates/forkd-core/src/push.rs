use crate::env::Env;
use crate::error::Result;
use crate::hub::remote::{Location, PartUrls, Remote};
use crate::pack::options::{PackOptions, PackReport};
use crate::pack::pack_into;
use crate::store::root::Store;
use crate::store::work_file::WorkFile;
use forkd_format::{PackId, Tag};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

const PREFIX: &str = "forkd-push-";

/// What was pushed.
#[derive(Debug, Clone, Serialize)]
pub struct PushReport {
    /// The head of the chain.
    pub tag: Tag,
    /// Where it went.
    pub url: Location,
    /// What names the pack.
    #[serde(flatten)]
    pub id: PackId,
    /// The pack's size in bytes.
    #[serde(rename = "size_bytes")]
    pub size: u64,
    /// The size of what is in it, in bytes.
    #[serde(rename = "unpacked_bytes")]
    pub unpacked_size: u64,
    #[serde(rename = "pack_seconds", serialize_with = "crate::json::seconds")]
    pub pack_time: Duration,
    #[serde(rename = "upload_seconds", serialize_with = "crate::json::seconds")]
    pub upload_time: Duration,
}

/// Where a pack is uploaded.
#[derive(Debug, Clone)]
pub enum PushTarget {
    /// With one PUT.
    Whole(Location),
    /// In parts.
    Parts(PartUrls),
}

impl PushTarget {
    fn location(&self) -> &Location {
        match self {
            Self::Whole(location) => location,
            Self::Parts(urls) => &urls.complete,
        }
    }
}

/// Packs into a temporary file in `temp` and uploads it, where there is somebody who may take it. The file is removed however this
/// ends; what a killed push left there is removed by the next. `packed` is told when the pack is made.
///
/// # Errors
/// As [`crate::pack()`] and [`Remote::put`].
pub fn push(
    store: &Store,
    remote: &dyn Remote,
    options: &PackOptions,
    target: &PushTarget,
    temp: &Path,
    env: Env<'_>,
    packed: &mut dyn FnMut(&PackReport),
) -> Result<PushReport> {
    let location = target.location();
    if let PushTarget::Whole(location) = target {
        remote.ask_to_put(location, env.cancel)?;
    }
    let suffix = format!("-{}.tar.zst", options.tag);
    let file = WorkFile::create(store.disk(), temp, (PREFIX, &suffix), 0o600)?;
    let pack = pack_into(store, options, file.file(), file.path(), env)?;
    packed(&pack);
    env.cancel.check()?;
    let begun = Instant::now();
    env.progress.start("pushing", Some(pack.size));
    let outcome = match target {
        PushTarget::Whole(location) => remote.put(location, file.path(), env.progress, env.cancel),
        PushTarget::Parts(urls) => remote.put_parts(urls, file.path(), env.progress, env.cancel),
    };
    env.progress.finish();
    outcome?;
    Ok(PushReport {
        tag: pack.tag,
        url: location.clone(),
        id: pack.id,
        size: pack.size,
        unpacked_size: pack.unpacked_size,
        pack_time: pack.time,
        upload_time: begun.elapsed(),
    })
}

/// Where [`push`] puts its temporary pack.
#[must_use]
pub fn temp_path(temp: &Path, options: &PackOptions) -> std::path::PathBuf {
    temp.join(format!("{PREFIX}{}-{}.tar.zst", std::process::id(), options.tag))
}
