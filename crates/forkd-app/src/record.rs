//! Recording anew what a fork needs first.

use crate::app::App;
use crate::fork::ChildWork;
use crate::guest_eval::eval;
use crate::machines::Machines;
use forkd_core::machine::{self, Exec, RecordReport, Streams, Trial};
use forkd_core::{Error, Kind, Result};
use forkd_format::Tag;
use std::time::Duration;

/// What to record, and of which work.
#[derive(Debug, Clone)]
pub struct RecordRequest {
    pub tag: Tag,
    pub work: ChildWork,
    /// For the work.
    pub time_limit: Option<Duration>,
}

impl App<'_> {
    /// Forks a snapshot a few times, does the work in the children, and keeps what they read until then as the snapshot's working set.
    ///
    /// # Errors
    /// As [`machine::record`], and where the work fails: then the snapshot is as it was.
    pub fn record(&self, request: &RecordRequest) -> Result<RecordReport> {
        let settings = self.settings;
        settings.store.load(&request.tag)?;
        let machines = Machines::open(settings.search_path.as_deref(), &settings.runtime_dir)?;
        let (engine, runtime) = (&machines.engine, &machines.runtime);
        machine::record(&settings.store, engine, runtime, &request.tag, self.env, &mut |trial| match &request
            .work
        {
            ChildWork::None => Ok(()),
            ChildWork::Eval(expression) => eval(trial.guest, expression, request.time_limit).map(drop),
            ChildWork::Program(argv) => self.recorded_program(argv, request.time_limit, trial),
        })
    }

    fn recorded_program(
        &self,
        argv: &[String],
        limit: Option<Duration>,
        trial: &mut Trial<'_>,
    ) -> Result<()> {
        let limit_ms = limit.map_or(0, |limit| limit.as_millis() as u64);
        let exec = Exec { argv: argv.to_vec(), limit_ms, ..Exec::default() };
        let is_rehearsal = trial.is_rehearsal();
        let exit = self.hearing_guest(|output| {
            let mut heard = |stream, bytes: &[u8]| if is_rehearsal { Ok(()) } else { output(stream, bytes) };
            let output = &mut heard;
            trial.guest.exec(&exec, &mut Streams { input: None, output, controls: None })
        })?;
        match (exit.timed_out, exit.shell_code()) {
            (false, 0) => Ok(()),
            (true, _) => Err(Error::new(
                Kind::General,
                "the command was ended at the time limit; nothing was recorded",
            )),
            (false, code) => {
                let message = format!("the command ended with exit code {code}; nothing was recorded");
                Err(Error::new(Kind::General, message))
            }
        }
    }
}
