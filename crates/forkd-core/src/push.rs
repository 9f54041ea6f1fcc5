use crate::env::Env;
use crate::error::Result;
use crate::hub::remote::{Location, Remote};
use crate::pack::options::{PackOptions, PackReport};
use crate::pack::pack_into;
use crate::store::root::Store;
use crate::store::work_file::WorkFile;
use std::path::Path;
use std::time::{Duration, Instant};

const PREFIX: &str = "forkd-push-";

/// What was pushed.
#[derive(Debug, Clone)]
pub struct PushReport {
    /// The temporary pack, which is gone again.
    pub pack: PackReport,
    /// Time for packing.
    pub pack_time: Duration,
    /// Time for uploading.
    pub upload_time: Duration,
}

/// Packs into a temporary file in `temp` and uploads it. The file is removed however this ends; what a killed push left there is
/// removed by the next. `packed` is told when the pack is made.
///
/// # Errors
/// As [`crate::pack()`] and [`Remote::put`].
pub fn push(
    store: &Store,
    remote: &dyn Remote,
    options: &PackOptions,
    location: &Location,
    temp: &Path,
    env: Env<'_>,
    packed: &mut dyn FnMut(&PackReport, Duration),
) -> Result<PushReport> {
    let suffix = format!("-{}.tar.zst", options.tag);
    let file = WorkFile::create(store.disk(), temp, (PREFIX, &suffix), 0o600)?;
    let begun = Instant::now();
    let pack = pack_into(store, options, file.file(), file.path(), env)?;
    let pack_time = begun.elapsed();
    packed(&pack, pack_time);
    env.cancel.check()?;
    let begun = Instant::now();
    env.progress.start("pushing", Some(pack.size));
    let outcome = remote.put(location, file.path(), env.progress, env.cancel);
    env.progress.finish();
    outcome?;
    Ok(PushReport { pack, pack_time, upload_time: begun.elapsed() })
}

/// Where [`push`] puts its temporary pack.
#[must_use]
pub fn temp_path(temp: &Path, options: &PackOptions) -> std::path::PathBuf {
    temp.join(format!("{PREFIX}{}-{}.tar.zst", std::process::id(), options.tag))
}
