//! Where root disks come from: container images, found in a registry, a folder or an archive and fetched into the cache, and Debian
//! packages. Nothing here prints, reads the environment or knows a home folder.
#![forbid(unsafe_code)]

mod archive;
mod challenge;
mod config;
mod credentials;
mod debian;
mod disk;
mod ext4;
mod fetch;
mod http;
mod layer;
mod layer_source;
mod layout;
mod manifest;
mod platform;
mod reference;
mod registry;
mod source;
mod stream;
mod tar;
mod tarball;
mod tree;

pub use config::ImageConfig;
pub use credentials::CredentialFiles;
pub use debian::Debian;
pub use disk::{DiskOptions, DiskReport, ExtraFile, LayerSource, Open, build_disk};
pub use http::HttpOptions;
pub use layer_source::Layer;
pub use platform::Platform;
pub use reference::{ArchiveImage, ImageSource, RegistryReference};
pub use source::{FetchReport, Image, Resolved, Sources};

/// What is parsed from strangers, for the fuzzer only.
#[doc(hidden)]
pub mod fuzz {
    pub use crate::archive::fuzz as archive;
    pub use crate::challenge::parse as challenges;
    pub use crate::config::ImageConfig;
    pub use crate::manifest::parse as manifest;
}

/// A stranger's words, made fit for a message.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(200).flat_map(char::escape_debug).collect();
    if text.chars().nth(200).is_some() {
        shown.push('…');
    }
    shown
}
