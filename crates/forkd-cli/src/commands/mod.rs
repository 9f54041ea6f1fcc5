//! One file a command.

pub(crate) mod bake;
pub(crate) mod cp;
pub(crate) mod df;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod exec;
pub(crate) mod fork;
pub(crate) mod from_image;
pub(crate) mod gc;
pub(crate) mod images;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod logs;
pub(crate) mod ls;
pub(crate) mod pack;
pub(crate) mod ping;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod quickstart;
pub(crate) mod rmi;
pub(crate) mod snapshot;
pub(crate) mod snapshot_compact;
pub(crate) mod snapshot_diff;
pub(crate) mod snapshot_info;
pub(crate) mod tag;
pub(crate) mod unpack;
pub(crate) mod verify;

use crate::output::Output;
use crate::progress::Shown;
use forkd_core::{Cancel, Env};

/// What every command is given.
pub(crate) struct Context<'a> {
    pub(crate) output: &'a Output,
    cancel: &'a Cancel,
    progress: Shown,
    jobs: usize,
    /// How many connections a pull may have, where the user says so.
    pub(crate) connections: Option<usize>,
    /// The pack format that the user names.
    pub(crate) pack_format: Option<forkd_format::PackFormat>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(output: &'a Output, cancel: &'a Cancel, jobs: usize) -> Self {
        let progress = Shown::new(output.is_quiet());
        Self { output, cancel, progress, jobs, connections: None, pack_format: None }
    }

    /// The same with another output.
    pub(crate) fn printing_to<'b>(&self, output: &'b Output) -> Context<'b>
    where
        'a: 'b,
    {
        Context {
            output,
            cancel: self.cancel,
            progress: Shown::new(self.output.is_quiet()),
            jobs: self.jobs,
            connections: self.connections,
            pack_format: self.pack_format,
        }
    }

    /// What operations are given.
    pub(crate) fn env(&self) -> Env<'_> {
        Env { progress: &self.progress, cancel: self.cancel, jobs: self.jobs }
    }
}
