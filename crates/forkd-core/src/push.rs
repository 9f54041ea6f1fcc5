use crate::pack::{PackOptions, PackReport, pack_into};
use crate::remote::{Location, Remote};
use crate::{Env, Error, Result, Store};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

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
    sweep(temp, "forkd-push-");
    let path = temp_path(temp, options);
    let file = store.disk().create(&path, 0o600).map_err(Error::io("create", &path))?;
    let _removed = RemoveOnDrop(&path);
    forkd_sys::try_lock(&file, forkd_sys::LockKind::Exclusive).map_err(Error::io("lock", &path))?;
    let begun = Instant::now();
    let pack = pack_into(store, options, &file, &path, env)?;
    let pack_time = begun.elapsed();
    packed(&pack, pack_time);
    env.cancel.check()?;
    let begun = Instant::now();
    env.progress.start("pushing", Some(pack.size));
    let outcome = remote.put(location, &path, env.progress, env.cancel);
    env.progress.finish();
    outcome?;
    Ok(PushReport { pack, pack_time, upload_time: begun.elapsed() })
}

/// Where [`push`] puts its temporary pack.
#[must_use]
pub fn temp_path(temp: &Path, options: &PackOptions) -> std::path::PathBuf {
    temp.join(format!("forkd-push-{}-{}.tar.zst", std::process::id(), options.tag))
}

struct RemoveOnDrop<'a>(&'a Path);

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

/// Removes temporary packs whose owner is gone: those that nobody holds a lock on.
pub(crate) fn sweep(temp: &Path, prefix: &str) {
    for entry in fs::read_dir(temp).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(prefix));
        // A link is never followed: the folder may be one that all users share.
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let old = entry
            .metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|at| at.elapsed().unwrap_or_default() > Duration::from_secs(2));
        let Ok(file) = fs::File::open(entry.path()) else { continue };
        if old && forkd_sys::try_lock(&file, forkd_sys::LockKind::Exclusive).unwrap_or(false) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
