//! What every command is given.

use crate::output::Printer;
use crate::progress::Shown;
use forkd_app::{App, Settings};
use forkd_core::{Cancel, Env};
use forkd_format::PackFormat;

/// Does what a command line says, as if it were typed.
pub(crate) type LineRunner = fn(&[&str], &Context<'_>) -> anyhow::Result<()>;

/// Where a command prints, how it is stopped, and what the user said of all commands.
pub(crate) struct Context<'a> {
    pub(crate) output: &'a Printer,
    cancel: &'a Cancel,
    progress: Shown,
    jobs: usize,
    /// How many connections a pull may have, where the user says so.
    pub(crate) connections: Option<usize>,
    /// Does what a command line says, as if it were typed.
    pub(crate) run_line: LineRunner,
    /// The pack format that the user names.
    pub(crate) pack_format: Option<PackFormat>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(output: &'a Printer, cancel: &'a Cancel, jobs: usize, run_line: LineRunner) -> Self {
        let progress = Shown::new(output.is_quiet());
        Self { output, cancel, progress, jobs, connections: None, run_line, pack_format: None }
    }

    /// The same with another output.
    pub(crate) fn printing_to<'b>(&self, output: &'b Printer) -> Context<'b>
    where
        'a: 'b,
    {
        Context {
            output,
            cancel: self.cancel,
            progress: Shown::new(self.output.is_quiet()),
            jobs: self.jobs,
            connections: self.connections,
            run_line: self.run_line,
            pack_format: self.pack_format,
        }
    }

    /// All that can be done, told on our output.
    pub(crate) fn app<'b>(&'b self, settings: &'b Settings) -> App<'b> {
        App { settings, env: self.env(), narrator: self.output }
    }

    /// What operations are given.
    pub(crate) fn env(&self) -> Env<'_> {
        Env { progress: &self.progress, cancel: self.cancel, jobs: self.jobs }
    }
}
