//! Where root disks come from: container images and Debian packages.
#![forbid(unsafe_code)]

mod debian;
mod disk;
mod ext4;
mod layer;
mod stream;
mod tar;
mod tree;

pub use debian::Debian;
pub use disk::{DiskOptions, DiskReport, ExtraFile, LayerSource, Open, build_disk};
