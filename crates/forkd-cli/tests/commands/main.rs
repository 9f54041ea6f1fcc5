//! The commands as a user sees them, a file each. Those on machines are in `../machines/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod common;
mod df;
mod discover;
mod errors;
mod gc;
mod images;
mod inspect;
mod lock;
mod pack;
mod publish;
mod pull;
mod push;
mod quickstart;
mod rmi;
mod shell;
mod snapshot_compact;
mod snapshot_info;
mod tag;
mod unpack;
mod verify;
