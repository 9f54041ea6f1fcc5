//! For tests, the demo and benchmarks only.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test support: a failure here is a failed test")]

mod hub;
mod pack_parts;
mod packs;
mod random;
mod servers;
mod snapshots;

pub use hub::{LoggedRequest, SIGNATURE, TestHub};
pub use pack_parts::{FileParts, FrameParts, PackParts, PlanRun, leb, plan, zstd_part, zstd_part_after};
pub use packs::{Entries, TarEntry, chain_entries, digest, entries, manifest, tar_of, zst};
pub use random::{often, pseudo_random};
pub use servers::{DockerRegistry, FaultProxy, SeaweedFs, TokenServer};
pub use snapshots::{Fixture, chain, fixture, fixtures_dir, frozen_chain, sha256, tree};
