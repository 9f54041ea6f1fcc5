//! Where root disks come from: container images, found in a registry, a folder or an archive and fetched into the cache, and Debian
//! packages. Nothing here prints, reads the environment or knows a home folder.
#![forbid(unsafe_code)]

mod archive;
mod config;
mod debian;
mod disk;
mod ext4;
mod fetch;
mod layer;
mod layer_source;
mod layout;
mod manifest;
mod platform;
mod reference;
mod source;
mod sparse_map;
mod stream;
mod tar;
mod tar_numbers;
mod tarball;
mod tree;

pub use config::ImageConfig;
pub use debian::Debian;
pub use disk::{DiskOptions, DiskReport, ExtraFile, build_disk};
pub use fetch::FetchReport;
pub use forkd_http::HttpOptions;
pub use forkd_registry::{CredentialFiles, RegistryOptions, RegistryReference};
pub use layer_source::{Layer, LayerSource, Open};
pub use platform::Platform;
pub use reference::{ArchiveImage, ImageSource};
pub use source::{Image, Resolved, Sources};

/// What is parsed from strangers, for the fuzzer only.
#[doc(hidden)]
pub mod fuzz {
    pub use crate::archive::fuzz as archive;
    pub use crate::config::ImageConfig;
    pub use crate::manifest::parse as manifest;
    pub use forkd_http::challenge::parse as challenges;
}
