//! Virtual machines and what is done with them: booted, warmed, frozen, forked. Engines run them; agents in them answer.

pub(crate) mod bake;
pub(crate) mod diff;
pub(crate) mod engine;
pub(crate) mod fork;
pub(crate) mod frozen;
pub(crate) mod guest;
pub(crate) mod program;
pub(crate) mod record;
pub(crate) mod recording;
pub(crate) mod run_dir;
pub(crate) mod session;
pub(crate) mod set_up;
pub(crate) mod shell;
pub(crate) mod stopped;
pub(crate) mod trial;

pub use bake::{BakeOptions, BakeReport, bake};
pub use diff::{DiffOptions, DiffReport, snapshot_diff};
pub use engine::{Accel, Access, Engine, Files, Limits, Machine, Network, PORTS, Vm, connect, console, tail};
pub use fork::{Child, ForkOptions, check, fork};
pub use forkd_agent::message::{Exec, Exit, PROTOCOL};
pub use guest::Guest;
pub use program::{Control, Stream, Streams};
pub use record::{RecordReport, record};
pub use run_dir::{ALIVE, DetachedChild, RunDir, Runtime, is_held, kill};
pub use session::{greet, talk};
pub use set_up::{SetUpOptions, set_up};
pub use stopped::why_stopped;
pub use trial::Trial;
