//! Snapshots that are forked before all of them is here: *arriving*. One process fetches and serves each (`server.rs`); whoever forks it
//! holds a lease (`lease.rs`) for as long as a child lives.

pub(crate) mod arriving;
pub(crate) mod begin;
pub(crate) mod guard;
pub(crate) mod lease;
pub(crate) mod note;
pub(crate) mod protocol;
pub(crate) mod server;
pub(crate) mod shown;

pub use arriving::ArrivalReader;
pub use begin::Arrivals;
pub use guard::guard;
pub use lease::Lease;
pub use note::{ArrivingSnapshot, arriving, stop};
pub use server::{ArrivalPorts, ArrivalServer};
