//! Hubs: where packs lie and what they are listed under. Transports carry the bytes.

pub(crate) mod offer;
pub(crate) mod registry;
pub(crate) mod remote;

pub use registry::{Target, resolve};
pub use remote::{Answer, Download, Location, Remote, Request, Validator};
