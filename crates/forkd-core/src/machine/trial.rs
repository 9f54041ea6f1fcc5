//! The fork of a snapshot before anyone sees its tag, and for what it reads.

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::machine::engine::{Access, Engine, Files, Limits};
use crate::machine::guest::Guest;
use crate::machine::recording::Recording;
use crate::machine::run_dir::Runtime;
use crate::machine::session::{WAKE_LIMIT, explain, greet, wake, with_console};
use crate::store::stored::StoredSnapshot;
use forkd_format::NeededRun;
use forkd_format::manifest::ROOTFS;
use std::path::Path;
use std::time::{Duration, Instant};

/// A recording is rehearsed until two children in a row have read nothing new, and no more often than this.
const REHEARSALS: usize = 6;

/// After so long no other one begins.
const REHEARSAL_TIME: Duration = Duration::from_secs(10);

/// How long a child goes on after its answer: it reads a little as its caller leaves, and a machine that waits for that ends late.
const LINGER: Duration = Duration::from_millis(50);

/// The child in which a snapshot is tried.
pub struct Trial<'a> {
    /// Its agent.
    pub guest: &'a mut Guest,
    recording: Option<&'a Recording<'a>>,
}

impl Trial<'_> {
    /// What the child reads from now on is not part of the snapshot's working set.
    pub fn stop_recording(&self) {
        if let Some(recording) = self.recording {
            recording.stop();
        }
    }

    /// Whether the work was done before, and is done again for what a child reads whose pages come late: what it says is known, and what
    /// follows [`Trial::stop_recording`] is of no use.
    #[must_use]
    pub fn is_rehearsal(&self) -> bool {
        self.recording.is_some_and(Recording::is_rehearsal)
    }
}

/// What is done in a child.
pub(crate) type Work<'a> = dyn FnMut(&mut Trial<'_>) -> Result<()> + 'a;

/// A snapshot that is forked once, or a few times.
pub(crate) struct TrialFork<'a> {
    pub(crate) engine: &'a dyn Engine,
    pub(crate) runtime: &'a Runtime,
    pub(crate) stored: &'a StoredSnapshot,
    pub(crate) files: Files,
    pub(crate) env: Env<'a>,
}

impl<'a> TrialFork<'a> {
    /// Of a snapshot that nobody sees yet.
    pub(crate) fn of_staged(
        (engine, runtime): (&'a dyn Engine, &'a Runtime),
        sealed: &'a StoredSnapshot,
        memory: &Path,
        env: Env<'a>,
    ) -> Result<Self> {
        engine.check(&sealed.snapshot)?;
        let (memory, rootfs) = (memory.to_owned(), sealed.dir.join(ROOTFS));
        let files = Files { memory, rootfs, access: Access::Private, lease: None };
        Ok(Self { engine, runtime, stored: sealed, files, env })
    }

    /// Does the work in a child; how long it took until that was awake.
    pub(crate) fn run(&self, work: &mut Work<'_>) -> Result<Duration> {
        self.child(&self.files, work, None)
    }

    /// The files, shown so that what is read of them is noted.
    ///
    /// # Errors
    /// [`Kind::Incompatible`] where this host cannot show files.
    pub(crate) fn recording(&self) -> Result<Recording<'a>> {
        let mounter = self
            .runtime
            .mounter()
            .ok_or_else(|| Error::new(Kind::Incompatible, "nothing here can show files as they are read"))?;
        Recording::new(mounter, &self.files)
    }

    /// The same, with what the child read, in its order; then again in children that have to wait for what none of them has read so far.
    ///
    pub(crate) fn record(
        &self,
        recording: &Recording<'_>,
        work: &mut Work<'_>,
    ) -> Result<(Duration, Vec<NeededRun>)> {
        let time = self.child(&recording.files(), work, Some(recording))?;
        let (begun, mut nothing_new) = (Instant::now(), 0);
        for _ in 0..REHEARSALS {
            let known = recording.pages();
            if begun.elapsed() > REHEARSAL_TIME {
                break;
            }
            let Ok(rehearsal) = recording.rehearsal() else { break };
            match self.child(&rehearsal.files(), work, Some(&rehearsal)) {
                Err(error) if error.kind() == Kind::Interrupted => return Err(error),
                // What was recorded so far is good; work that must be done in time may fail where pages come late.
                Err(_) => break,
                Ok(_) if recording.pages() > known => nothing_new = 0,
                Ok(_) if nothing_new > 0 => break,
                Ok(_) => nothing_new += 1,
            }
        }
        Ok((time, recording.runs()))
    }

    fn child(
        &self,
        files: &Files,
        work: &mut Work<'_>,
        recording: Option<&Recording<'_>>,
    ) -> Result<Duration> {
        let begun = Instant::now();
        let run = self.runtime.create(self.engine)?;
        let mut vm = self.engine.restore(self.stored, files, Limits::default(), run.path())?;
        let failed = |e: Error| match e.kind() {
            Kind::Interrupted => e,
            kind => Error::new(kind, format!("the snapshot does not restore: {e}")),
        };
        vm.resume(self.env).map_err(|e| failed(with_console(e, &run)))?;
        let mut guest = greet(vm.as_mut(), &run, WAKE_LIMIT, self.env).map_err(failed)?;
        wake(&mut guest, &run.id, false).map_err(|e| failed(explain(e, vm.as_mut(), &run)))?;
        let time = begun.elapsed();
        let mut trial = Trial { guest: &mut guest, recording };
        work(&mut trial).map_err(|e| explain(e, vm.as_mut(), &run))?;
        if trial.is_rehearsal() {
            drop(guest);
            std::thread::sleep(LINGER);
        }
        Ok(time)
    }
}
