//! The port to virtual machines: an engine implements it, `bake` and `fork` use it.

use crate::store::Stored;
use crate::{Env, Result};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A machine to boot and freeze.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initial RAM filesystem.
    pub initrd: Option<PathBuf>,
    /// The root disk; it is copied, never written.
    pub rootfs: PathBuf,
    /// Guest memory in MiB.
    pub memory_mib: u64,
    /// How long the guest may take until it answers.
    pub boot_wait: Duration,
}

/// A child that answered.
#[derive(Debug, Clone)]
pub struct Child {
    /// Its number, from 1.
    pub number: usize,
    /// What it answered.
    pub answer: String,
    /// From the start of its process to its answer.
    pub time: Duration,
}

/// Runs virtual machines.
pub trait Engine: Send + Sync {
    /// Boots a machine, waits until the guest answers, freezes it, and leaves `vmstate`, `memory.bin` and `rootfs.ext4` in a
    /// folder. Gives the fields of `snapshot.json` that a restore needs.
    ///
    /// # Errors
    /// Where the machine does not start or the guest does not answer in time.
    fn bake(&self, machine: &Machine, into: &Path, env: Env<'_>) -> Result<Map<String, Value>>;

    /// Says whether this host can restore a snapshot, without touching its memory.
    ///
    /// # Errors
    /// [`crate::Kind::Incompatible`], naming the field, what the snapshot needs and what is here.
    fn check(&self, snapshot: &Stored) -> Result<()>;

    /// Starts children from a snapshot, copy-on-write, and waits until each has answered. `answered` is told each as it does.
    /// No child survives the call.
    ///
    /// # Errors
    /// Where a child does not start or answer.
    fn fork(
        &self,
        snapshot: &Stored,
        count: usize,
        env: Env<'_>,
        answered: &mut dyn FnMut(&Child),
    ) -> Result<()>;
}
