//! The local store and the operations on it. Each operation takes options and gives back a report; nothing here prints,
//! reads the environment or knows a home folder. Transports, machines and progress are traits that others fill.
#![forbid(unsafe_code)]

mod bake;
mod blocks;
mod buffers;
mod chain;
mod check;
mod diff;
mod env;
mod error;
mod fork;
mod frames;
mod images;
mod inspect;
mod lanes;
mod local;
mod pack;
mod pull;
mod push;
mod receive;
mod remove;
mod retag;
mod set_up;
mod sparse;
mod tree;
mod unpack;
mod usage;
mod v3;
mod verify;

pub mod cache;
pub mod engine;
pub mod guest;
#[doc(hidden)]
pub mod measure;
pub mod remote;
pub mod runtime;
pub mod store;

pub use bake::{BakeOptions, BakeReport, bake, greet};
pub use chain::{ChainInfo, EngineFields, LinkInfo, chain_info, compact};
pub use diff::{DiffOptions, DiffReport, snapshot_diff};
pub use env::{Cancel, Env, Progress, Silent};
pub use error::{Error, Kind, Result};
pub use fork::{ForkOptions, Forked, check, fork, talk};
pub use forkd_agent::message::{Exec, Exit, PROTOCOL};
pub use images::{Image, images};
pub use inspect::{FileFacts, FrameFacts, FramedFacts, Inspection, LinkFacts, inspect_file, inspect_tag};
pub use pack::{PackOptions, PackReport, pack};
pub use pull::{PullOptions, PullPlan, PullReport, Target, plan_pull, pull, resolve};
pub use push::{PushReport, push, temp_path};
pub use remove::{Dependents, RemoveReport, remove};
pub use retag::retag;
pub use set_up::{SetUpOptions, set_up};
pub use store::Store;
pub use unpack::{Examine, LinkReport, Outcome, UnpackOptions, UnpackReport, unpack_file};
pub use usage::{Usage, Used, usage};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use v3::fuzz_frame;
pub use verify::{Damage, VerifyReport, verify_file, verify_tag};
