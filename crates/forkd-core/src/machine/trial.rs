//! The one fork before anyone sees a tag.

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::machine::engine::{Engine, Files, Limits};
use crate::machine::guest::Guest;
use crate::machine::run_dir::Runtime;
use crate::machine::session::{explain, greet, wake, with_console};
use crate::store::stored::StoredSnapshot;
use forkd_format::manifest::ROOTFS;
use std::path::Path;
use std::time::{Duration, Instant};

/// Forks a snapshot once, before anyone can see it.
pub(crate) fn prove(
    engine: &dyn Engine,
    runtime: &Runtime,
    sealed: &StoredSnapshot,
    memory: &Path,
    env: Env<'_>,
    trial: &mut dyn FnMut(&mut Guest) -> Result<()>,
) -> Result<Duration> {
    engine.check(&sealed.snapshot)?;
    let files = Files { memory: memory.to_owned(), rootfs: sealed.dir.join(ROOTFS), shared: false };
    let begun = Instant::now();
    let run = runtime.create(engine)?;
    let mut vm = engine.restore(sealed, &files, Limits::default(), run.path())?;
    let failed = |e: Error| match e.kind() {
        Kind::Interrupted => e,
        kind => Error::new(kind, format!("the snapshot does not restore: {e}")),
    };
    vm.resume(env).map_err(|e| failed(with_console(e, &run)))?;
    let mut guest = greet(vm.as_mut(), &run, crate::machine::session::WAKE_LIMIT, env).map_err(failed)?;
    wake(&mut guest, &run.id, false).map_err(|e| failed(explain(e, vm.as_mut(), &run)))?;
    let awake = begun.elapsed();
    trial(&mut guest).map_err(|e| explain(e, vm.as_mut(), &run))?;
    Ok(awake)
}
