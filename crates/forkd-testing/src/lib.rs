//! For tests, the demo and benchmarks only.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test support: a failure here is a failed test")]

mod framed;
mod hub;
mod packs;
mod snapshots;

pub use framed::{Frame, Framed, FramedFile, Run, leb, plan, zstd_part, zstd_part_after};
pub use hub::{Asked, Hub, SIGNATURE};
pub use packs::{Entries, Entry, chain_entries, digest, entries, manifest, tar_of, zst};
pub use snapshots::{Fixture, chain, fixture, fixtures_dir, frozen_chain, pseudo_random, sha256, tree};

/// How often to try something at random: so often in the ordinary tests, so often where `FORKD_DEEP` is set.
#[must_use]
pub fn often(ordinary: usize, deep: usize) -> usize {
    if std::env::var_os("FORKD_DEEP").is_some() { deep } else { ordinary }
}
