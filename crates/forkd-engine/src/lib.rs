//! Virtual machines behind `forkd_core::machine::Engine`: QEMU, and the kernel and initramfs that they boot. The recipe and its
//! reasons are in docs/engine.md.
#![forbid(unsafe_code)]

mod agent;
mod cgroup;
mod initramfs;
mod kernel;
mod platform;
mod probe;
mod process;
mod qemu;
mod qmp;
mod vm;
mod vmlinux;

pub use agent::AGENT;
pub use cgroup::memory_limits;
pub use initramfs::initramfs;
pub use kernel::Kernel;
pub use platform::open_kvm;
pub use probe::KvmRefusal;
pub use qemu::Qemu;
