//! The agent: PID 1 of a guest.
#![forbid(unsafe_code)]

fn main() {}
