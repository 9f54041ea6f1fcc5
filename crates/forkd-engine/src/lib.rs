//! Virtual machines behind `forkd_core::machine::Engine`: QEMU, and the kernel and initramfs that they boot. The recipe and its
//! reasons are in docs/engine.md.
#![forbid(unsafe_code)]

mod cgroup;
mod initramfs;
mod kernel;
mod probe;
mod process;
mod qemu;
mod qmp;
mod vm;
mod vmlinux;

pub use cgroup::memory_limits;
pub use initramfs::initramfs;
pub use kernel::Kernel;
pub use qemu::Qemu;

/// The program that is PID 1 in every guest; static, for x86-64.
pub const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/forkd-agent"));
