//! The one fork before anyone sees a tag.

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::machine::engine::{Access, Engine, Files, Limits};
use crate::machine::guest::Guest;
use crate::machine::recording::Recording;
use crate::machine::run_dir::Runtime;
use crate::machine::session::{explain, greet, wake, with_console};
use crate::store::stored::StoredSnapshot;
use forkd_format::NeededRun;
use forkd_format::manifest::ROOTFS;
use std::path::Path;
use std::time::{Duration, Instant};

/// The child in which a snapshot is tried.
pub struct Trial<'a> {
    /// Its agent.
    pub guest: &'a mut Guest,
    recording: Option<&'a Recording>,
}

impl<'a> Trial<'a> {
    pub(crate) fn new(guest: &'a mut Guest, recording: Option<&'a Recording>) -> Self {
        Self { guest, recording }
    }

    /// What the child reads from now on is not part of the snapshot's working set.
    pub fn stop_recording(&self) {
        if let Some(recording) = self.recording {
            recording.stop();
        }
    }
}

/// What a trial found.
pub(crate) struct TrialResult {
    /// Until it was awake.
    pub(crate) time: Duration,
    /// What it read, where that could be recorded.
    pub(crate) working_set: Vec<NeededRun>,
}

/// Forks a snapshot once, before anyone can see it.
pub(crate) fn prove(
    engine: &dyn Engine,
    runtime: &Runtime,
    sealed: &StoredSnapshot,
    memory: &Path,
    env: Env<'_>,
    trial: &mut dyn FnMut(&mut Trial<'_>) -> Result<()>,
) -> Result<TrialResult> {
    engine.check(&sealed.snapshot)?;
    let mut files = Files {
        memory: memory.to_owned(),
        rootfs: sealed.dir.join(ROOTFS),
        access: Access::Private,
        lease: None,
    };
    let recording = match runtime.mounter().map(|mounter| Recording::new(mounter, memory, &files.rootfs)) {
        Some(Err(error)) if error.kind() != Kind::Incompatible => return Err(error),
        // Without it the snapshot is as good, and is read as a whole.
        recording => recording.and_then(Result::ok),
    };
    if let Some(recording) = &recording {
        files = recording.files();
    }
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
    let time = begun.elapsed();
    let mut tried = Trial::new(&mut guest, recording.as_ref());
    trial(&mut tried).map_err(|e| explain(e, vm.as_mut(), &run))?;
    Ok(TrialResult { time, working_set: recording.map(|recording| recording.runs()).unwrap_or_default() })
}
