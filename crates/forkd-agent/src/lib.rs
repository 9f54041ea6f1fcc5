//! What host and guest say to each other (docs/agent.md). The program that speaks it inside the guest is `main.rs` beside this.
#![forbid(unsafe_code)]

pub mod fields;
pub mod image_settings;
pub mod message;
pub mod wire;
