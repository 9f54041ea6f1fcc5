//! The port to whoever hears how the work goes.

use crate::bake_summary::BakeSummary;
use forkd_core::machine::{Accel, Stream};
use forkd_format::{Digest, Tag};
use forkd_image::{DiskReport, FetchReport};
use std::time::Duration;

/// Hears how the work goes: what was begun, what is done, and what programs print meanwhile.
pub trait Narrator: Sync {
    /// A step was begun or is done.
    fn tell(&self, event: &Event<'_>);

    /// A line that a program printed, without its end, perhaps not UTF-8. Lines longer than 64 KiB come in pieces.
    fn hear(&self, speaker: Speaker, stream: Stream, line: &[u8]);
}

/// Whose program printed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// The host's: a package manager that makes a root disk.
    Host,
    /// That of a guest that is being made.
    Guest,
    /// That of a child, by its number.
    Child(usize),
}

/// A step of the work.
#[derive(Debug)]
pub enum Event<'a> {
    ImageFound {
        reference: &'a str,
        /// That of its manifest.
        digest: &'a Digest,
    },
    /// All layers of an image are here.
    LayersHere {
        layers: usize,
        /// What had to come.
        fetch: FetchReport,
    },
    /// Packages are being installed on this host's Debian.
    InstallBegun {
        /// How many were asked for.
        packages: usize,
        /// Debian's name.
        release: &'a str,
    },
    InstallDone(Duration),
    /// A root disk was made before and is used.
    DiskFound,
    /// A root disk was made.
    DiskMade(DiskReport),
    /// A guest with a network begins to change its root disk.
    SetUpBegun,
    SetUpDone(Duration),
    /// A machine is being booted, warmed and frozen.
    BakeBegun {
        tag: &'a Tag,
        /// Guest memory in bytes.
        memory: u64,
        /// What runs its processor.
        accel: Accel,
    },
    /// A test of a recipe passed in the trial fork.
    TestPassed {
        /// From 1.
        number: usize,
        test: &'a str,
        time: Duration,
    },
    /// The snapshot is in the store.
    BakeDone(&'a BakeSummary),
    /// A link is being baked on top of a snapshot.
    DiffBegun {
        tag: &'a Tag,
        from: &'a Tag,
    },
    /// A child is awake and has nothing to do.
    ChildReady {
        /// From 1.
        number: usize,
        id: &'a str,
        /// From the start of its process.
        time: Duration,
    },
    /// A child's eval endpoint has answered.
    ChildAnswered {
        /// From 1.
        number: usize,
        /// In its own words.
        answer: &'a str,
        /// From the start of its process.
        time: Duration,
    },
    /// A child's program has ended.
    ChildEnded {
        /// From 1.
        number: usize,
        /// As a shell has it.
        exit_code: u8,
        /// Whether it was killed at its time limit.
        timed_out: bool,
        /// From the start of its process.
        time: Duration,
    },
}
