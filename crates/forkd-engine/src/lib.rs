//! Virtual machines behind `forkd_core::engine::Engine`: QEMU. The recipe and its reasons are in docs/engine.md.
#![forbid(unsafe_code)]

mod channel;
mod process;
mod qemu;
mod qmp;

pub use qemu::Qemu;
