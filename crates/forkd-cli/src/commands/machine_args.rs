//! What the commands that bake say of the machine.

use forkd_app::{AccelChoice, MachineRequest};
use forkd_core::machine::Accel;
use std::path::PathBuf;

/// What runs the guest's processor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AccelArg {
    /// KVM where a guest is seen to run on it, else TCG
    #[default]
    Auto,
    Kvm,
    Tcg,
}

/// The machine that is baked.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct MachineArgs {
    /// The kernel: a bzImage, or a vmlinux with a PVH entry [default: Debian's cloud kernel, from the cache or fetched]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// What runs the guest's processor; a snapshot made under one cannot go on under the other
    #[arg(long, value_enum, default_value_t = AccelArg::Auto)]
    accel: AccelArg,
}

impl MachineArgs {
    pub(crate) fn request(&self) -> MachineRequest {
        request(self.kernel.clone(), self.accel)
    }
}

/// A machine under an accelerator.
pub(crate) fn request(kernel: Option<PathBuf>, accel: AccelArg) -> MachineRequest {
    let accel = match accel {
        AccelArg::Auto => AccelChoice::Auto,
        AccelArg::Kvm => AccelChoice::Only(Accel::Kvm),
        AccelArg::Tcg => AccelChoice::Only(Accel::Tcg),
    };
    MachineRequest { kernel, accel }
}
